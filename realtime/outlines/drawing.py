"""Marker drawing: draws polyp contours directly on the planes of a decoded frame.

There is no color conversion and no copy of the frame: only samples covered by a marker are read or written. Where the
native module is built, it draws the same faster. Of a frame in GPU memory, the rectangle around each marker is copied
to host memory, drawn on and copied back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime import native
from polypstream.realtime.outlines.contours import Polyp
from polypstream.realtime.video.color import color_values
from polypstream.realtime.video.device import Box, copy_boxes, is_on_device
from polypstream.realtime.video.planes import Plane, is_drawable, planes_of

__all__ = ["MarkerStyle", "draw_markers", "is_drawable", "marker_coverage"]

MIN_THICKNESS_PX = 1.5
"""Minimum thickness of a line, in pixels; thinner ones would break up on small frames."""
CASING_RGB = (0, 12, 8)

_LONGEST_PIECE = 5.0
"""Contours are drawn in straight segments of at most this many pixels."""
_PIECES_AT_ONCE = 256
"""Segments per batch: enough to amortize the calls, few enough for the cache."""


@dataclass(frozen=True, kw_only=True)
class MarkerStyle:
    """Appearance of the markers.

    Sizes are relative to the frame height and apply to coded pixels: with non-square pixels, lines are thicker in one
    direction on the display.
    """

    rgb: tuple[int, int, int] = (40, 255, 150)
    """0 to 255 each. The default green differs from mucosa, blood, bile and dye in white and narrow-band light."""
    thickness: float = 0.0035
    """Thickness of the colored line; at least 1.5 pixels are drawn."""
    casing: float = 0.0012
    """Thickness of the dark edges, which keep the line visible on bright tissue; 0 for none."""
    casing_opacity: float = 0.6
    opacity: float = 1.0
    """Opacity of the marker; 0 is invisible."""

    def __post_init__(self) -> None:
        if len(self.rgb) != 3 or not all(0 <= value <= 255 for value in self.rgb):
            raise ConfigError(f"the marker color is {self.rgb}; red, green and blue must be between 0 and 255")
        for name, limit in (("thickness", 0.05), ("casing", 0.05), ("casing_opacity", 1.0), ("opacity", 1.0)):
            value = getattr(self, name)
            if not 0 <= value <= limit:
                raise ConfigError(f"the marker's {name} is {value:g}; it must be between 0 and {limit:g}")


@dataclass(frozen=True, kw_only=True)
class _Ink:
    """The samples of a plane that one marker changes; each sample occurs once."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    line: NDArray[np.float32]
    """Weight of the line's color in [0, 1], (n,)."""
    casing: NDArray[np.float32]
    """Weight of the casing's color, (n,); line + casing ≤ 1, and the rest is the weight of the frame."""


def draw_markers(frame: av.VideoFrame, polyps: Sequence[Polyp], style: MarkerStyle) -> None:
    """Outline polyps on a frame, in place.

    Lines are anti-aliased by their distance from the contour; a chroma sample uses the mean of the pixels that share
    it. Samples not covered by a marker stay bit-exact.

    Args:
        frame: The frame; it must be writable. In GPU memory it must be NV12 or P010, and its context current.
        polyps: Polyps in pixels of the frame; contours may leave it.
        style: Appearance of the markers.

    Raises:
        ConfigError: The pixel format is packed or in other hardware, or a contour is not finite.
        BackendError: The GPU fails.
    """
    if is_on_device(frame):
        if polyps:
            _draw_on_device(frame, polyps, style)
        return
    if not polyps and is_drawable(frame.format.name):
        return
    line, casing = color_values(frame, style.rgb), color_values(frame, CASING_RGB)
    draw_on_planes(planes_of(frame), polyps, style, line=line, casing=casing)


def _draw_on_device(frame: av.VideoFrame, polyps: Sequence[Polyp], style: MarkerStyle) -> None:
    """Draw at the same place of a host frame, of which nothing but the rectangles around the markers is ever filled."""
    assert frame.sw_format is not None
    host = av.VideoFrame(frame.width, frame.height, frame.sw_format.name)
    host.colorspace, host.color_range = frame.colorspace, frame.color_range
    boxes = [_box_around(polyp.contour, style, width=frame.width, height=frame.height) for polyp in polyps]
    boxes = [(left, top, right, bottom) for left, top, right, bottom in boxes if left < right and top < bottom]
    copy_boxes(frame, host, boxes, to_device=False)
    draw_markers(host, polyps, style)
    copy_boxes(frame, host, boxes, to_device=True)


