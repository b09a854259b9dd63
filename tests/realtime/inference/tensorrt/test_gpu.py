"""On a real GPU: streams, buffers, graphs, frames of other libraries, and engines against ONNX Runtime.

Most tests run twice: with the installed TensorRT, and with a stand-in for it whose network is a CUDA kernel, so that
everything but TensorRT itself is tried on GPUs that no installed TensorRT knows.
"""

import gc
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import BackendError, MissingExtraError, ModelError
from polypstream.realtime.cuda import Device, find_device, free_bytes, reported, select
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.inference.tensorrt import builder, cache, segmenter
from polypstream.realtime.inference.tensorrt.builder import BuildConfig, plan_build
from polypstream.realtime.inference.tensorrt.cache import engine_for, open_engine
from polypstream.realtime.inference.tensorrt.device_frame import device_frame
from polypstream.realtime.inference.tensorrt.engine_file import Target, sidecar_path
from polypstream.realtime.inference.tensorrt.segmenter import TensorRtSegmenter
from tests.models import SIZE, write_green_finder
from tests.realtime.inference.tensorrt.fakes import Network, expected, fake_tensorrt, write_fake_engine
from tests.realtime.inference.tensorrt.test_builder import changed, in_half, with_open_batch

pytestmark = pytest.mark.gpu

Pictures = Callable[[int], NDArray[np.uint8]]
KERNEL = """
extern "C" __global__ void find_green(const unsigned char* rgb, float* out, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) out[i] = 1.f / (1.f + expf(8.f - 0.2f * ((float)rgb[3 * i + 1] - (float)rgb[3 * i])));
}
"""
MIB = 1 << 20


class Make(Protocol):
    """A segmenter of the green finder, batches of 1 to 8."""

    def __call__(self, *, cuda_graph: bool = ...) -> TensorRtSegmenter: ...


@pytest.fixture(scope="session")
def device() -> Device:
    try:
        return find_device()
    except (BackendError, MissingExtraError) as error:
        pytest.skip(str(error))


@pytest.fixture
def real_trt(device: Device, green: Path) -> None:
    """Skips if no installed TensorRT builds for this GPU."""
    try:
        plan_build(green, BuildConfig())
    except (BackendError, MissingExtraError) as error:
        pytest.skip(str(error))


