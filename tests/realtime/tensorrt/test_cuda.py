"""Finding the GPU, and every way in which there is none."""

import ast
import importlib
import inspect

import pytest

from polypstream.errors import BackendError, ConfigError, MissingExtraError, ProviderMissingError
from polypstream.realtime.tensorrt import cuda
from polypstream.realtime.tensorrt.cuda import Cuda, Resource, find_device
from tests.realtime.tensorrt.conftest import CUDA_MISSING
from tests.realtime.tensorrt.fakes import FakeCuda, cudaError_t


def test_a_gpu_is_described(fake_cuda: FakeCuda) -> None:
    device = find_device()
    assert (device.name, device.compute_capability) == ("Stand-in 4090", "sm89")
    with pytest.raises(ConfigError, match="no GPU 1; this machine has 1"):
        find_device(1)


def test_no_driver_an_old_one_and_no_gpu_are_told_apart(fake_cuda: FakeCuda) -> None:
    fake_cuda.count = 0
    with pytest.raises(BackendError, match="an NVIDIA driver but no GPU"):
        find_device()
    fake_cuda.fail["cudaGetDeviceCount"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(ProviderMissingError, match=r"no NVIDIA driver.*--backend onnxruntime"):
        find_device()
    fake_cuda.count = 1
    with pytest.raises(BackendError, match=r"knows CUDA 12\.8, and CUDA 13\.4 is installed; update the driver"):
        find_device()
    fake_cuda.fail["cudaGetDeviceCount"] = cudaError_t.cudaErrorNoDevice
    with pytest.raises(BackendError, match="CUDA_VISIBLE_DEVICES"):
        find_device()


def test_without_cuda_bindings_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"polypstream\[rtx\]"):
        find_device()


def test_a_resource_is_freed_once_and_the_first_error_stays() -> None:
    freed: list[int] = []
    with Resource(5, freed.append) as resource:
        assert int(resource) == 5
    resource.close()
    assert freed == [5]

    def fail(_handle: int) -> None:
        raise BackendError("freeing")

    with pytest.raises(ZeroDivisionError), Resource(5, fail):
        raise ZeroDivisionError
    with pytest.raises(BackendError, match="freeing"), Resource(5, fail):
        pass


def test_a_capture_that_fails_is_ended(fake_cuda: FakeCuda) -> None:
    on_gpu = Cuda(find_device())

    def fail() -> None:
        raise BackendError("no")

    with on_gpu.stream() as stream, pytest.raises(BackendError, match="no"):
        on_gpu.capture(stream, fail)
    assert fake_cuda.recording is None


def test_cuda_bindings_has_every_name_that_is_used() -> None:
    """All of CUDA is reached as `rt.` or `self._rt.` in one module."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason=CUDA_MISSING)
    used = _names_after_runtime(inspect.getsource(cuda))
    assert len(used) > 20
    assert {"cudaMalloc", "cudaMemcpyKind.cudaMemcpyHostToDevice"} <= used
    assert not {name for name in used if not _has(runtime, name)}
    assert not _has(runtime, "cudaNoSuchCall")
    known = {name for name in dir(FakeCuda) if name.startswith("cuda")}
    assert {name.split(".")[0] for name in used} <= known, "the stand-in answers to all of them"


def _names_after_runtime(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            path = ast.unparse(node).removeprefix("self._rt.").removeprefix("rt.")
            if ast.unparse(node) != path:
                names.add(path)
    return names


def _has(module: object, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True
