"""From a probability map to polyps in the pixels of the source picture, and back to a mask.

Coordinates are continuous: pixel (i, j) covers [i, i + 1) × [j, j + 1) and its centre lies at +0.5, so the whole
picture is [0, width] × [0, height]. A pixel of the model's map covers width / model width by height / model height of
them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import BackendError, ConfigError
from polypstream.realtime.frame import Probability

Points = NDArray[np.float64]
"""float64 (n, 2): x, y along a closed curve, the last point joined to the first."""

MIN_AREA_SHARE = 0.0005
"""Smaller regions are noise: the smallest polyp of CVC-ClinicDB covers 0.0017 of its picture, the specks left in the
masks of public sets under 0.0001."""
SMOOTHING = 2.5
"""Standard deviation, in model pixels along the curve, of the filter that takes the staircase out of a contour."""
VERTEX_TOLERANCE = 0.05
"""Vertices are left out where the contour moves by no more than this, in source pixels."""

_MARGIN = 8
"""By how many model pixels the map goes on beyond its edge, lest smoothing round the picture's corners."""
_STEPS = np.array([(1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1)])
"""x, y of the eight neighbours, anticlockwise on screen from the right."""


@dataclass(frozen=True, kw_only=True)
class Polyp:
    """One connected region of polyp, in source pixels (see the module for what a coordinate means)."""

    contour: NDArray[np.float32]
    """x, y (n, 2), the last point joined to the first. Encloses the region's holes."""
    box: tuple[float, float, float, float]
    """x, y, width, height of the smallest upright rectangle around the contour."""
    area: float
    """What the contour encloses, in source pixels squared."""
    mean_probability: float
    """Over the model's pixels in the region that reach the threshold."""


def polyp_from_contour(contour: NDArray[np.float32], *, mean_probability: float) -> Polyp:
    """The polyp that a contour (n, 2) encloses."""
    left, top = contour.min(axis=0).tolist()
    right, bottom = contour.max(axis=0).tolist()
    return Polyp(
        contour=contour,
        box=(left, top, right - left, bottom - top),
        area=float(cv2.contourArea(contour)),
        mean_probability=mean_probability,
    )


def mask_from_probability(probability: Probability, threshold: float) -> NDArray[np.bool_]:
    """Where the probability reaches `threshold`: bool (H, W).

    Raises `BackendError` for anything but a float32 map of numbers in [0, 1], since nothing may be drawn from it.
    """
    _check_probability(probability)
    _check_share("threshold", threshold)
    return np.asarray(probability >= threshold)


def polyps_from_probability(
    probability: Probability, *, threshold: float, width: int, height: int, min_area_share: float = MIN_AREA_SHARE
) -> list[Polyp]:
    """The polyps of a picture of `width` × `height` pixels, which the model saw stretched to the map's size.

    A polyp is a region of the map, connected through sides or corners, where the probability reaches `threshold`. Its
    contour is the level line of the map between pixels, smoothed, scaled and clipped to the picture. Holes are filled,
    islands in them included. Regions smaller than `min_area_share` of the picture are left out. Largest first.

    Raises `BackendError` for anything but a float32 map of numbers in [0, 1].
    """
    _check_probability(probability)
    _check_share("threshold", threshold)
    _check_share("min_area_share", min_area_share)
    if width < 1 or height < 1:
        raise ConfigError(f"a picture of {width}x{height} has no pixels; give the source's width and height")
    rows, columns = probability.shape
    padded = _continued(probability)
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
            continue  # its level line encloses less still
        line = _level_line(outline, padded, threshold) - _MARGIN
        contour = _thinned(np.clip(_smoothed(line, finest=1 / scale.max()) * scale, 0, size))
        polyp = polyp_from_contour(contour, mean_probability=_mean_inside(outline, box, mask, padded))
        if polyp.area >= min_area_share * width * height:
            polyps.append(polyp)
    return sorted(polyps, key=lambda polyp: polyp.area, reverse=True)


