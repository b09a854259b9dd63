"""The native module `polypstream._native`: frames scaled and markers drawn in C++, without the interpreter's lock.

It is built on installation where there is a C++ compiler; everything else works without it. `POLYPSTREAM_NATIVE=0` in
the environment turns it off. docs/native.md defines what both functions compute.
"""

import os
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb, Size
from polypstream.errors import BackendError
from polypstream.realtime.video.planes import Plane, Samples

SWITCH = "POLYPSTREAM_NATIVE"
"""Environment variable that turns the module off if it is 0."""
PixelFormat = Literal["NV12", "P010", "I420", "BGR"]
MatrixName = Literal["bt601", "bt709"]
Part = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the frame; ends may lie between pixels."""
Band = tuple[float, float, float, float]
"""Radius of the line, of the line with its casing, in pixels; opacity of all, and of the casing."""

try:
    from polypstream import _native as _built
except ImportError:  # installed without a compiler, or run from a checkout
    _module: ModuleType | None = None
else:
    _module = _built


def is_built() -> bool:
    """Whether the package was installed with its native module."""
    return _module is not None


def is_available() -> bool:
    """Whether the native module is built and not turned off."""
    return is_built() and os.environ.get(SWITCH) != "0"


def has_kernels() -> bool:
    """Whether the native module was built with CUDA kernels."""
    return _module is not None and bool(_module.has_kernels)


def preprocess(
    frames: Sequence[Sequence[Samples]],
    *,
    pixel_format: PixelFormat,
    size: Size,
    out_size: Size,
    part: Part | None = None,
    matrix: MatrixName = "bt709",
    is_full_range: bool = False,
) -> Rgb:
    """Scale frames of one size and format to a network's input.

    Args:
        frames: The planes of each frame: uint8, or uint16 for P010, (rows, samples), or (rows, pixels, 3) for BGR.
            Rows may be any distance apart, samples lie one beside the other.
        pixel_format: How the samples are stored.
        size: Width and height of the frames.
        out_size: Width and height of the result.
        part: What of the frame is scaled; None for all of it.
        matrix: Y'CbCr matrix, not used for BGR.
        is_full_range: Whether luma covers all values rather than 16 to 235 of 255.

    Returns:
        uint8 RGB (frames, height, width, 3).

    Raises:
        BackendError: The native module is missing.
        ConfigError: A plane, size or part does not fit.
    """
    width, height = out_size
    out = np.empty((len(frames), height, width, 3), np.uint8)
    part = part or (0, 0, *size)
    _loaded().preprocess([list(frame) for frame in frames], pixel_format, size, part, out, matrix, is_full_range)
    return out


def mark(
    planes: Sequence[Plane],
    probability: Probability,
    *,
    threshold: float,
    band: Band,
    line: Sequence[float],
    casing: Sequence[float],
    part: Part | None = None,
) -> None:
    """Outline where a probability map reaches a threshold, in place; samples that are not covered keep their bits.

    Unlike polyps from `contours.polyps_from_probability`, the line is not smoothed, and small regions are marked too.

    Args:
        planes: The frame's color components; the first one has a sample per pixel.
        probability: float32 (H, W) in [0, 1].
        threshold: Probability from which a pixel belongs to a polyp.
        band: Size and opacity of the marker.
        line: The line's color on each plane.
        casing: The same for its dark edges.
        part: Where in the frame the map lies; None for all of it.

    Raises:
        BackendError: The native module is missing.
        ConfigError: The map has values that are not finite, or an argument is out of range.
    """
    height, width = planes[0].samples.shape
    place = part or (0, 0, width, height)
    rows = np.asarray(probability, np.float32)
    rows = rows if rows.strides[1] == rows.itemsize else np.ascontiguousarray(rows)
    _loaded().mark(_specs(planes, line, casing), (width, height), rows, place, threshold, band)


def can_draw(planes: Sequence[Plane]) -> bool:
    """Whether `draw` knows these planes: not of the other byte order, and writable."""
    return all(plane.samples.dtype.isnative and plane.samples.flags.writeable for plane in planes)


def draw(
    planes: Sequence[Plane],
    contour: NDArray[np.float32],
    *,
    band: Band,
    line: Sequence[float],
    casing: Sequence[float],
) -> None:
    """Outline a closed contour, float32 (n, 2) in pixels of the frame, in place; the rest as for `mark`."""
    height, width = planes[0].samples.shape
    points = np.ascontiguousarray(contour, np.float32)
    _loaded().draw(_specs(planes, line, casing), (width, height), points, band)


def _loaded() -> ModuleType:
    if _module is None:
        raise BackendError(
            "polypstream was installed without its native module; install a C++ compiler, then polypstream again"
        )
    return _module


def _specs(planes: Sequence[Plane], line: Sequence[float], casing: Sequence[float]) -> list[tuple[Any, ...]]:
    return [
        (plane.samples, *plane.luma_per_sample, plane.shift, line_value, casing_value)
        for plane, line_value, casing_value in zip(planes, line, casing, strict=True)
    ]
