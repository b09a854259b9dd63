"""The CUDA kernels compute what the C++ versions compute, bit by bit. Needs a GPU."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime import native
from polypstream.realtime.outlines.drawing import MarkerStyle, marker_band
from tests.native.test_mark import CASING, LINE, blob, planes
from tests.native.test_preprocess import make

pytestmark = pytest.mark.gpu


@pytest.fixture
def module() -> Any:
    if not native.has_kernels():
        pytest.skip("the native module is built without kernels")
    from polypstream import _native

    if _native.device_count() == 0:
        pytest.skip("there is no GPU with a driver")
    return _native


def whole(samples: NDArray[Any]) -> NDArray[Any]:
    """The memory from a plane's first sample to the end of its last row, padding included."""
    base = samples
    while isinstance(base.base, np.ndarray):
        base = base.base
    return np.ascontiguousarray(base)


class Uploaded:
    """Arrays in device memory, with the same distance between rows."""

    def __init__(self, module: Any, stream: Any, arrays: list[NDArray[Any]]) -> None:
        self.stream, self.arrays = stream, [whole(array) for array in arrays]
        self.buffers = [module.DeviceBuffer(array.nbytes) for array in self.arrays]
        for buffer, array in zip(self.buffers, self.arrays, strict=True):
            buffer.upload(array, stream.handle)

    @property
    def planes(self) -> list[tuple[int, int]]:
        return [(buffer.address, array.strides[0]) for buffer, array in zip(self.buffers, self.arrays, strict=True)]


@pytest.mark.parametrize("pixel_format", ["NV12", "P010", "I420", "BGR"])
@pytest.mark.parametrize("size", [(1920, 1080), (641, 479), (33, 17)])
@pytest.mark.parametrize("is_full_range", [False, True])
def test_preprocess_is_the_same(module: Any, pixel_format: Any, size: tuple[int, int], is_full_range: bool) -> None:
    out_size, part = (352, 288), (size[0] * 0.1, 0.0, float(size[0]), size[1] * 0.8)
    options: dict[str, Any] = {"matrix": "bt709", "part": part}
    frames = [make(pixel_format, *size, padding=5, seed=seed) for seed in range(18)]
    wanted = native.preprocess(
        frames, pixel_format=pixel_format, size=size, out_size=out_size, is_full_range=is_full_range, **options
    )
    stream = module.Stream()
    uploaded = [Uploaded(module, stream, frame) for frame in frames]
    scaler = module.DevicePreprocessor(pixel_format, size, part, out_size, "bt709", is_full_range, stream.handle)
    made, out = np.empty_like(wanted), module.DeviceBuffer(wanted.nbytes)
    scaler.run([frame.planes for frame in uploaded], out.address, stream.handle)
    out.download(made, stream.handle)
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize("size", [(1920, 1080), (641, 479), (3, 3)])
@pytest.mark.parametrize("part", [None, (0.25, 0.0, 1.0, 0.75)])
@pytest.mark.parametrize("is_random", [False, True])
def test_mark_is_the_same(module: Any, size: tuple[int, int], part: Any, is_random: bool) -> None:
    width, height = size
    place = (0, 0, width, height) if part is None else tuple(np.multiply(part, (width, height) * 2).tolist())
    random = np.random.default_rng(3).random((72, 96), np.float32)
    probability = random if is_random else blob(96, 72, 50, 40, 20)
    frame, wanted = planes(width, height), planes(width, height)
    band = marker_band(MarkerStyle(), height=height)
    native.mark(wanted, probability, threshold=0.5, band=band, line=LINE, casing=CASING, part=place)

    stream = module.Stream()
    luma, chroma = whole(frame[0].samples), whole(frame[1].samples)
    on_device = Uploaded(module, stream, [luma, chroma, probability])
    (luma_at, luma_pitch), (chroma_at, chroma_pitch), (map_at, _) = on_device.planes
    specs = [
        (luma_at, luma_pitch, 1, 1, 1, 1, 0, LINE[0], CASING[0]),
        (chroma_at, chroma_pitch, 2, 2, 2, 1, 0, LINE[1], CASING[1]),
        (chroma_at + 1, chroma_pitch, 2, 2, 2, 1, 0, LINE[2], CASING[2]),
    ]
    module.mark_on_device(specs, size, map_at, (96, 72), place, 0.5, band, stream.handle)
    for buffer, array, plane in zip(on_device.buffers, (luma, chroma), (wanted[0], wanted[1]), strict=False):
        made = np.empty_like(array)
        buffer.download(made, stream.handle)
        difference = np.abs(made.astype(int) - whole(plane.samples))
        assert difference.max() <= 1  # the square root is rounded alike, the sum of four shares may not be


def test_what_does_not_fit_is_refused(module: Any) -> None:
    stream = module.Stream()
    with pytest.raises(ConfigError):
        module.DevicePreprocessor("NV12", (16, 8), (0, 0, 17, 8), (4, 4), "bt709", False, stream.handle)
    scaler = module.DevicePreprocessor("NV12", (16, 8), (0, 0, 16, 8), (4, 4), "bt709", False, stream.handle)
    out = module.DeviceBuffer(48)
    with pytest.raises(ConfigError):
        scaler.run([[(out.address, 15), (out.address, 16)]], out.address, stream.handle)
    with pytest.raises(ConfigError):
        out.download(np.empty(49, np.uint8), stream.handle)
