"""Selects the fewest keyframes that keep CVAT's interpolation of polygons within a tolerance.

Between two keyframes CVAT matches the vertices of both polygons by their relative distance along the curve from the
first vertex, moves each pair along a line, and removes some vertices that share a partner. The result depends on
the number and distribution of the vertices, so the same algorithm is run here and compared with the real contours.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Contour

LONGEST_SPAN = 16
"""Maximum number of frames between keyframes."""

_Points = NDArray[np.float64]


def aligned(contour: Contour, reference: Contour) -> Contour:
    """The same polygon, starting at the vertex that best matches the first vertex of a reference.

    Both contours have the same orientation; the vertex is the closest one relative to the centers.
    """
    offset = reference.mean(axis=0) - contour.mean(axis=0)
    first = np.argmin(np.linalg.norm(contour + offset - reference[0], axis=1))
    return np.roll(contour, -int(first), axis=0)


def keyframes_of(contours: Sequence[Contour], *, tolerance_px: float) -> list[int]:
    """Positions of the keyframes of a track's contours in consecutive frames; the first and last are always included.

    Args:
        contours: One per frame, aligned with each other; see `aligned`.
        tolerance_px: Largest distance between an interpolated contour and the real one; 0 makes every frame a keyframe.
    """
    at, chosen = 0, [0]
    while at < len(contours) - 1:
        step, span = 1, 2
        while span <= LONGEST_SPAN and at + span < len(contours) and tolerance_px > 0:
            if not _is_interpolated(contours[at : at + span + 1], tolerance_px):
                break
            step, span = span, span * 2
        at += step
        chosen.append(at)
    return chosen


def _is_interpolated(contours: Sequence[Contour], tolerance_px: float) -> bool:
    """Whether CVAT interpolates all contours between the first and the last within the tolerance."""
    last = len(contours) - 1
    return all(
        _distance(interpolated(contours[0], contours[-1], number / last), contours[number]) <= tolerance_px
        for number in sorted(range(1, last), key=lambda number: abs(2 * number - last))  # most likely to fail first
    )


def interpolated(before: Contour, after: Contour, share: float) -> Contour:
    """CVAT's interpolation between two keyframes.

    Args:
        before: Polygon of the earlier keyframe, float (n, 2).
        after: Polygon of the later one, float (m, 2).
        share: Position between them, 0 to 1.
    """
    left, right = _closed(before), _closed(after)
    left_at, right_at = _along(left), _along(right)
    apart = np.abs(left_at[:, np.newaxis] - right_at)
    partners = [[int(nearest)] for nearest in apart.argmin(axis=1)]
    for lonely in sorted(set(range(len(right))) - {each for (each,) in partners}):
        partners[int(apart[:, lonely].argmin())].append(lonely)
    moved = [
        [left[number] + (right[partner] - left[number]) * share for partner in sorted(each)]
        for number, each in enumerate(partners)
    ]
    points: list[_Points] = []
    number = 0
    while number < len(left):
        end = number + 1
        if len(partners[number]) > 1:
            around = right[min(partners[number]) : max(partners[number]) + 1]
            points += _thinned(moved[number], around)
        else:
            while end < len(left) and partners[end] == partners[number]:
                end += 1
            points += _thinned([each[0] for each in moved[number:end]], left[number:end])
        number = end
    return np.asarray(points[:-1], dtype=np.float32)


def _thinned(points: Sequence[_Points], original: _Points) -> list[_Points]:
    """Thin out points that share one vertex: keep the first, the last, and those in between that are not too close.

    Points are too close below half the mean distance of the original vertices.
    """
    if len(points) == 1:
        return list(points)
    least = float(np.hypot(*np.diff(original, axis=0).T).sum()) / (2 * len(original))
    kept = [points[0]]
    for point in points[1:-1]:
        if np.hypot(*(point - kept[-1])) >= least:
            kept.append(point)
    if len(kept) == 1 and np.hypot(*(points[-1] - points[0])) < least:
        return [(points[0] + points[-1]) / 2]
    return [*kept, points[-1]]


def _closed(contour: Contour) -> _Points:
    return np.vstack((contour, contour[:1])).astype(np.float64)


def _along(curve: _Points) -> NDArray[np.float64]:
    """Distance of each vertex from the first along the curve, as a fraction of its length."""
    lengths = np.cumsum(np.hypot(*np.diff(curve, axis=0).T))
    return np.concatenate(([0.0], lengths / max(lengths[-1], 1e-12)))


def _distance(one: Contour, other: Contour) -> float:
    """Largest distance from a vertex of either polygon to the outline of the other."""
    return max(_farthest(one, other), _farthest(other, one))


def _farthest(points: Contour, polygon: Contour) -> float:
    start = polygon.astype(np.float64)
    side = np.roll(start, -1, axis=0) - start
    offset = points[:, np.newaxis, :] - start
    squared = np.maximum((side**2).sum(axis=1), 1e-12)
    share = np.clip((offset * side).sum(axis=2) / squared, 0, 1)
    nearest = np.hypot(*np.moveaxis(offset - share[..., np.newaxis] * side, 2, 0)).min(axis=1)
    return float(nearest.max())