@pytest.fixture(params=["kernel", "tensorrt"])
def make(
    request: pytest.FixtureRequest, device: Device, green: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Make:
    if request.param == "tensorrt":
        request.getfixturevalue("real_trt")
        model = with_open_batch(green)
        return lambda *, cuda_graph=True: TensorRtSegmenter(model, folder=tmp_path / "engines", cuda_graph=cuda_graph)
    fake = fake_tensorrt(_kernel())
    for module in (builder, cache, segmenter):
        monkeypatch.setattr(module, "load_tensorrt", lambda flavor=None: fake)
    path = write_fake_engine(tmp_path / "engines", target=Target.of(device)).path
    return lambda *, cuda_graph=True: TensorRtSegmenter(path, cuda_graph=cuda_graph)


def _kernel() -> Network:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed, and the stand-in's kernel needs it")
    kernel = cupy.RawKernel(KERNEL, "find_green")

    def run(source: int, to: int, shape: tuple[int, ...], stream: int) -> None:
        count = int(np.prod(shape[:3]))
        with cupy.cuda.ExternalStream(stream):
            kernel((-(-count // 256),), (256,), (np.uintp(source), np.uintp(to), np.int32(count)))

    return run


def near(actual: NDArray[np.float32], pictures: NDArray[np.uint8]) -> bool:
    np.testing.assert_allclose(actual, expected(pictures), atol=1e-4)
    return True


def test_every_batch_and_back(make: Make, pictures: Pictures) -> None:
    with make() as opened:
        for count in (*range(1, 9), 8, 8, 1, 1, 1):
            batch = pictures(count)
            assert near(opened.segment_batch(batch), batch)
        (picture,) = pictures(1)
        assert near(opened.segment(picture), picture)
        with pytest.raises(BackendError, match="a batch of 9"):
            opened.segment_batch(pictures(9))


def test_with_and_without_a_graph_it_is_the_same(make: Make, pictures: Pictures) -> None:
    batch = pictures(20)
    with make(cuda_graph=True) as with_graph:
        replayed = [with_graph.segment(picture) for picture in batch]
        assert with_graph.graph_refusal is None
        assert with_graph.uses_graph
    with make(cuda_graph=False) as plain:
        np.testing.assert_array_equal(replayed, [plain.segment(picture) for picture in batch])
        assert not plain.uses_graph


def test_threads_with_a_segmenter_each(make: Make, pictures: Pictures) -> None:
    """Each captures its graph while the other allocates and runs."""
    wrong: list[object] = []

    def use(seed: int) -> None:
        try:
            for _ in range(3):
                with make() as opened:
                    for picture in pictures(30 + seed):
                        near(opened.segment(picture), picture)
                    if opened.graph_refusal:
                        wrong.append(opened.graph_refusal)
        except BaseException as error:  # noqa: BLE001 - reported by the test's thread
            wrong.append(error)

    make()  # builds the engine, where there is one to build
    threads = [threading.Thread(target=use, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_thousand_calls_leave_memory_as_it_was(make: Make, device: Device, pictures: Pictures) -> None:
    batch = pictures(8)
    with make() as opened:
        for count in (1, 1, 8, 8):
            opened.segment_batch(batch[:count])
        before, host_before = free_bytes(), _resident_bytes()
        for index in range(1000):
            opened.segment_batch(batch[: 1 + index % 8 if index % 50 == 0 else 1])
        gc.collect()
        assert before - free_bytes() < 8 * MIB
        assert _resident_bytes() - host_before < 32 * MIB


def test_opening_and_closing_leaves_memory_as_it_was(make: Make, device: Device, pictures: Pictures) -> None:
    (picture,) = pictures(1)
    one = make()
    frees = []
    for _ in range(30):
        with one:
            for _ in range(3):
                one.segment(picture)
        gc.collect()
        frees.append(free_bytes())
    assert max(frees[5:]) - frees[-1] < 8 * MIB


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.fixture(params=["torch", "cupy", "pycuda"])
def to_gpu(request: pytest.FixtureRequest, device: Device) -> Callable[[NDArray[Any]], Any]:
    """Copies a host array to the GPU with each library."""
    library = pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    if request.param == "torch":
        return lambda array: library.from_numpy(array).cuda()
    if request.param == "cupy":
        return lambda array: library.asarray(array)
    pytest.importorskip("pycuda.autoprimaryctx", reason="PyCUDA finds no GPU")
    gpuarray = pytest.importorskip("pycuda.gpuarray")
    return lambda array: gpuarray.to_gpu(np.ascontiguousarray(array))


def address_of(array: Any) -> int:
    for name in ("data_ptr", "gpudata"):
        if hasattr(array, name):
            found = getattr(array, name)
            return int(found() if callable(found) else found)
    return int(array.data.ptr)


def test_frames_of_other_libraries_are_not_copied(
    make: Make, device: Device, pictures: Pictures, to_gpu: Callable[[NDArray[Any]], Any]
) -> None:
    batch, (picture,) = pictures(5), pictures(1)
    on_gpu, single = to_gpu(batch), to_gpu(picture)
    stream = select(device).create_stream()
    found = device_frame(on_gpu, height=SIZE, width=SIZE, device=device, stream=int(stream.handle))
    assert (found.address, found.batch, found.is_single) == (address_of(on_gpu), 5, False)
    stream.close()
    with make() as opened:
        for _ in range(3):
            assert near(opened.segment_device(on_gpu), batch)
        assert opened.uses_graph
        answer = opened.segment_device(single)
        assert answer.shape == (SIZE, SIZE)
        assert near(answer, picture)
        assert near(opened.segment(picture), picture)


def test_frames_that_do_not_fit_are_refused(
    make: Make, pictures: Pictures, to_gpu: Callable[[NDArray[Any]], Any]
) -> None:
    with make() as opened:
        with pytest.raises(BackendError, match="received float32"):
            opened.segment_device(to_gpu(pictures(1).astype(np.float32)))
        with pytest.raises(BackendError, match="received uint8"):
            opened.segment_device(to_gpu(pictures(1)[..., :2].copy()))
        with pytest.raises(BackendError, match="a batch of 9"):
            opened.segment_device(to_gpu(pictures(9)))
        with pytest.raises(BackendError, match="not contiguous"):
            opened.segment_device(to_gpu(np.zeros((SIZE, 2 * SIZE, 3), np.uint8))[:, ::2])


def test_work_that_is_still_under_way_is_waited_for(make: Make, device: Device) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    large = torch.rand(6000, 6000, device="cuda")
    frame = torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8, device="cuda")
    with make() as opened:
        opened.segment_device(frame)
        for value in (200, 90, 160):
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(10):
                    large = large @ large / 6000
                frame[..., 1] = value
                answer = opened.segment_device(frame)
            host = np.zeros((SIZE, SIZE, 3), np.uint8)
            host[..., 1] = value
            assert near(answer, host)


def test_host_tensors_are_refused(make: Make) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    with make() as opened, pytest.raises(BackendError, match="pass host arrays to segment"):
        opened.segment_device(torch.zeros(SIZE, SIZE, 3, dtype=torch.uint8))


def test_lack_of_memory_is_reported_with_a_fix(device: Device) -> None:
    gpu = select(device)
    stream = gpu.create_stream()
    with pytest.raises(BackendError, match=r"OUT_OF_MEMORY.*smaller batch"), reported("allocating"):
        gpu.allocate(1 << 45, stream=stream)
    gpu.allocate(MIB, stream=stream).close(stream)
    stream.close()


@pytest.mark.usefixtures("real_trt")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 0.02)])
def test_an_engine_agrees_with_onnx_runtime(
    green: Path, tmp_path: Path, pictures: Pictures, precision: str, tolerance: float
) -> None:
    reference = OnnxRuntimeSegmenter(write_green_finder(tmp_path / "reference.onnx"))
    model = changed(green, in_half) if precision == "fp16" else green
    with TensorRtSegmenter(model, folder=tmp_path) as opened:
        assert opened.contract.precision == precision
        for picture in pictures(5):
            np.testing.assert_allclose(opened.segment(picture), reference.segment(picture), atol=tolerance)


@pytest.mark.usefixtures("real_trt")
def test_the_models_of_the_package_agree_with_onnx_runtime(tmp_path: Path) -> None:
    from polypstream import models

    paths = sorted(Path(models.__file__).parent.glob("*.onnx"))
    if not paths:
        pytest.skip("the package holds no model yet")
    for path in paths:
        reference = OnnxRuntimeSegmenter(path)
        height, width = reference.height, reference.width
        smooth = np.linspace(40, 220, height * width * 3, dtype=np.uint8).reshape(height, width, 3)
        with TensorRtSegmenter(path, folder=tmp_path) as opened:
            result, expected = opened.segment(smooth), reference.segment(smooth)
        exact = opened.contract.precision == "fp32"
        assert np.abs(result - expected).mean() <= (1e-5 if exact else 1e-2), path.name
        assert np.mean((result >= 0.5) != (expected >= 0.5)) <= (1e-4 if exact else 1e-2), path.name


@pytest.mark.usefixtures("real_trt")
def test_the_engine_is_found_again_and_a_wrong_one_refused(green: Path, tmp_path: Path, device: Device) -> None:
    built = engine_for(green, tmp_path)
    assert built.sidecar.key.target == Target.of(device)
    assert engine_for(green, tmp_path).reason is None
    assert open_engine(built.path).sidecar == built.sidecar
    described = sidecar_path(built.path).read_text(encoding="utf-8")
    plain = json.loads(described)
    plain["key"]["target"] = {"compute_capabilities": ["sm52"], "device_name": "GeForce GTX 980"}
    sidecar_path(built.path).write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(BackendError, match="built for GeForce GTX 980"):
        TensorRtSegmenter(built.path)
    sidecar_path(built.path).write_text(described, encoding="utf-8")
    built.path.write_bytes(built.path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="truncated"):
        TensorRtSegmenter(built.path)


@pytest.mark.usefixtures("real_trt")
def test_an_invalid_engine_is_refused_and_the_process_survives(green: Path, tmp_path: Path) -> None:
    """Its checksum is correct, as if it had been built this way."""
    built = engine_for(green, tmp_path)
    plain, junk = json.loads(sidecar_path(built.path).read_text(encoding="utf-8")), b"\x07" * 5000
    plain["engine_bytes"], plain["engine_sha256"] = len(junk), hashlib.sha256(junk).hexdigest()
    built.path.write_bytes(junk)
    sidecar_path(built.path).write_text(json.dumps(plain), encoding="utf-8")
    with pytest.raises(BackendError, match=r"cannot load|does not run here"), TensorRtSegmenter(built.path):
        pass
    with TensorRtSegmenter(green, folder=tmp_path / "fresh") as opened:
        assert opened.segment(np.zeros((SIZE, SIZE, 3), np.uint8)).shape == (SIZE, SIZE)