def mask_from_polyps(polyps: Iterable[Polyp], *, width: int, height: int) -> NDArray[np.bool_]:
    """The pixels whose centre some polyp's contour encloses: bool (height, width). Contours may leave the picture."""
    mask = np.zeros((height, width), dtype=np.bool_)
    for polyp in polyps:
        mask |= _winding(polyp.contour.astype(np.float64), width=width, height=height) != 0
    return mask


def _check_probability(probability: Probability) -> None:
    if probability.dtype != np.float32 or probability.ndim != 2 or not probability.size:
        got = f"{probability.dtype} {probability.shape}"
        raise BackendError(
            f"the network returned {got}, not a float32 map (height, width); use a model of this package"
        )
    low, high = float(probability.min()), float(probability.max())  # NaN if any is
    if not (low >= 0 and high <= 1):
        raise BackendError(
            f"the network returned values from {low:g} to {high:g}, not probabilities in [0, 1];"
            " nothing is drawn from them: try another backend or precision"
        )


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value:g}; it should be from 0 to 1")


def _continued(probability: Probability) -> Probability:
    """The map with its edge repeated outwards `_MARGIN` times."""
    padded = cv2.copyMakeBorder(probability, _MARGIN, _MARGIN, _MARGIN, _MARGIN, cv2.BORDER_REPLICATE)
    return np.asarray(padded, dtype=np.float32)


def _sides_passed() -> NDArray[np.int8]:
    """Which of the four sides of a border pixel a border walk passes, in order: int8 (8 × 8, 4), padded with -1.

    Row 8 · (direction back to the pixel before) + (direction to the pixel after). The walk keeps the region on its
    left; turning anticlockwise from where it came, it meets only pixels outside before it meets the next one.
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


def _level_line(outline: NDArray[np.int32], probability: Probability, level: float) -> Points:
    """Where the probability crosses `level` on the way out of a region, one point for each pixel side on its border.

    `outline` (n, 2) is the walk around the region's border pixels as `cv2.findContours` gives it; it keeps to the
    inside of the array.
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
    # In the margin the map is constant, so nothing is crossed. At least 0.05, lest a region vanish between its pixels.
    share = np.divide(inside - level, drop, out=np.full_like(drop, 0.5), where=drop > 0)
    return np.asarray(inner + 0.5 + way * np.clip(share, 0.05, 1)[:, np.newaxis])


def _smoothed(line: Points, *, finest: float) -> Points:
    """A closed curve without its frequencies above 1 / `SMOOTHING`, at even steps of at most half a model pixel.

    The filter is 2 g - g² with a Gaussian g: unlike g itself it does not shrink round shapes. On short curves it is
    narrower still. Steps are about 2.5 `finest` on large pictures.
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
    """The curve with only the vertices it needs (`VERTEX_TOLERANCE`), all of them where too few would be left."""
    dense = curve.astype(np.float32)
    thin = cv2.approxPolyDP(dense, VERTEX_TOLERANCE, True).reshape(-1, 2)
    return np.asarray(thin if len(thin) > 3 else dense, dtype=np.float32)


def _mean_inside(outline: NDArray[np.int32], box: Sequence[int], mask: NDArray[np.uint8], padded: Probability) -> float:
    """Mean probability over the pixels of `mask` that an outline encloses, the margin left out."""
    left, top, width, height = box
    inside = np.zeros((height, width), dtype=np.uint8)
    cv2.drawContours(inside, [outline], 0, 1, cv2.FILLED, offset=(-left, -top))
    inside &= mask[top : top + height, left : left + width]
    rows = slice(max(_MARGIN - top, 0), padded.shape[0] - _MARGIN - top)
    columns = slice(max(_MARGIN - left, 0), padded.shape[1] - _MARGIN - left)
    values = padded[top : top + height, left : left + width]
    return float(cv2.mean(values[rows, columns], inside[rows, columns])[0])


def _winding(contour: Points, *, width: int, height: int) -> NDArray[np.int32]:
    """How often a closed curve winds around each pixel centre: int32 (height, width)."""
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
