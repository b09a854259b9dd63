"""Contours: from a probability map to polyps in source pixels, and from polyps to a mask.

Coordinates are continuous: pixel (i, j) covers [i, i + 1) × [j, j + 1), its center is at +0.5, and the whole image is
[0, width] × [0, height]. A pixel of the model's map covers (width / model width) × (height / model height) of these.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability
from polypstream.content import Crop, whole_image
from polypstream.contract import MIN_AREA_SHARE
from polypstream.errors import ConfigError

Points = NDArray[np.float64]
"""float64 (n, 2): x, y along a closed curve; the last point is connected to the first."""

SMOOTHING = 2.5
"""Standard deviation, in model pixels along the curve, of the filter that removes the staircase from a contour."""
VERTEX_TOLERANCE = 0.05
"""Vertices are removed if this moves the contour by no more than this distance, in source pixels."""

_MARGIN = 8
"""Padding of the map in model pixels, so that smoothing does not round off corners of the image."""
_STEPS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)])
"""x, y of the eight neighbors, counterclockwise on screen from the right."""


@dataclass(frozen=True, kw_only=True)
class Polyp:
    """One connected polyp region, in source pixels (the module's docstring defines the coordinates)."""

    contour: NDArray[np.float32]
    """x, y: float32 (n, 2), the last point connected to the first. Encloses any holes."""
    box: tuple[float, float, float, float]
    """x, y, width, height of the contour's axis-aligned bounding box."""
    area: float
    """Area enclosed by the contour, in square source pixels."""
    score: float
    """Mean probability of the region's model pixels that reach the threshold."""


def polyp_from_contour(contour: NDArray[np.float32], *, score: float) -> Polyp:
    """Create the polyp enclosed by a contour, float32 (n, 2) in source pixels."""
    left, top = contour.min(axis=0).tolist()
    right, bottom = contour.max(axis=0).tolist()
    return Polyp(
        contour=contour,
        box=(left, top, right - left, bottom - top),
        area=float(cv2.contourArea(contour)),
        score=score,
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a probability map lies within a larger one, which is zero elsewhere."""

    crop: Crop
    """The part that is given, of the size of the map."""
    rows: int
    """Size of the larger map."""
    columns: int


def without_weak_regions(probability: Probability, *, threshold: float, min_peak: float) -> Probability:
    """Set regions that never reach `min_peak` to 0; everything else stays as it is (hysteresis thresholding).

    A region is connected, through sides or corners, and reaches `threshold` everywhere. A polyp is nearly always found
    with high confidence somewhere; what stays just above the threshold is mostly a fold or a reflection.

    Args:
        probability: float32 (H, W) in [0, 1].
        threshold: Probability from which a pixel belongs to a region.
        min_peak: Probability that a region must reach somewhere; up to `threshold`, it changes nothing.

    Returns:
        float32 (H, W); the same array if nothing is removed.
    """
    if min_peak <= threshold:
        return probability
    count, regions = cv2.connectedComponents((probability >= threshold).astype(np.uint8), connectivity=8)
    is_strong = np.zeros(count, np.bool_)
    is_strong[0] = True  # what is below the threshold
    is_strong[regions[probability >= min_peak]] = True
    return probability if is_strong.all() else np.where(is_strong[regions], probability, np.float32(0))


def polyps_from_probability(
    probability: Probability,
    *,
    threshold: float,
    width: int,
    height: int,
    min_area_share: float = MIN_AREA_SHARE,
    min_peak: float = 0.0,
    place: Place | None = None,
) -> list[Polyp]:
    """Find the polyps in a probability map.

    A polyp is a connected region (through sides or corners) whose probability reaches `threshold`. Its contour is the
    level line of the map between pixels, smoothed, scaled and clipped to the image. Holes are filled, including islands
    in them.

    Args:
        probability: float32 (H, W) in [0, 1], as returned by a segmenter for the whole image, or for the part `place`.
        threshold: Probability from which a pixel belongs to a polyp.
        width: Width of the source image in pixels.
        height: Height of the source image in pixels.
        min_area_share: Regions smaller than this share of the image are ignored.
        min_peak: Regions that never reach this probability are ignored.
        place: Where the map lies within that of the whole image. The result is the same as if it were placed there.

    Returns:
        The polyps, largest first.

    Raises:
        ConfigError: An argument is out of range.
    """
    _check_share("threshold", threshold)
    _check_share("min_area_share", min_area_share)
    _check_share("min_peak", min_peak)
    if width < 1 or height < 1:
        raise ConfigError(f"an image of {width}x{height} has no pixels; give the width and height of the source")
    if not (probability >= threshold).any():
        return []
    probability = without_weak_regions(probability, threshold=threshold, min_peak=min_peak)
    if place is None:
        rows, columns = probability.shape
        place = Place(crop=whole_image(height=rows, width=columns), rows=rows, columns=columns)
    rows, columns, origin = place.rows, place.columns, np.array([place.crop.left, place.crop.top])
    padded = _continued(probability, place)
    mask = (padded >= threshold).astype(np.uint8)
    mask[[0, -1]] = 0
    mask[:, [0, -1]] = 0
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    size = np.array([width, height], dtype=np.float64)
    scale = size / (columns, rows)
    polyps = []
    for outline in (np.asarray(walk, dtype=np.int32).reshape(-1, 2) for walk in outlines):
        box = cv2.boundingRect(outline)
        if (box[2] + 2) * (box[3] + 2) < min_area_share * rows * columns:
            continue  # its level line encloses even less
        line = _level_line(outline, padded, threshold, origin=origin) - _MARGIN
        contour = _thinned(np.clip(_smoothed(line, finest=1 / scale.max()) * scale, 0, size))
        polyp = polyp_from_contour(contour, score=_mean_inside(outline, box, mask, padded))
        if polyp.area >= min_area_share * width * height:
            polyps.append(polyp)
    return sorted(polyps, key=lambda polyp: polyp.area, reverse=True)


def mask_from_polyps(polyps: Iterable[Polyp], *, width: int, height: int) -> NDArray[np.bool_]:
    """Rasterize contours: pixels whose centers they enclose, bool (height, width). They may leave the image."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for polyp in polyps:
        mask |= _winding(polyp.contour.astype(np.float64), width=width, height=height) != 0
    return mask


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value:g}; it must be between 0 and 1")


def _continued(probability: Probability, place: Place) -> Probability:
    """Pad the map by `_MARGIN` pixels: with its edge values at edges of the whole map, with zeros at others."""
    crop = place.crop
    edges = (crop.top == 0, crop.bottom == place.rows, crop.left == 0, crop.right == place.columns)
    top, bottom, left, right = (0 if is_outer else _MARGIN for is_outer in edges)
    padded = cv2.copyMakeBorder(probability, top, bottom, left, right, cv2.BORDER_CONSTANT, value=0)
    top, bottom, left, right = (_MARGIN - side for side in (top, bottom, left, right))
    return np.asarray(cv2.copyMakeBorder(padded, top, bottom, left, right, cv2.BORDER_REPLICATE), dtype=np.float32)


def _sides_passed() -> NDArray[np.int8]:
    """Tabulate which sides of a border pixel a border walk passes, in order: int8 (8 × 8, 4), padded with -1.

    The row is 8 · (direction back to the previous pixel) + (direction to the next pixel). The walk keeps the region on
    its left; turning counterclockwise from the previous pixel, it only passes outside pixels until the next one.
    """
    table = np.full((64, 4), -1, dtype=np.int8)
    for back in range(8):
        for onward in range(8):
            turns = (onward - back - 1) % 8
            sides = [(back + turn) % 8 for turn in range(1, turns + 1) if (back + turn) % 2 == 0]
            table[8 * back + onward, : len(sides)] = sides
    return table


_SIDES_PASSED = _sides_passed()
_DIRECTION = np.zeros((3, 3), dtype=np.intp)
_DIRECTION[_STEPS[:, 1] + 1, _STEPS[:, 0] + 1] = np.arange(8)


def _level_line(
    outline: NDArray[np.int32], probability: Probability, level: float, *, origin: NDArray[np.intp]
) -> Points:
    """Find where the probability crosses `level` at the border of a region: one point per outer pixel side.

    `outline` (n, 2) is the walk along the region's border pixels from `cv2.findContours`; it must not touch the border
    of the array. Points count from where the array's corner lies at `origin`, x and y.
    """
    if len(outline) == 1:
        sides, walk = np.array([0, 2, 4, 6]), np.zeros(4, dtype=np.intp)
    else:
        step = np.roll(outline, -1, axis=0) - outline + 1
        onward = _DIRECTION[step[:, 1], step[:, 0]]
        back = (np.roll(onward, 1) + 4) % 8
        passed = _SIDES_PASSED[8 * back + onward]
        walk, column = np.nonzero(passed >= 0)
        sides = passed[walk, column]
    inner = outline[walk]
    way = _STEPS[sides]
    outer = inner + way
    inside = probability[inner[:, 1], inner[:, 0]].astype(np.float64)
    drop = inside - probability[outer[:, 1], outer[:, 0]]
    # In the padding the map is constant, so nothing is crossed. At least 0.05, or a region could vanish.
    share = np.divide(inside - level, drop, out=np.full_like(drop, 0.5), where=drop > 0)
    return np.asarray(inner + origin + 0.5 + way * np.clip(share, 0.05, 1)[:, np.newaxis])


def _smoothed(line: Points, *, finest: float) -> Points:
    """Low-pass filter a closed curve (cutoff 1 / `SMOOTHING`), in even steps of at most half a model pixel.

    The filter is 2 g - g² with a Gaussian g: unlike g itself, it does not shrink round shapes. It is narrower on short
    curves. On large images, the steps are about 2.5 `finest`.
    """
    closed = np.vstack((line, line[:1]))
    along = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(closed, axis=0).T))))
    length = along[-1]
    count = max(16, int(np.ceil(length / min(0.5, 2.5 * finest))))
    at = np.arange(count) * (length / count)
    curve = np.interp(at, along, closed[:, 0]) + 1j * np.interp(at, along, closed[:, 1])
    sigma = min(SMOOTHING, length / 20)
    gauss = np.exp(-0.5 * (2 * np.pi * sigma * np.fft.fftfreq(count, d=length / count)) ** 2)
    curve = np.fft.ifft(np.fft.fft(curve) * (2 - gauss) * gauss)
    return np.column_stack((curve.real, curve.imag))


