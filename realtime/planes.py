"""What the numbers on a decoded picture's planes mean: which formats we can draw on, where each colour component's
samples lie, and which values a colour has there.
"""

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
    r"(gray\d*|yuvj?a?4\d\dp\d*|gbra?p\d*"  # a plane for each component
    r"|nv(12|16|20|21|24|42)|p[024](10|12|16))(msb)?(le|be)?"  # chroma interleaved on one plane
)
_CHROMA_SWAPPED = frozenset({"nv21", "nv42"})
_HIGH_BITS = re.compile(r"p[024]1\d(le|be)|.*msb(le|be)")
"""Formats whose values fill the upper bits of each 16."""

_BT709 = (0.2126, 0.0722)
_BT601 = (0.299, 0.114)
_LUMA_SHARES = {
    1: _BT709,
    4: (0.30, 0.11),
    5: _BT601,
    6: _BT601,
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
"""How much of red and of blue there is in luma, by FFmpeg's `AVColorSpace` (ISO/IEC 23091-2)."""
_LIMITED, _FULL = 1, 2
"""FFmpeg's `AVColorRange`."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One colour component of a picture, as the decoder left it."""

    samples: Samples
    """A writable view of the picture's own memory, in native or swapped byte order."""
    luma_per_sample: tuple[int, int]
    """How many of the picture's pixels share one sample, across and down; fewer at the right and lower edge."""
    bits: int
    """Values run from 0 to 2 ** bits - 1."""
    shift: int
    """A sample holds its value shifted left by this."""


def is_drawable(pixel_format: str) -> bool:
    """Whether `planes_of` knows this pixel format: planar or semi-planar, 8 to 16 bits, not in hardware."""
    if not _DRAWABLE.fullmatch(pixel_format):
        return False
    try:
        components = av.VideoFormat(pixel_format).components
    except ValueError:
        return False
    return all(8 <= component.bits <= 16 for component in components)


def planes_of(picture: av.VideoFrame) -> list[Plane]:
    """Views of the colour components of a picture: Y, Cb, Cr, or Y alone, or R, G, B. Alpha is left out.

    Raises `ConfigError` where the pixel format is not drawable or the rows are stored bottom up.
    """
    name = picture.format.name
    if not is_drawable(name):
        raise ConfigError(f"cannot draw on {name} pictures; convert them to a planar format such as yuv420p first")
    big_endian = picture.format.is_big_endian
    planes = []
    for place, component in enumerate(picture.format.components):
        if component.is_alpha:
            continue
        memory = picture.planes[component.plane]
        if memory.line_size < 0:
            raise ConfigError(f"cannot draw on {name} pictures stored bottom up; copy them to a new frame first")
        dtype: np.dtype[Any] = np.dtype("u1" if component.bits == 8 else ">u2" if big_endian else "<u2")
        rows = np.frombuffer(memoryview(memory), dtype=dtype).reshape(memory.height, -1)
        is_chroma = place > 0 and not picture.format.is_rgb
        if is_chroma and name.startswith(("nv", "p")):
            rows = rows[:, (place - 1) ^ (name in _CHROMA_SWAPPED) :: 2]
        across = 16 // picture.format.chroma_width(16) if is_chroma else 1
        down = 16 // picture.format.chroma_height(16) if is_chroma else 1
        planes.append(
            Plane(
                samples=rows[:, : -(-picture.width // across)],
                luma_per_sample=(across, down),
                bits=component.bits,
                shift=16 - component.bits if _HIGH_BITS.fullmatch(name) else 0,
            )
        )
    return planes


def colour_on(picture: av.VideoFrame, rgb: tuple[int, int, int]) -> list[float]:
    """The values that an R'G'B' colour (0 to 255) has on each of `planes_of(picture)`, not rounded, before any shift.

    Follows the picture's own matrix and range. Where it names none, players assume BT.709 from 720 rows up and BT.601
    below, the limited range, and the full range for grey and `yuvj` formats; so do we.
    """
    bits = picture.format.components[0].bits
    if picture.format.is_rgb:
        return [value / 255 * (2**bits - 1) for value in rgb]
    values = ycbcr_of(
        rgb,
        bits=bits,
        colorspace=int(picture.colorspace),
        height=picture.height,
        is_full_range=_is_full_range(picture),
    )
    return values[: len(picture.format.components)]


def ycbcr_of(rgb: tuple[int, int, int], *, bits: int, colorspace: int, height: int, is_full_range: bool) -> list[float]:
    """Y', Cb, Cr of an R'G'B' colour (0 to 255), not rounded; an unknown `colorspace` is guessed from the height."""
    red, green, blue = (value / 255 for value in rgb)
    of_red, of_blue = _LUMA_SHARES.get(colorspace, _BT709 if height >= 720 else _BT601)
    luma = of_red * red + (1 - of_red - of_blue) * green + of_blue * blue
    chroma = ((blue - luma) / (2 * (1 - of_blue)), (red - luma) / (2 * (1 - of_red)))
    unit = 2.0 ** (bits - 8)
    if is_full_range:
        top = 2**bits - 1
        return [luma * top, *(min(128 * unit + c * top, top) for c in chroma)]
    return [(16 + 219 * luma) * unit, *((128 + 224 * c) * unit for c in chroma)]


def _is_full_range(picture: av.VideoFrame) -> bool:
    if picture.format.name.startswith("yuvj"):
        return True
    if picture.color_range in (_LIMITED, _FULL):
        return bool(picture.color_range == _FULL)
    return picture.format.name.startswith("gray")