def _box_around(contour: NDArray[np.float32], style: MarkerStyle, *, width: int, height: int) -> Box:
    """The part of a frame that contains the marker of a contour (n, 2), and all pixels that share its chroma."""
    _require_finite(contour)
    reach = marker_band(style, height=height)[1] + 1
    low = np.clip(contour.min(axis=0) - reach, 0, (width, height)).astype(int) // 2 * 2
    high = -(-np.ceil(np.clip(contour.max(axis=0) + reach, 0, (width, height))).astype(int) // 2) * 2
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def draw_on_planes(
    planes: Sequence[Plane],
    polyps: Sequence[Polyp],
    style: MarkerStyle,
    *,
    line: Sequence[float],
    casing: Sequence[float],
) -> None:
    """Outline polyps on any planes, given the colors for each; the first plane must have one sample per pixel."""
    if native.is_available() and native.can_draw(planes):
        band = marker_band(style, height=planes[0].samples.shape[0])
        for polyp in polyps:
            native.draw(planes, polyp.contour, band=band, line=line, casing=casing)
        return
    for polyp in polyps:
        inks = _inks_on_planes(polyp.contour, style, planes)
        for plane, ink, line_value, casing_value in zip(planes, inks, line, casing, strict=True):
            _blend(plane, ink, line=line_value, casing=casing_value)


def marker_band(style: MarkerStyle, *, height: int) -> native.Band:
    """The marker's radii in pixels on a frame of so many rows, the line's and with its casing, and its opacities."""
    line_radius = max(style.thickness * height, MIN_THICKNESS_PX) / 2
    return line_radius, line_radius + style.casing * height, style.opacity, style.casing_opacity


def marker_coverage(frame: av.VideoFrame, polyps: Sequence[Polyp], style: MarkerStyle) -> list[NDArray[np.float32]]:
    """Compute how much of each sample the markers cover.

    Args:
        frame: The frame.
        polyps: Polyps in pixels of the frame.
        style: Appearance of the markers.

    Returns:
        float32 (H, W) in [0, 1] for each of Y, Cb, Cr (or R, G, B). `draw_markers` does not change samples that are 0.
    """
    planes = planes_of(frame)
    shown = [np.ones(plane.samples.shape, dtype=np.float32) for plane in planes]
    for polyp in polyps:
        for ink, left in zip(_inks_on_planes(polyp.contour, style, planes), shown, strict=True):
            left[ink.rows, ink.columns] *= 1 - ink.line - ink.casing
    return [1 - left for left in shown]


def _inks_on_planes(contour: NDArray[np.float32], style: MarkerStyle, planes: Sequence[Plane]) -> list[_Ink]:
    """Compute the ink of a closed contour (n, 2) on each plane; the first plane has one sample per pixel."""
    height, width = planes[0].samples.shape
    whole = _ink_on_pixels(contour, style, width=width, height=height)
    inks = {(1, 1): whole}
    for plane in planes:
        if plane.luma_per_sample not in inks:
            across, down = plane.luma_per_sample
            inks[across, down] = _subsampled(whole, across=across, down=down, width=width, height=height)
    return [inks[plane.luma_per_sample] for plane in planes]


def _ink_on_pixels(contour: NDArray[np.float32], style: MarkerStyle, *, width: int, height: int) -> _Ink:
    """Compute the ink of a closed contour (n, 2) on the pixels of a frame."""
    _require_finite(contour)
    line_radius, radius, *_ = marker_band(style, height=height)
    rows, columns, distance = _near_contour(contour, radius + 0.5, width=width, height=height)
    line = np.clip(line_radius + 0.5 - distance, 0, 1)
    both = np.clip(radius + 0.5 - distance, 0, 1)
    line_weight = style.opacity * line
    casing_weight = style.opacity * style.casing_opacity * (both - line)
    drawn = line_weight + casing_weight > 0
    return _Ink(rows=rows[drawn], columns=columns[drawn], line=line_weight[drawn], casing=casing_weight[drawn])


def _require_finite(contour: NDArray[np.float32]) -> None:
    if not np.isfinite(contour).all():
        raise ConfigError("a contour has coordinates that are not finite; check the polyps passed for drawing")


def _near_contour(
    contour: NDArray[np.float32], reach: float, *, width: int, height: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return row and column of all pixels whose centers are within `reach` of a closed contour, and their distances."""
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
    """Return pixels within `reach` of straight segments, as row · columns + column, and their squared distances.

    A pixel occurs once per segment it is close to. All pixels close to a segment must have row, column ≥ 0.
    """
    # Compare each segment with the pixels of a window around its middle: (window row, window column, segment).
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
    """Split a closed contour into short straight segments, start and direction (n, 2), near the frame."""
    start = contour.astype(np.float64)
    way = np.roll(start, -1, axis=0) - start
    with np.errstate(divide="ignore", invalid="ignore"):
        to_low, to_high = (-reach - start) / way, (np.array([width, height]) + reach - start) / way
    # 0 / 0 is a segment that runs along the limit; fmin and fmax ignore it.
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
    """Average ink over blocks of `across` × `down` pixels, incomplete ones at the right and lower edges included."""
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
    """Blend the ink's colors into the samples it covers."""
    old = plane.samples[ink.rows, ink.columns] >> plane.shift
    new = old * (1 - ink.line - ink.casing) + line * ink.line + casing * ink.casing
    plane.samples[ink.rows, ink.columns] = np.rint(new).astype(plane.samples.dtype) << plane.shift
