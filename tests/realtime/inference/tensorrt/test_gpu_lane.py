"""The GPU side of the GPU benchmark on a simulated CUDA and TensorRT: what goes to which address on which stream."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.gpu import cuda as module
from benchmarks.gpu.cuda import CudaPlatform
from benchmarks.gpu.progress import Unavailable
from benchmarks.gpu.timing import run_streams
from polypstream.realtime.inference.tensorrt import device_frame
from polypstream.realtime.inference.tensorrt.adapter import TensorRt
from polypstream.realtime.video import device
from tests.models import SIZE
from tests.realtime.inference.tensorrt.fakes import FakeCuda, expected, write_fake_engine

WIDTH, HEIGHT = 96, 64
INPUT = (SIZE, SIZE, 3)


def as_array(address: int, shape: tuple[int, ...], ctype: type[Any]) -> Any:
    return np.ctypeslib.as_array((ctype * int(np.prod(shape))).from_address(address)).reshape(shape)


class Kernels:
    """In place of the native module with kernels: makes the input green, and records."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.marks: list[Any] = []
        self.probabilities: list[Any] = []
        self.streams: set[int] = set()

    def DevicePreprocessor(self, *settings: object) -> "Kernels":  # noqa: N802 - the module's name
        assert settings[:2] == ("NV12", (WIDTH, HEIGHT))
        assert settings[3] == (SIZE, SIZE)
        return self

    def run(self, frames: list[Any], out: int, stream: int) -> None:
        self.frames += frames
        self.streams.add(stream)
        as_array(out, INPUT, ctypes.c_uint8)[:] = (20, 20 + len(self.frames) % 200, 0)

    def mark_on_device(self, planes: list[Any], size: Any, probability: int, *rest: Any) -> None:
        self.marks.append((planes, size, rest))
        self.streams.add(rest[-1])
        self.probabilities.append(as_array(probability, INPUT[:2], ctypes.c_float).copy())


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Kernels, a decoder whose frames are on the GPU, and the driver's view of an address."""
    made = Kernels()

    def frames(*_: object) -> Iterator[Any]:
        while True:
            frame = av.VideoFrame(WIDTH, HEIGHT, "nv12")
            yield SimpleNamespace(
                **{"format": av.VideoFormat("cuda", WIDTH, HEIGHT), "sw_format": frame.format, "planes": frame.planes},
                **{"width": WIDTH, "height": HEIGHT, "colorspace": 1, "color_range": 1, "interlaced_frame": False},
                owner=frame,
            )

    def view(array: Any, stream: int) -> Any:
        found = array.__cuda_array_interface__
        facts = {"ptr": found["data"][0], "shape": found["shape"], "dtype": np.dtype(found["typestr"])}
        return SimpleNamespace(**facts, strides=None, device_id=0, is_device_accessible=True)

    monkeypatch.setattr(module, "kernels", lambda: made)
    monkeypatch.setattr(device, "kernels", lambda: made)
    monkeypatch.setattr(module, "endless_frames", frames)
    monkeypatch.setattr(device_frame, "_view", view)
    return made


@pytest.fixture
def platform(fake_cuda: FakeCuda, fake_trt: TensorRt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CudaPlatform:
    monkeypatch.setattr(module, "imported", fake_cuda.module)
    monkeypatch.setattr(module, "load_tensorrt", lambda: fake_trt)
    return CudaPlatform(tmp_path / "engines")


def test_a_frame_goes_through_the_networks_own_buffers_on_one_stream(
    platform: CudaPlatform, kernels: Kernels, fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    engine = write_fake_engine(tmp_path / "engines").path
    with platform.lane(engine, tmp_path / "clip.mp4") as lane:
        for _ in range(3):
            lane.decode()
            lane.preprocess()
            lane.infer()
            lane.mark()
        assert lane.enqueued() == "CUDA graph"
    assert not fake_cuda.live, "everything is freed"
    assert len(kernels.streams) == 1
    for number, probability in enumerate(kernels.probabilities, start=1):
        picture = np.full(INPUT, (20, 20 + number, 0), np.uint8)
        np.testing.assert_allclose(probability, expected(picture), atol=1e-6)
    ((luma, pitch), (chroma, _)) = kernels.frames[0]
    assert chroma - luma >= pitch * HEIGHT
    planes, size, _ = kernels.marks[-1]
    assert size == (WIDTH, HEIGHT)
    assert [plane[2:7] for plane in planes] == [(1, 1, 1, 1, 0), (2, 2, 2, 1, 0), (2, 2, 2, 1, 0)]
    assert planes[2][0] == planes[1][0] + 1, "Cr lies beside Cb"


def test_without_a_graph_it_is_reported(platform: CudaPlatform, kernels: Kernels, tmp_path: Path) -> None:
    engine = write_fake_engine(tmp_path / "engines").path
    with platform.lane(engine, tmp_path / "clip.mp4", graph=False) as lane:
        for _ in range(3):
            lane.infer()
            lane.infer_from_host()
        assert lane.enqueued().startswith("without a CUDA graph")


def test_streams_have_contexts_of_their_own(
    platform: CudaPlatform, kernels: Kernels, fake_cuda: FakeCuda, tmp_path: Path
) -> None:
    engine = write_fake_engine(tmp_path / "engines").path
    found = run_streams(
        lambda: platform.lane(engine, tmp_path / "clip.mp4", graph=False),
        lambda lane: (lane.decode(), lane.preprocess()),
        count=3,
        seconds=0.01,
    )
    assert len(kernels.streams) == 3
    assert isinstance(found["fps"], float)
    assert not fake_cuda.live


def test_copies_in_all_directions(platform: CudaPlatform, fake_cuda: FakeCuda) -> None:
    rates = platform.copy_rates(1 << 12, repeats=2)
    assert set(rates) == {"host_to_device", "device_to_host", "on_device"}
    assert all(rate > 0 for rate in rates.values())
    assert not fake_cuda.live


def test_a_frame_decoded_on_the_cpu_is_no_measurement(
    platform: CudaPlatform, kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "endless_frames", lambda *_: iter([av.VideoFrame(WIDTH, HEIGHT, "yuv420p")]))
    with (
        platform.lane(write_fake_engine(tmp_path / "engines").path, tmp_path / "clip.mp4") as lane,
        pytest.raises(Unavailable, match="the GPU did not decode"),
    ):
        lane.decode()


def test_the_device_and_its_software_are_described(platform: CudaPlatform) -> None:
    found = platform.describe()
    assert found["device"] == "Stand-in 4090"
    assert found["compute_capability"] == "sm89"
