"""Markers on a decoded picture's own planes: polyp contours, and nothing else touched.

No colour conversion and no copy of the picture: only samples that a marker covers are read or written.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime.contours import Polyp
from polypstream.realtime.planes import Plane, colour_on, is_drawable, planes_of

__all__ = ["MarkerStyle", "draw_markers", "is_drawable", "marker_coverage"]

MIN_THICKNESS_PX = 1.5
"""A line is at least this thick, or it would break up on small pictures."""
CASING_RGB = (0, 12, 8)

_LONGEST_PIECE = 5.0
"""Contours are drawn in straight pieces of at most this many pixels."""
_PIECES_AT_ONCE = 256
"""Enough to outweigh the calls, few enough for the cache."""


@dataclass(frozen=True, kw_only=True)
class MarkerStyle:
    """How polyps are outlined. Sizes are shares of the picture's height and count coded pixels: where pixels are not
    square, a line is thicker in one direction on display.
    """

    rgb: tuple[int, int, int] = (40, 255, 150)
    """A green that neither mucosa, blood, bile nor dye has, in white light or narrow band; 0 to 255 each."""
    thickness: float = 0.0035
    """Of the coloured line; never under 1.5 pixels."""
    casing: float = 0.0012
    """Of the dark edge on either side of it, which keeps it visible on bright tissue; 0 for none."""
    casing_opacity: float = 0.6
    opacity: float = 1.0
    """Of the whole marker, 0 for invisible."""

    def __post_init__(self) -> None:
        if len(self.rgb) != 3 or not all(0 <= value <= 255 for value in self.rgb):
            raise ConfigError(f"the marker colour is {self.rgb}; give red, green and blue from 0 to 255")
        for name, limit in (("thickness", 0.05), ("casing", 0.05), ("casing_opacity", 1.0), ("opacity", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigError(f"the marker's {name} is {value:g}; it should be from 0 to {limit:g}")


@dataclass(frozen=True, kw_only=True)
class _Ink:
    """What one marker puts on a plane, sample by sample; no sample occurs twice."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    line: NDArray[np.float32]
    """Weight of the line's colour in [0, 1], (n,)."""
    casing: NDArray[np.float32]
    """Weight of the casing's colour, (n,); line + casing ≤ 1, and what is left is the picture's own."""


def draw_markers(picture: av.VideoFrame, polyps: Sequence[Polyp], style: MarkerStyle) -> None:
    """Outline polyps on a picture, in place; the picture must be writable already.

    Lines are anti-aliased by their distance from the contour; a chroma sample takes the mean over the pixels that
    share it. Samples that no marker covers keep every bit. Contours may leave the picture.

    Raises `ConfigError` for packed and hardware pixel formats and for contours that are not finite.
    """
    line, casing = colour_on(picture, style.rgb), colour_on(picture, CASING_RGB)
    draw_on_planes(planes_of(picture), polyps, style, line=line, casing=casing)


def draw_on_planes(
    planes: Sequence[Plane],
    polyps: Sequence[Polyp],
    style: MarkerStyle,
    *,
    line: Sequence[float],
    casing: Sequence[float],
) -> None:
    """The same for planes from anywhere, the first of which has a sample for each pixel, with the colours on each."""
    for polyp in polyps:
        inks = _inks_on_planes(polyp.contour, style, planes)
        for plane, ink, line_value, casing_value in zip(planes, inks, line, casing, strict=True):
            _blend(plane, ink, line=line_value, casing=casing_value)


def marker_coverage(picture: av.VideoFrame, polyps: Sequence[Polyp], style: MarkerStyle) -> list[NDArray[np.float32]]:
    """How much of each sample the markers hide: float32 in [0, 1], one (H, W) for each of Y, Cb, Cr (or R, G, B).

    `draw_markers` leaves alone what is 0 here.
    """
    planes = planes_of(picture)
    shown = [np.ones(plane.samples.shape, dtype=np.float32) for plane in planes]
    for polyp in polyps:
        for ink, left in zip(_inks_on_planes(polyp.contour, style, planes), shown, strict=True):
            left[ink.rows, ink.columns] *= 1 - ink.line - ink.casing
    return [1 - left for left in shown]


def _inks_on_planes(contour: NDArray[np.float32], style: MarkerStyle, planes: Sequence[Plane]) -> list[_Ink]:
    """The ink of one closed contour (n, 2) on each plane, the first of which has a sample for each pixel."""
    height, width = planes[0].samples.shape
    whole = _ink_on_pixels(contour, style, width=width, height=height)
    inks = {(1, 1): whole}
    for plane in planes:
        if plane.luma_per_sample not in inks:
            across, down = plane.luma_per_sample
            inks[across, down] = _subsampled(whole, across=across, down=down, width=width, height=height)
    return [inks[plane.luma_per_sample] for plane in planes]


def _ink_on_pixels(contour: NDArray[np.float32], style: MarkerStyle, *, width: int, height: int) -> _Ink:
    """The ink of one closed contour (n, 2) on each pixel of a picture."""
    if not np.isfinite(contour).all():
        raise ConfigError("a contour has coordinates that are not finite; nothing is drawn from it")
    line_radius = max(style.thickness * height, MIN_THICKNESS_PX) / 2
    radius = line_radius + style.casing * height
    rows, columns, distance = _near_contour(contour, radius + 0.5, width=width, height=height)
    line = np.clip(line_radius + 0.5 - distance, 0, 1)
    both = np.clip(radius + 0.5 - distance, 0, 1)
    line_weight = style.opacity * line
    casing_weight = style.opacity * style.casing_opacity * (both - line)
    drawn = line_weight + casing_weight > 0
    return _Ink(rows=rows[drawn], columns=columns[drawn], line=line_weight[drawn], casing=casing_weight[drawn])


