"""Reads and draws on images in GStreamer buffers, in place. Does not depend on GStreamer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Rgb, Size
from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import Marker, faded
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle, draw_on_planes
from polypstream.realtime.video.color import ycbcr_from_rgb
from polypstream.realtime.video.planes import Plane
from polypstream.realtime.video.resize import ModelInputScaler

_FORMATS = {"I420": "yuv420p", "NV12": "nv12", "BGR": "bgr24"}
"""FFmpeg's name of each supported GStreamer format."""
FORMATS = tuple(_FORMATS)
_SUBSAMPLED = (2, 2)
_WHOLE = (1, 1)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Memory layout and color space of an image in a buffer."""

    pixel_format: str
    """GStreamer's name."""
    width: int
    height: int
    strides: tuple[int, ...]
    """Bytes from one row to the next, plane by plane."""
    offsets: tuple[int, ...]
    """Bytes from the start of the buffer to each plane."""
    colorspace: int = 2
    """FFmpeg's `AVColorSpace`; 2 if unspecified."""
    is_full_range: bool = False

    def __post_init__(self) -> None:
        if self.pixel_format not in _FORMATS:
            raise ConfigError(f"the frames are {self.pixel_format}; put `videoconvert` before polypoverlay")

    def rows(self, memory: memoryview) -> list[NDArray[np.uint8]]:
        """The planes' bytes without their padding, as views: uint8 (rows, bytes in a row)."""
        halves = (self.width + 1) // 2, (self.height + 1) // 2
        sizes = {
            "I420": [(self.width, self.height), halves, halves],
            "NV12": [(self.width, self.height), (2 * halves[0], halves[1])],
            "BGR": [(3 * self.width, self.height)],
        }[self.pixel_format]
        return [
            np.ndarray((rows, across), np.uint8, memory, offset, (stride, 1))
            for (across, rows), stride, offset in zip(sizes, self.strides, self.offsets, strict=False)
        ]


class MappedPicture:
    """An image in foreign memory, valid while that is mapped."""

    def __init__(self, memory: memoryview, layout: Layout) -> None:
        self._layout, self._rows = layout, layout.rows(memory)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self._layout.width, self._layout.height

    @property
    def bgr(self) -> NDArray[np.uint8] | None:
        """A view (H, W, 3) of a BGR image; None for other formats."""
        if self._layout.pixel_format != "BGR":
            return None
        return self._rows[0].reshape(self._layout.height, self._layout.width, 3)

    def draw(self, markers: Sequence[Marker], style: MarkerStyle) -> None:
        """Draw markers into the memory, which must be writable; other samples stay bit-exact."""
        planes = self._planes()
        casing = self._color(CASING_RGB)
        line = self._color(style.rgb)
        for marker in markers:
            draw_on_planes(planes, [marker.polyp], faded(style, marker.opacity), line=line, casing=casing)

    def copy(self) -> av.VideoFrame:
        """Return a copy of the image."""
        layout = self._layout
        picture = av.VideoFrame(layout.width, layout.height, _FORMATS[layout.pixel_format])
        planes: Any = picture.planes
        for plane, rows in zip(planes, self._rows, strict=True):
            target = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
            target[: rows.shape[0], : rows.shape[1]] = rows
        picture.colorspace = layout.colorspace
        picture.color_range = 2 if layout.is_full_range else 1
        return picture

    def _planes(self) -> list[Plane]:
        if self._layout.pixel_format == "BGR":
            return [_plane(self._rows[0][:, place::3], _WHOLE) for place in (2, 1, 0)]
        if self._layout.pixel_format == "NV12":
            luma, chroma = self._rows
            return [_plane(luma, _WHOLE), _plane(chroma[:, ::2], _SUBSAMPLED), _plane(chroma[:, 1::2], _SUBSAMPLED)]
        luma, cb, cr = self._rows
        return [_plane(luma, _WHOLE), _plane(cb, _SUBSAMPLED), _plane(cr, _SUBSAMPLED)]

    def _color(self, rgb: tuple[int, int, int]) -> list[float]:
        """The color's value on each plane."""
        layout = self._layout
        if layout.pixel_format == "BGR":
            return [float(value) for value in rgb]
        return ycbcr_from_rgb(
            rgb,
            bits=8,
            colorspace=layout.colorspace,
            height=layout.height,
            is_full_range=layout.is_full_range,
        )


class MappedInputScaler:
    """Scales mapped images to the network's input. Not thread-safe."""

    def __init__(self) -> None:
        self._scaler = ModelInputScaler()

    def scale(self, picture: MappedPicture, size: Size) -> Rgb:
        """Scale to uint8 RGB (H, W, 3) of a width and height."""
        if (bgr := picture.bgr) is None:
            return self._scaler.scale(picture.copy(), size)
        # swscale takes ten times as long for packed images
        small = cv2.resize(bgr, size, interpolation=cv2.INTER_AREA)
        return np.ascontiguousarray(small[:, :, ::-1])


def _plane(samples: NDArray[np.uint8], luma_per_sample: tuple[int, int]) -> Plane:
    return Plane(samples=samples, luma_per_sample=luma_per_sample, bits=8, shift=0)
