"""Predicts markers for the displayed frame before its optical flow is known.

Optical flow takes some milliseconds, for which no frame waits. Instead, the markers of the previous frame are moved to
the position where a thumbnail of the new frame matches their surroundings, which takes some ten microseconds; if the
thumbnail has too little contrast, they move with the velocity of their tissue. A marker fades if its surroundings are
not found in the thumbnail, or match several positions; after a scene change or too long a time, it is dropped.
"""

from dataclasses import dataclass, replace
from threading import Lock

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Rgb, Size
from polypstream.realtime.live.display_frame import Light, Marker, Status
from polypstream.realtime.live.tracker import LEAST_OPACITY, View
from polypstream.realtime.outlines.contours import polyp_from_contour

MOST_AHEAD_S = 0.15
"""Maximum time in seconds over which markers are predicted."""
SURE_AHEAD_S = 0.06
"""Time in seconds up to which prediction does not reduce opacity, which then decreases to 0 at `MOST_AHEAD_S`."""
MOST_CHANGE = 0.4
"""Change of a thumbnail, relative to its contrast, from which a new scene is assumed. On a real withdrawal the median
change from one frame to the next is 0.08 and the largest 0.38; 99 of 100 pairs of different places exceed 0.39."""
FULL_LIKENESS, NO_LIKENESS = 0.8, 0.5
"""Normalized correlation of a marker's surroundings in both thumbnails: full opacity, and none."""
SURE_SPREAD, NO_SPREAD = 0.25, 0.5
"""Uncertainty of a marker's position, relative to its size: full opacity, and none, where about half of the marker
would miss its polyp."""

_COLUMNS, _ROWS = 64, 36
_ROWS_PER_CELL = 3
"""Number of rows of the frame sampled per row of a thumbnail."""
_FAINT = 8.0
"""Minimum contrast assumed for a frame, in gray levels."""
_LEAST_CONTRAST = 4.0
"""Standard deviation, in gray levels, from which surroundings can be matched."""
_PLAUSIBLE, _NOISE = 2.0, 0.003
"""A position is plausible if its distance of the correlation from 1 is at most this multiple of that of the best one,
plus noise."""
_LEAST_LIT = 30
"""Minimum number of cells within the endoscope image for surroundings to be matched."""
_DARK = 28.0
"""Gray level up to which a cell may belong to the border around the endoscope image."""
_AROUND = np.ones((3, 3), np.uint8)
_SEARCH = 5
"""Search range in cells of a thumbnail around the position predicted from the velocity."""
_LEAST_PATCH = 9
"""Minimum width and height of the compared surroundings in cells."""
_MARGIN = 2
"""Cells around a marker that belong to its surroundings."""

Thumbnail = NDArray[np.float32]
"""(36, 64): the reduced first plane of a frame, in gray levels from 0 to 255."""