def _near_contour(
    contour: NDArray[np.float32], reach: float, *, width: int, height: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Row and column of each pixel whose centre lies within `reach` of a closed contour, and its distance from it."""
    start, way = _pieces(contour, reach, width=width, height=height)
    if not len(start):
        nothing = np.empty(0, dtype=np.intp)
        return nothing, nothing, np.empty(0, dtype=np.float32)
    ends = np.concatenate((start, start + way))
    low, high = np.floor(ends.min(axis=0) - reach), np.ceil(ends.max(axis=0) + reach)
    columns, rows = (high - low).astype(np.intp).tolist()
    nearest = np.full(rows * columns, np.inf, dtype=np.float32)
    for first in range(0, len(start), _PIECES_AT_ONCE):
        some = slice(first, first + _PIECES_AT_ONCE)
        pixel, square = _near_pieces(start[some] - low, way[some], reach, columns=columns)
        np.minimum.at(nearest, pixel, square)
    found = np.flatnonzero(nearest < np.inf)
    row, column = np.divmod(found, columns)
    row, column = row + int(low[1]), column + int(low[0])
    seen = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return row[seen], column[seen], np.sqrt(nearest[found[seen]])


def _near_pieces(
    start: NDArray[np.float64], way: NDArray[np.float64], reach: float, *, columns: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Pixels within `reach` of straight pieces, as row · columns + column, and the squares of their distances.

    A pixel occurs once for each piece it is near. All pixels near a piece must have row, column ≥ 0.
    """
    # Each piece is compared with the pixels of one window around its middle: (window row, window column, piece).
    span = int(np.ceil(2 * reach + np.abs(way).max())) + 1
    corner = np.floor(start + way / 2 - span / 2 + 0.5)
    x0, y0 = (corner + 0.5 - start).T.astype(np.float32)
    across, down = way.T.astype(np.float32)
    inverse = 1 / np.maximum(across**2 + down**2, np.float32(1e-12))
    step = np.arange(span)[:, np.newaxis]
    dx, dy = x0 + step.astype(np.float32), y0 + step.astype(np.float32)
    along = (dx * (across * inverse))[np.newaxis] + (dy * (down * inverse))[:, np.newaxis]
    np.clip(along, 0, 1, out=along)
    square = np.square(dx[np.newaxis] - along * across)
    square += np.square(dy[:, np.newaxis] - along * down)
    near = np.flatnonzero(square < reach**2)
    column, row = corner.astype(np.intp).T[:, np.newaxis] + step
    pixel = (row * columns)[:, np.newaxis] + column[np.newaxis]
    return pixel.ravel()[near], square.ravel()[near]


def _pieces(
    contour: NDArray[np.float32], reach: float, *, width: int, height: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A closed contour as short straight pieces, start and way (n, 2), as far as they are in reach of the picture."""
    start = contour.astype(np.float64)
    way = np.roll(start, -1, axis=0) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = (-reach - start) / way, (np.array([width, height]) + reach - start) / way
    # 0 / 0 is a piece that runs along the limit; fmin and fmax pass over it.
    enters = np.fmax(np.fmin(to_low, to_high).max(axis=1), 0)
    leaves = np.fmin(np.fmax(to_low, to_high).min(axis=1), 1)
    inside = enters <= leaves
    start, way, enters, leaves = start[inside], way[inside], enters[inside, np.newaxis], leaves[inside, np.newaxis]
    start, way = start + way * enters, way * (leaves - enters)
    count = np.maximum(np.ceil(np.hypot(*way.T) / _LONGEST_PIECE), 1).astype(np.intp)
    piece = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    way = np.repeat(way / count[:, np.newaxis], count, axis=0)
    return np.repeat(start, count, axis=0) + way * piece[:, np.newaxis], way


def _subsampled(ink: _Ink, *, across: int, down: int, width: int, height: int) -> _Ink:
    """Ink averaged over blocks of `across` × `down` pixels, those at the right and lower edge as far as they go."""
    if not len(ink.rows):
        return ink
    rows, columns = ink.rows // down, ink.columns // across
    block = rows * width + columns
    order = np.argsort(block, kind="stable")
    first = np.flatnonzero(np.diff(block[order], prepend=-1))
    rows, columns = rows[order[first]], columns[order[first]]
    pixels = np.minimum(across, width - columns * across) * np.minimum(down, height - rows * down)
    share = (1 / pixels).astype(np.float32)
    line, casing = (np.add.reduceat(weight[order], first) * share for weight in (ink.line, ink.casing))
    return _Ink(rows=rows, columns=columns, line=line, casing=casing)


def _blend(plane: Plane, ink: _Ink, *, line: float, casing: float) -> None:
    """Mix the ink's colours into the samples it covers."""
    old = plane.samples[ink.rows, ink.columns] >> plane.shift
    new = old * (1 - ink.line - ink.casing) + line * ink.line + casing * ink.casing
    plane.samples[ink.rows, ink.columns] = np.rint(new).astype(plane.samples.dtype) << plane.shift
