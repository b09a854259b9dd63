"""Scales and converts decoded frames to RGB for the network or a screen, in one pass."""

import sys
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from polypstream.arrays import Rgb, Size
from polypstream.realtime import native
from polypstream.realtime.video.color import NATIVE_MATRICES, is_full_range, scaler_matrix
from polypstream.realtime.video.device import DeviceScaler, downloaded, is_on_device
from polypstream.realtime.video.planes import Samples

_NATIVE_FORMATS: Mapping[str, native.PixelFormat] = {
    "yuv420p": "I420",
    "yuvj420p": "I420",
    "nv12": "NV12",
    **({"p010le": "P010"} if sys.byteorder == "little" else {}),
}


class ModelInputScaler:
    """Scales frames for the network, by the native module if it is built and knows them. Use it from one thread.

    The native module averages each plane over the area of every pixel, chroma too, and rounds once. swscale, which
    takes all other frames, shares chroma between two pixels where the width is even, which moves edges of color by up
    to a pixel.
    """

    def __init__(self) -> None:
        self._scaler = VideoReformatter()
        self._device: DeviceScaler | None = None

    def close(self) -> None:
        """Free what frames in GPU memory needed; without such frames, it does nothing."""
        device, self._device = self._device, None
        if device is not None:
            device.close()

    def scale(self, frame: av.VideoFrame, size: Size) -> Rgb:
        """Scale the whole frame, of any size and pixel format, to uint8 RGB (H, W, 3) of `size` (width, height)."""
        if is_on_device(frame):
            self._device = self._device or DeviceScaler()
            if (scaled := self._device.scale(frame, size)) is not None:
                return scaled
            frame = downloaded(frame)
        if native.is_available() and (small_rgb := _scaled_natively(frame, size)) is not None:
            return small_rgb
        width, height = size
        small = self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format="rgb24",
            src_colorspace=scaler_matrix(frame),
            interpolation=Interpolation.AREA,
        )
        return np.asarray(small.to_ndarray(), dtype=np.uint8)


def _scaled_natively(frame: av.VideoFrame, size: Size) -> Rgb | None:
    """The frame as the native module scales it; None for what it does not know."""
    if frame.interlaced_frame:  # swscale scales the two fields apart
        return None
    pixel_format, matrix = _NATIVE_FORMATS.get(frame.format.name), NATIVE_MATRICES.get(scaler_matrix(frame))
    if pixel_format is None or matrix is None or any(plane.line_size < 0 for plane in frame.planes):
        return None
    dtype: Any = np.uint16 if pixel_format == "P010" else np.uint8
    planes: Any = frame.planes
    samples: list[Samples] = [np.frombuffer(plane, dtype).reshape(plane.height, -1) for plane in planes]
    (rgb,) = native.preprocess(
        [samples],
        pixel_format=pixel_format,
        size=(frame.width, frame.height),
        out_size=size,
        matrix=matrix,
        is_full_range=is_full_range(frame),
    )
    return np.asarray(rgb, np.uint8)


def deinterlaced_field(frame: av.VideoFrame) -> av.VideoFrame:
    """Return the top field of an interlaced frame, every other line at half the height, for `ModelInputScaler`.

    Deinterlacing filters such as bwdif wait for the next frame, which costs latency. The network's input is smaller
    than a field of any capture card, so that no detail is lost. The field is shifted up by a quarter of its line.

    Args:
        frame: A decoded frame; unchanged.

    Returns:
        A new frame, or the given one if it is not interlaced.
    """
    if not frame.interlaced_frame or frame.height < 2:
        return frame
    field = av.VideoFrame(frame.width, (frame.height + 1) // 2, frame.format.name)
    whole_planes: Any = frame.planes
    field_planes: Any = field.planes
    for whole, half in zip(whole_planes, field_planes, strict=True):
        lines = np.frombuffer(whole, dtype=np.uint8)[: whole.height * whole.line_size].reshape(whole.height, -1)
        target = np.frombuffer(half, dtype=np.uint8)[: half.height * half.line_size].reshape(half.height, -1)
        shared = min(lines.shape[1], target.shape[1])
        target[:, :shared] = lines[::2, :shared]
    field.pts, field.time_base = frame.pts, frame.time_base
    field.color_range = frame.color_range
    field.colorspace = scaler_matrix(frame)  # by the frame's height: a field of 1080 lines would count as SD
    return field


def fitted(size: Size, within: Size) -> Size:
    """The largest size with the same aspect ratio that exceeds neither `size` nor `within`."""
    (width, height), (most_across, most_down) = size, within
    scale = min(Fraction(1), Fraction(most_across, width), Fraction(most_down, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


class ScreenScaler:
    """Scales frames down for display, without rotating them. Use it from one thread.

    Args:
        pixel_format: FFmpeg's name of an RGB format.
    """

    def __init__(self, *, pixel_format: str) -> None:
        self._pixel_format = pixel_format
        self._scaler = VideoReformatter()

    def scale(self, frame: av.VideoFrame, size: Size) -> av.VideoFrame:
        """Scale a frame to a size in the RGB format, full range, converted by its matrix and range."""
        width, height = size
        return self._scaler.reformat(
            frame,
            width=width,
            height=height,
            format=self._pixel_format,
            src_colorspace=scaler_matrix(frame),
            src_color_range=ColorRange.JPEG if frame.format.name.startswith("yuvj") else None,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