def thumbnail_of(picture: av.VideoFrame) -> Thumbnail:
    """Create the thumbnail of a frame of any pixel format."""
    plane, form = picture.planes[0], picture.format
    bits = form.components[0].bits
    sample = np.dtype(np.uint16 if bits > 8 else np.uint8)
    in_a_pixel = 1 if len(picture.planes) > 1 else max(1, form.padded_bits_per_pixel // (8 * sample.itemsize))
    memory = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)  # type: ignore[call-overload]
    every = max(1, plane.height // (_ROWS * _ROWS_PER_CELL))
    rows: NDArray[np.uint8 | np.uint16] = np.ascontiguousarray(memory[::every]).view(sample)
    small = cv2.resize(rows[:, : plane.width * in_a_pixel], (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA)
    return np.asarray(np.multiply(small, 2.0 ** (8 - bits) if bits > 8 else 1), np.float32)


def thumbnail_of_rgb(rgb: Rgb) -> Thumbnail:
    """Create the thumbnail of a uint8 RGB image (H, W, 3)."""
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(gray, (_COLUMNS, _ROWS), interpolation=cv2.INTER_AREA), np.float32)


def has_changed(before: Thumbnail, after: Thumbnail) -> bool:
    """Whether two thumbnails show different scenes."""
    before, after = before - before.mean(), after - after.mean()
    return bool(np.abs(before - after).mean() > MOST_CHANGE * (before.std() + _FAINT))


class CutCounter:
    """Counts the scene cuts of a feed. Not thread-safe."""

    def __init__(self) -> None:
        self._before: Thumbnail | None = None
        self._cuts = 0

    def count(self, thumbnail: Thumbnail) -> int:
        """Add the thumbnail of the next frame; returns the number of cuts so far."""
        self._cuts += self._before is not None and has_changed(self._before, thumbnail)
        self._before = thumbnail
        return self._cuts


@dataclass(frozen=True, kw_only=True)
class _Known:
    view: View
    at_s: float
    size: Size
    thumbnail: Thumbnail


class MarkerPredictor:
    """Predicts markers for the current frame from the last known ones. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: _Known | None = None

    def update(self, view: View, *, at_s: float, size: Size, thumbnail: Thumbnail) -> None:
        """Store the markers of a frame of `size`, in pixels, captured at `at_s`."""
        with self._lock:
            self._known = _Known(view=view, at_s=at_s, size=size, thumbnail=thumbnail)

    def reset(self) -> None:
        """Drop all markers, until the next `update`."""
        with self._lock:
            self._known = None

    def predict(self, *, at_s: float, size: Size, thumbnail: Thumbnail) -> View:
        """Return the markers for a frame of `size`, in pixels, captured at `at_s`, without its optical flow."""
        with self._lock:
            known = self._known
        if known is None or known.size != size:
            return View(markers=(), status=_WAITING, inferred_at_s=None)
        seconds = at_s - known.at_s
        if abs(seconds) > MOST_AHEAD_S:
            lagging = known.view.status if known.view.status.light is not Light.READY else _LAGGING
            return replace(known.view, markers=(), status=lagging)
        if not known.view.markers or has_changed(known.thumbnail, thumbnail):
            return replace(known.view, markers=())
        moved = (_moved(marker, known, thumbnail, seconds) for marker in known.view.markers)
        return replace(known.view, markers=tuple(marker for marker in moved if marker is not None))


_WAITING = Status(light=Light.UNCERTAIN, reason="waiting for the model")
_LAGGING = Status(light=Light.UNCERTAIN, reason="the markers lag behind")


def _moved(marker: Marker, known: _Known, thumbnail: Thumbnail, seconds: float) -> Marker | None:
    """Move a marker to a frame at another time; None if it has left the frame or is unreliable."""
    if seconds == 0:
        return marker
    size = np.array(known.size, np.float32)
    cell = size / (_COLUMNS, _ROWS)
    way = np.multiply(marker.drift, seconds, dtype=np.float32)
    opacity = marker.opacity * _ramp(seconds, SURE_AHEAD_S, MOST_AHEAD_S)
    match = _match(
        known.thumbnail, thumbnail, np.array(marker.polyp.box) / np.tile(cell, 2), np.asarray(way / cell, np.float32)
    )
    if match is not None:
        way = np.asarray(match.cells * cell, np.float32)
        opacity *= _ramp(match.likeness, FULL_LIKENESS, NO_LIKENESS) * _ramp(match.spread, SURE_SPREAD, NO_SPREAD)
    if opacity < LEAST_OPACITY:
        return None
    contour = np.clip(marker.polyp.contour + way, 0, size).astype(np.float32)
    polyp = polyp_from_contour(contour, score=marker.polyp.score)
    if polyp.area < 1:
        return None
    return replace(marker, polyp=polyp, opacity=opacity, evidence_age_s=marker.evidence_age_s + seconds)


@dataclass(frozen=True, kw_only=True)
class _Match:
    """Position of the surroundings of a box in another thumbnail."""

    cells: NDArray[np.float32]
    """Displacement in cells, x and y."""
    likeness: float
    """Normalized correlation there, in [-1, 1]."""
    spread: float
    """Root mean square distance of all plausible positions from there, relative to the box's sides."""


def _match(
    before: Thumbnail, after: Thumbnail, box: NDArray[np.float64], expected: NDArray[np.float32]
) -> _Match | None:
    """Find the surroundings of a box in another thumbnail.

    Args:
        before: Thumbnail with the box.
        after: Thumbnail to search.
        box: x, y, width, height in cells.
        expected: Displacement in cells around which to search.

    Returns:
        None if there is too little contrast to tell.
    """
    left, right = _span(box[0], box[2], _COLUMNS)
    top, bottom = _span(box[1], box[3], _ROWS)
    patch = np.ascontiguousarray(before[top:bottom, left:right])
    lit = np.ascontiguousarray(_lit(before)[top:bottom, left:right])
    if np.count_nonzero(lit) < _LEAST_LIT or float(patch[lit > 0].std()) < _LEAST_CONTRAST:
        return None
    shift_x, shift_y = (round(float(value)) for value in expected)
    first_x, last_x = max(left + shift_x - _SEARCH, 0), min(right + shift_x + _SEARCH, _COLUMNS)
    first_y, last_y = max(top + shift_y - _SEARCH, 0), min(bottom + shift_y + _SEARCH, _ROWS)
    if last_x - first_x < right - left or last_y - first_y < bottom - top:
        return None
    area = np.ascontiguousarray(after[first_y:last_y, first_x:last_x])
    correlation = cv2.matchTemplate(area, patch, cv2.TM_CCOEFF_NORMED, mask=None if lit.all() else lit)
    scores: NDArray[np.float32] = np.nan_to_num(np.asarray(correlation, np.float32), nan=-1, posinf=-1, neginf=-1)
    row, column = (int(place) for place in np.unravel_index(scores.argmax(), scores.shape))
    best = float(scores[row, column])
    rows, columns = np.nonzero(scores >= 1 - _PLAUSIBLE * (1 - best) - _NOISE)
    width, height = np.maximum(box[2:], 1)
    return _Match(
        cells=np.array(
            [
                first_x + column - left + _vertex(scores[row], column),
                first_y + row - top + _vertex(scores[:, column], row),
            ],
            np.float32,
        ),
        likeness=best,
        spread=float(np.sqrt((((columns - column) / width) ** 2 + ((rows - row) / height) ** 2).mean())),
    )


def _lit(thumbnail: Thumbnail) -> NDArray[np.float32]:
    """1 for cells of the endoscope image, 0 for the dark border, which never moves, and cells next to it."""
    lit = (thumbnail > _DARK).astype(np.float32)
    return np.asarray(cv2.erode(lit, _AROUND, borderType=cv2.BORDER_CONSTANT, borderValue=1), np.float32)


def _span(start: float, length: float, cells: int) -> tuple[int, int]:
    """Start and end cell of a side with its margin, within the thumbnail."""
    margin = max(float(_MARGIN), (_LEAST_PATCH - length) / 2)
    return max(int(start - margin), 0), min(int(np.ceil(start + length + margin)), cells)


def _vertex(scores: NDArray[np.float32], at: int) -> float:
    """Offset of the vertex of the parabola through a maximum and its neighbors, in [-0.5, 0.5]."""
    if not 0 < at < len(scores) - 1:
        return 0.0
    before, top, after = (float(score) for score in scores[at - 1 : at + 2])
    curvature = before - 2 * top + after
    return float(np.clip((before - after) / (2 * curvature), -0.5, 0.5)) if curvature < 0 else 0.0


def _ramp(value: float, full: float, none: float) -> float:
    """1 at `full` and beyond, 0 at `none` and beyond, linear in between."""
    return float(np.clip((none - value) / (none - full), 0, 1))