def _thinned(curve: Points) -> NDArray[np.float32]:
    """Simplify a curve with `VERTEX_TOLERANCE`; unchanged if too few vertices would remain."""
    dense = curve.astype(np.float32)
    thin = cv2.approxPolyDP(dense, VERTEX_TOLERANCE, True).reshape(-1, 2)
    return np.asarray(thin if len(thin) > 3 else dense, dtype=np.float32)


def _mean_inside(outline: NDArray[np.int32], box: Sequence[int], mask: NDArray[np.uint8], padded: Probability) -> float:
    """Return the mean probability of the pixels of `mask` within an outline, without the padding."""
    left, top, width, height = box
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.drawContours(inside, [outline], 0, 1, cv2.FILLED, offset=(-left, -top))
    inside &= mask[top : top + height, left : left + width]
    rows = slice(max(_MARGIN - top, 0), padded.shape[0] - _MARGIN - top)
    columns = slice(max(_MARGIN - left, 0), padded.shape[1] - _MARGIN - left)
    values = padded[top : top + height, left : left + width]
    return float(cv2.mean(values[rows, columns], inside[rows, columns])[0])


def _winding(contour: Points, *, width: int, height: int) -> NDArray[np.int32]:
    """Return the winding number of a closed curve around each pixel center: int32 (height, width)."""
    start, end = contour, np.roll(contour, -1, axis=0)
    upper = np.minimum(start[:, 1], end[:, 1])
    lower = np.maximum(start[:, 1], end[:, 1])
    first = np.ceil(np.clip(upper - 0.5, 0, height)).astype(np.intp)
    rows = np.ceil(np.clip(lower - 0.5, 0, height)).astype(np.intp) - first
    edge = np.repeat(np.arange(len(contour)), rows)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(rows) - rows, rows) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    x = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.ceil(np.clip(x - 0.5, 0, width)).astype(np.intp)
    turns = np.zeros((height, width + 1), dtype=np.int32)
    np.add.at(turns, (row, column), np.where(end[edge, 1] > start[edge, 1], 1, -1))
    return np.asarray(np.cumsum(turns, axis=1, dtype=np.int32)[:, :-1])
