"""Access to the samples of a decoded frame: drawable pixel formats, and the layout of their components."""

import re
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError

Samples = NDArray[np.unsignedinteger[Any]]
"""uint8 or uint16 (H, W), any strides."""

_DRAWABLE = re.compile(
    r"(gray\d*|yuvj?a?4\d\dp\d*|gbra?p\d*"  # one plane per component
    r"|nv(12|16|20|21|24|42)|p[024](10|12|16))(msb)?(le|be)?"  # chroma interleaved on one plane
)
_CHROMA_SWAPPED = frozenset({"nv21", "nv42"})
_HIGH_BITS = re.compile(r"p[024]1\d(le|be)|.*msb(le|be)")
"""Formats whose values occupy the upper bits of 16."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One color component of a frame, in the decoder's memory."""

    samples: Samples
    """A writable view of the frame's memory, in native or swapped byte order."""
    luma_per_sample: tuple[int, int]
    """Number of pixels that share one sample, across and down; fewer at the right and lower edge."""
    bits: int
    """Values run from 0 to 2 ** bits - 1."""
    shift: int
    """Number of bits by which values are shifted left in a sample."""


def is_drawable(pixel_format: str) -> bool:
    """Whether `planes_of` supports this pixel format: planar or semi-planar, 8 to 16 bits, not in hardware."""
    if not _DRAWABLE.fullmatch(pixel_format):
        return False
    try:
        components = av.VideoFormat(pixel_format).components
    except ValueError:
        return False
    return all(8 <= component.bits <= 16 for component in components)


def planes_of(frame: av.VideoFrame) -> list[Plane]:
    """Views of the color components of a frame.

    Args:
        frame: A frame of a drawable pixel format; must be writable to be drawn on.

    Returns:
        Y, Cb, Cr, or Y alone, or R, G, B; without alpha.

    Raises:
        ConfigError: The pixel format is not drawable, or its rows are stored bottom up.
    """
    name = frame.format.name
    if not is_drawable(name):
        raise ConfigError(f"cannot draw on {name} frames; convert them to a planar format such as yuv420p first")
    big_endian = frame.format.is_big_endian
    planes = []
    for place, component in enumerate(frame.format.components):
        if component.is_alpha:
            continue
        memory = frame.planes[component.plane]
        if memory.line_size < 0:
            raise ConfigError(f"cannot draw on {name} frames stored bottom up; copy them to a new frame first")
        dtype: np.dtype[Any] = np.dtype("u1" if component.bits == 8 else ">u2" if big_endian else "<u2")
        rows = np.frombuffer(memoryview(memory), dtype=dtype).reshape(memory.height, -1)
        is_chroma = place > 0 and not frame.format.is_rgb
        if is_chroma and name.startswith(("nv", "p")):
            rows = rows[:, (place - 1) ^ (name in _CHROMA_SWAPPED) :: 2]
        across = 16 // frame.format.chroma_width(16) if is_chroma else 1
        down = 16 // frame.format.chroma_height(16) if is_chroma else 1
        planes.append(
            Plane(
                samples=rows[:, : -(-frame.width // across)],
                luma_per_sample=(across, down),
                bits=component.bits,
                shift=16 - component.bits if _HIGH_BITS.fullmatch(name) else 0,
            )
        )
    return planes
