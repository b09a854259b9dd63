"""Detection of the GPU, all the reasons for not finding one, and cuda-core's own calls on a stub of the driver."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polypstream.errors import BackendError, ConfigError, MissingExtraError, ProviderMissingError
from polypstream.realtime.cuda import find_device, reported
from tests.realtime.inference.tensorrt.fakes import CUDAError, FakeCuda, cudaError_t

ROOT = Path(__file__).parents[4]


def test_a_gpu_is_described(fake_cuda: FakeCuda) -> None:
    device = find_device()
    assert (device.name, device.compute_capability) == ("Stand-in 4090", "sm89")
    with pytest.raises(ConfigError, match="no GPU 1; this machine has 1"):
        find_device(1)


def test_no_driver_an_old_one_and_no_gpu_are_distinguished(fake_cuda: FakeCuda) -> None:
    fake_cuda.count = 0
    with pytest.raises(BackendError, match="the NVIDIA driver sees no GPU"):
        find_device()
    fake_cuda.probe = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(ProviderMissingError, match=r"no NVIDIA driver.*the onnxruntime backend"):
        find_device()
    fake_cuda.count = 1
    with pytest.raises(BackendError, match=r"supports CUDA 12\.8, and CUDA 13\.4 is installed; update the driver"):
        find_device()
    fake_cuda.probe = cudaError_t.cudaErrorNoDevice
    with pytest.raises(BackendError, match="CUDA_VISIBLE_DEVICES"):
        find_device()
    fake_cuda.probe = cudaError_t.cudaErrorSystemDriverMismatch
    with pytest.raises(BackendError, match=r"finding a GPU failed: cudaErrorSystemDriverMismatch; .* restart it"):
        find_device()


def test_without_cuda_bindings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"\[rtx\]"):
        find_device()


def test_only_errors_of_cuda_are_reported_as_such() -> None:
    again = r"copying failed: CUDA_ERROR_X: why; start the program again"
    with pytest.raises(BackendError, match=again), reported("copying"):
        raise CUDAError("CUDA_ERROR_X:\n why")
    with pytest.raises(ZeroDivisionError), reported("copying"):
        raise ZeroDivisionError


RUN = """
import ctypes, sys
from pathlib import Path
import numpy as np
from polypstream.errors import BackendError
from polypstream.realtime.cuda import Device
from polypstream.realtime.inference.tensorrt.session import Session
from tests.realtime.inference.tensorrt.fakes import FakeCuda, fake_tensorrt, green_finder, expected, write_fake_engine

refused = set()
file = write_fake_engine(Path(sys.argv[1]))
device = Device(index=0, name="Stand-in 4090", compute_capability="sm89", memory_bytes=1)
trt = fake_tensorrt(green_finder(FakeCuda()), refuse=refused)
session = Session(file, trt=trt, device=device, cuda_graph=True)
pictures = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
for count in (1, 1, 1, 8):
    print("batch", count, flush=True)
    found = session.run(pictures[:count])[..., 0]
    assert np.allclose(found, expected(pictures[:count]), atol=1e-6)
print("a capture that fails", flush=True)
refused.add("execute_async_v3")
try:
    session.run(pictures)
except BackendError as error:
    assert "could not run" in str(error), error
assert "could not run" in session.graph_refusal
print("close", flush=True)
session.close()
"""


def test_cuda_core_asks_the_driver_for_what_is_meant(stub_driver: Path, tmp_path: Path) -> None:
    """The real cuda-core, with the stand-in for TensorRT, in a process with the stub of the driver."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install 'polypstream[rtx]'")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path)],
        env={**os.environ, "LD_LIBRARY_PATH": str(stub_driver)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0)
    image, probability = 64 * 64 * 3, 64 * 64 * 4
    copies = [f"copy {image}", f"copy {probability}", "wait"]
    assert done.stdout.splitlines() == [
        "stream, flags 1",
        *(f"allocate {8 * image}", f"allocate {8 * probability}", f"pin {8 * image}", f"pin {8 * probability}"),
        *("batch 1", *copies),
        *("batch 1", copies[0], "begin capture, mode 1", "end capture", "launch", *copies[1:]),
        *("batch 1", copies[0], "launch", *copies[1:]),
        *("batch 8", f"copy {8 * image}", "destroy graph", f"copy {8 * probability}", "wait"),
        *("a capture that fails", f"copy {8 * image}", "begin capture, mode 1", "end capture"),
        *("close", "wait", "wait", "unpin", "wait", "unpin", "free", "free", "destroy stream"),
    ]
