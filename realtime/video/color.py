"""Color: FFmpeg's color tags, value ranges and Y'CbCr matrices, and the values of a color in a frame.

Tags are FFmpeg's numbers, which equal those of ISO/IEC 23091-2 (2 means unspecified; for the range, 0 does). If a frame
specifies no matrix, players assume BT.709 from 720 rows on and BT.601 below; if it specifies no range, they assume
limited range, or full range for gray and `yuvj` pixel formats. This module implements these rules.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

import av
from av.video.reformatter import Colorspace

if TYPE_CHECKING:
    from polypstream.realtime.video.container import VideoInfo

LIMITED, FULL = 1, 2
"""FFmpeg's `AVColorRange`: luma from 16 to 235 (in 8 bits), or from 0 to 255."""
HD_HEIGHT = 720
"""Frames of at least this many rows are assumed to be BT.709, lower ones BT.601."""
BT709, BT601 = 1, 5
"""FFmpeg's `AVColorSpace` of the two default matrices."""

_SCALER_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""swscale's matrix for each of FFmpeg's `AVColorSpace`."""
NATIVE_MATRICES: Mapping[Colorspace, Literal["bt601", "bt709"]] = {
    Colorspace.ITU601: "bt601",
    Colorspace.ITU709: "bt709",
}
"""The matrices that the native module knows."""
_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    5: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""Weights of red and blue in luma for each `AVColorSpace`; the weights including green add up to 1."""


class ColorTags(NamedTuple):
    """The four color tags of a video stream, as FFmpeg's numbers."""

    range: int
    matrix: int
    primaries: int
    transfer: int


def assumed_matrix(height: int) -> int:
    """Default `AVColorSpace` of a frame without one, by its number of rows."""
    return BT709 if height >= HD_HEIGHT else BT601


def scaler_matrix(frame: av.VideoFrame) -> Colorspace:
    """swscale's name for a frame's Y'CbCr matrix: as tagged, or the default for its height."""
    return _SCALER_MATRICES.get(int(frame.colorspace)) or _SCALER_MATRICES[assumed_matrix(frame.height)]


def is_rgb(pixel_format: av.VideoFormat) -> bool:
    """Whether samples are R'G'B', directly or through a palette: without a matrix, in full range."""
    return bool(pixel_format.is_rgb or pixel_format.has_palette)


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether a frame has full-range luma, by its pixel format and tag."""
    if is_rgb(frame.format) or frame.format.name.startswith("yuvj"):
        return True
    if frame.color_range in (LIMITED, FULL):
        return bool(frame.color_range == FULL)
    return frame.format.name.startswith("gray")


def output_tags(info: "VideoInfo") -> ColorTags:
    """Tags of the encoded video: those of the source; R'G'B' sources are encoded as limited-range Y'CbCr."""
    pixel_format = av.VideoFormat(info.pixel_format)
    if is_rgb(pixel_format):
        return ColorTags(LIMITED, assumed_matrix(info.height), info.color_primaries, info.color_trc)
    color_range = FULL if info.pixel_format.startswith("yuvj") else info.color_range
    return ColorTags(color_range, info.colorspace, info.color_primaries, info.color_trc)


def color_values(frame: av.VideoFrame, rgb: tuple[int, int, int]) -> list[float]:
    """Value of a color on each plane of a frame, by the frame's matrix and range.

    Args:
        frame: The frame to draw on.
        rgb: R'G'B', each 0 to 255.

    Returns:
        One value per plane of `planes.planes_of(frame)`, not rounded, before any bit shift.
    """
    bits = frame.format.components[0].bits
    if frame.format.is_rgb:
        return [value / 255 * (2**bits - 1) for value in rgb]
    values = ycbcr_from_rgb(
        rgb,
        bits=bits,
        colorspace=int(frame.colorspace),
        height=frame.height,
        is_full_range=is_full_range(frame),
    )
    return values[: len(frame.format.components)]


def ycbcr_from_rgb(
    rgb: tuple[int, int, int], *, bits: int, colorspace: int, height: int, is_full_range: bool
) -> list[float]:
    """Convert a color from R'G'B' to Y'CbCr.

    Args:
        rgb: R'G'B', each 0 to 255.
        bits: Bits per sample of the result.
        colorspace: FFmpeg's `AVColorSpace`; if it is unknown or unspecified, the matrix follows from `height`.
        height: Rows of the frame.
        is_full_range: Whether luma has the full range rather than 16 to 235 of 255.

    Returns:
        Y', Cb, Cr, not rounded.
    """
    red, green, blue = (value / 255 for value in rgb)
    red_weight, blue_weight = _LUMA_WEIGHTS.get(colorspace) or _LUMA_WEIGHTS[assumed_matrix(height)]
    luma = red_weight * red + (1 - red_weight - blue_weight) * green + blue_weight * blue
    chroma = ((blue - luma) / (2 * (1 - blue_weight)), (red - luma) / (2 * (1 - red_weight)))
    unit = 2.0 ** (bits - 8)
    if is_full_range:
        top = 2**bits - 1
        return [luma * top, *(min(128 * unit + c * top, top) for c in chroma)]
    return [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma)]
