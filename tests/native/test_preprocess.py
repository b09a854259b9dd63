"""The native module scales frames as NumPy does, on any size, pitch, range and format."""

from typing import Any

import av
import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.errors import BackendError, ConfigError
from polypstream.realtime import native
from polypstream.realtime.video.resize import ModelInputScaler

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the native module is not built here")
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}
PACKED = {"NV12", "P010"}
Planes = list[NDArray[Any]]


def weights(length: int, low: float, high: float, count: int) -> NDArray[np.float64]:
    """(count, length): the mean over each output's area, or linear interpolation where the axis is enlarged."""
    scale = (high - low) / count
    edges = np.arange(length)
    if scale > 1:
        start = (low + np.arange(count) * scale)[:, None]
        shares = np.clip(np.minimum(start + scale, edges + 1) - np.maximum(start, edges), 0, None)
    else:
        center = np.clip(low + (np.arange(count) + 0.5) * scale - 0.5, 0, length - 1)[:, None]
        shares = np.clip(1 - np.abs(edges - center), 0, None)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def expected(
    planes: Planes, pixel_format: str, size: tuple[int, int], out: tuple[int, int], part: native.Part, **color: Any
) -> NDArray[np.float64]:
    """RGB (H, W, 3), not rounded."""
    (width, height), (left, top, right, bottom) = size, part

    def scaled(samples: NDArray[Any], share: int) -> NDArray[np.float64]:
        rows, columns = samples.shape
        x = weights(columns, left / share, columns if right == width else right / share, out[0])
        y = weights(rows, top / share, rows if bottom == height else bottom / share, out[1])
        return np.asarray(y @ samples.astype(np.float64) @ x.T)

    if pixel_format == "BGR":
        return np.stack([scaled(planes[0][:height, :width, place], 1) for place in (2, 1, 0)], axis=2)
    w, h = -(-width // 2), -(-height // 2)
    parts = [planes[0][:height, :width]]
    if pixel_format in PACKED:
        parts += [planes[1][:h, place : 2 * w : 2] for place in (0, 1)]
    else:
        parts += [plane[:h, :w] for plane in planes[1:]]
    bits = 10 if pixel_format == "P010" else 8
    if bits == 10:
        parts = [samples >> 6 for samples in parts]
    luma, cb, cr = (scaled(samples, share) for samples, share in zip(parts, (1, 2, 2), strict=True))
    unit, top_value = 2 ** (bits - 8), 2**bits - 1
    if color["is_full_range"]:
        luma, cb, cr = luma / top_value, (cb - 128 * unit) / top_value, (cr - 128 * unit) / top_value
    else:
        luma, cb, cr = (luma / unit - 16) / 219, (cb / unit - 128) / 224, (cr / unit - 128) / 224
    red, blue = LUMA[color["matrix"]]
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    g = (luma - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.stack([r, g, b], axis=2), 0, 255)


def make(pixel_format: str, width: int, height: int, padding: int, seed: int) -> Planes:
    """Random planes whose rows are `padding` samples apart from each other."""
    rng = np.random.default_rng(seed)
    w, h = -(-width // 2), -(-height // 2)
    shapes = {
        "BGR": [(height, 3 * width)],
        "I420": [(height, width), (h, w), (h, w)],
    }.get(pixel_format, [(height, width), (h, 2 * w)])
    planes = []
    for rows, columns in shapes:
        whole = rng.integers(0, 256, (rows, columns + padding)).astype(np.uint8)
        if pixel_format == "P010":
            planes.append((rng.integers(0, 1024, whole.shape) << 6).astype(np.uint16)[:, :columns])
        elif pixel_format == "BGR":
            stride = whole.strides[0]
            planes.append(np.lib.stride_tricks.as_strided(whole, (rows, width, 3), (stride, 3, 1)))
        else:
            planes.append(whole[:, :columns])
    return planes


sides = st.integers(1, 70)


@settings(max_examples=150, deadline=None)
@given(
    pixel_format=st.sampled_from(["NV12", "P010", "I420", "BGR"]),
    size=st.tuples(sides, sides),
    out=st.tuples(sides, sides),
    padding=st.integers(0, 9),
    crop=st.none() | st.tuples(*[st.floats(0, 1)] * 4),
    matrix=st.sampled_from(["bt601", "bt709"]),
    is_full_range=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
# 64 rows and 32 of chroma, whose weights are powers of two: no product loses anything.
@example(
    pixel_format="NV12",
    size=(61, 64),
    out=(1, 1),
    padding=0,
    crop=None,
    matrix="bt601",
    is_full_range=False,
    seed=234,
)
def test_it_is_within_one_level_of_the_definition(
    pixel_format: native.PixelFormat,
    size: tuple[int, int],
    out: tuple[int, int],
    padding: int,
    crop: tuple[float, ...] | None,
    matrix: native.MatrixName,
    is_full_range: bool,
    seed: int,
) -> None:
    width, height = size
    part: native.Part = (0, 0, width, height)
    if crop is not None:
        across, down = sorted(crop[:2]), sorted(crop[2:])
        part = across[0] * width * 0.5, down[0] * height * 0.5, (1 + across[1]) * width / 2, (1 + down[1]) * height / 2
    frames = [make(pixel_format, width, height, padding, seed + number) for number in range(2)]
    made = native.preprocess(
        frames,
        pixel_format=pixel_format,
        size=size,
        out_size=out,
        part=part,
        matrix=matrix,
        is_full_range=is_full_range,
    )
    assert made.shape == (2, out[1], out[0], 3)
    for planes, rgb in zip(frames, made, strict=True):
        wanted = expected(planes, pixel_format, size, out, part, matrix=matrix, is_full_range=is_full_range)
        assert np.abs(rgb - wanted).max() <= 1


@pytest.mark.parametrize("size", [(640, 480), (331, 257)])
def test_bgr_is_what_opencv_makes_of_it(size: tuple[int, int]) -> None:
    (bgr,) = make("BGR", *size, 0, 3)
    (rgb,) = native.preprocess([[bgr]], pixel_format="BGR", size=size, out_size=(96, 80))
    wanted = cv2.resize(bgr, (96, 80), interpolation=cv2.INTER_AREA)[..., ::-1]
    assert np.abs(rgb.astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "nv12", "p010le"])
@pytest.mark.parametrize("height", [480, 720])
@pytest.mark.parametrize("color_range", [0, 1, 2])
def test_frames_are_scaled_as_swscale_does_at_its_most_exact(
    pixel_format: str, height: int, color_range: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = av.VideoFrame(854, height, pixel_format)
    rng = np.random.default_rng(5)
    for plane in frame.planes:
        is_wide = pixel_format == "p010le"
        samples = np.frombuffer(plane, np.uint16 if is_wide else np.uint8)  # type: ignore[call-overload]
        smooth = np.interp(
            np.arange(samples.size), np.arange(0, samples.size + 400, 400), rng.random(samples.size // 400 + 2)
        )
        samples[:] = (40 + 170 * smooth).astype(samples.dtype) << (8 if is_wide else 0)
    frame.color_range = color_range
    scaler, size = ModelInputScaler(), (121, 96)  # swscale keeps all chroma only where the width is odd
    made = scaler.scale(frame, size).astype(int)
    monkeypatch.setenv(native.SWITCH, "0")
    difference = np.abs(scaler.scale(frame, size).astype(int) - made)
    assert difference.max() <= 2
    assert difference.mean() < 0.5


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.is_available()
    monkeypatch.setenv(native.SWITCH, "0")
    assert not native.is_available()


def test_what_does_not_fit_is_refused() -> None:
    luma, chroma = make("NV12", 16, 8, 0, 1)

    def call(planes: Planes, **changes: Any) -> None:
        options: dict[str, Any] = {"pixel_format": "NV12", "size": (16, 8), "out_size": (4, 4), **changes}
        native.preprocess([planes], **options)

    call([luma, chroma])
    for planes, changes in [
        ([luma], {}),
        ([luma[:, :15], chroma], {}),
        ([luma[:7], chroma], {}),
        ([luma[:, ::-1], chroma], {}),
        ([luma.astype(np.float32), chroma], {}),
        ([luma, chroma], {"pixel_format": "P010"}),
        ([luma, chroma], {"pixel_format": "YUY2"}),
        ([luma, chroma], {"matrix": "bt2020"}),
        ([luma, chroma], {"part": (0, 0, 17, 8)}),
        ([luma, chroma], {"part": (4, 0, 4, 8)}),
        ([luma, chroma], {"part": (0, float("nan"), 16, 8)}),
        ([luma, chroma], {"out_size": (0, 4)}),
        ([luma, chroma], {"size": (0, 8)}),
        ([luma, chroma], {"size": (1 << 20, 8)}),
    ]:
        with pytest.raises(ConfigError):
            call(planes, **changes)
    before = luma.copy()
    assert np.array_equal(luma, before)


def test_without_the_module_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_module", None)
    assert not native.is_available()
    assert not native.has_kernels()
    with pytest.raises(BackendError, match="compiler"):
        native.preprocess([], pixel_format="NV12", size=(2, 2), out_size=(2, 2))
