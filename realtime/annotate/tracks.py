"""Polyp tracks of a recording: one id per polyp from frame to frame, by overlap and, if that is ambiguous, by motion.

The same polyp keeps its id through missed frames of up to `MAX_GAP_S`. Contours are associated by overlap; if
that is missing or weak, they are first moved by optical flow. It is computed only once there is a detection that
continues no track clearly, so that a steady recording and stray detections cost almost nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Contour, Mask, Rgb, Size
from polypstream.content import content_area
from polypstream.realtime.live.motion import LEAST_SIDE, Motion, Propagated, Scene, Stillness, scene_of
from polypstream.realtime.live.visibility import Visibility, visibility_of
from polypstream.realtime.outlines.contours import Polyp

MAX_GAP_S = 2.0
"""A polyp that is missed for longer gets a new id."""
MIN_IOU = 0.1
"""Intersection over union from which a detection may continue a track. Low, since outlines vary between frames."""
CLEAR_IOU = 0.3
"""If every track has a detection with this overlap, no motion is computed."""
MIN_TRUST = 0.2
"""Minimum confidence in the motion of a contour for it to be associated; see `motion.Motion`."""
MAX_JUMP, MAX_BLIND_JUMP, MAX_JUMP_S, MAX_SCALE = 0.25, 0.4, 0.5, 3.0
"""If the motion is too fast for optical flow, the nearest detection continues a track within these limits: distance as
a fraction of the frame (the second value if optical flow has lost the polyp, as under fluid or blur), time, and ratio
of areas."""

_MOST_PENDING = 64
"""Maximum number of frames whose motion is left for later, which limits memory."""
_GRID = 128


@dataclass(frozen=True, kw_only=True)
class PolypTrack:
    """One polyp through a recording. Frame indices count from 0; times are presentation times in seconds."""

    id: int
    """Id from 1, in order of first frames."""
    first_index: int
    last_index: int
    first_pts_s: float
    last_pts_s: float
    frames: int
    """Number of frames in which it was detected."""
    largest_area: float
    """Largest area in source pixels."""
    largest_index: int
    """Frame of its largest area."""
    best_score: float
    best_index: int
    """Frame of its highest score, and among equal scores of its largest area."""
    best_area: float
    longest_gap_s: float
    """Longest time in seconds without a detection between its first and last frame."""

    @property
    def duration_s(self) -> float:
        """Seconds from its first to its last frame."""
        return self.last_pts_s - self.first_pts_s


class FrameScene:
    """A scaled frame that is prepared for optical flow, and assessed, on demand.

    Args:
        rgb: The frame scaled down, uint8 RGB (H, W, 3).
        content: Its content area, bool (H, W); None computes it.
    """

    def __init__(self, rgb: Rgb, content: Mask | None = None) -> None:
        self._rgb, self._content = rgb, content

    @cached_property
    def scene(self) -> Scene | None:
        """The prepared frame; None if it is too small for optical flow."""
        return scene_of(self._rgb, content=self._content) if min(self._rgb.shape[:2]) >= LEAST_SIDE else None

    @property
    def visibility(self) -> Visibility:
        """Whether inference on this frame is meaningful, and why not."""
        if self.scene is not None:
            return self.scene.visibility
        return visibility_of(self._rgb, content_area(self._rgb) if self._content is None else self._content)


@dataclass(frozen=True, kw_only=True)
class _Active:
    """A track that may be continued."""

    id: int
    last_pts_s: float
    contour: Contour
    """Predicted contour in the newest frame, in relative coordinates."""
    trust: float
    seen_contour: Contour
    """Last detected contour."""
    seen_scene: FrameScene
    behind: int = 0
    """Number of newest frames over which the contour has not been moved yet."""


class PolypTracker:
    """Assigns ids to the polyps of one recording, frame by frame, in order. Not thread-safe; can be pickled."""

    def __init__(self) -> None:
        self._active: tuple[_Active, ...] = ()
        self._scene: FrameScene | None = None
        self._pending: list[tuple[FrameScene | None, FrameScene]] = []
        """Pairs of successive frames over which some tracks have not been moved yet."""
        self._next_id = 1

    def update(self, *, pts_s: float, polyps: Sequence[Polyp], size: Size, scene: FrameScene) -> list[int]:
        """Associate the polyps of the next frame with the tracks.

        Args:
            pts_s: Presentation time of the frame in seconds.
            polyps: Polyps found in it, in source pixels.
            size: Width and height of the frame in pixels.
            scene: The frame scaled down.

        Returns:
            The id of each polyp, in the given order; ids count from 1 in order of first frames.
        """
        self._active = tuple(each for each in self._active if pts_s - each.last_pts_s <= MAX_GAP_S)
        found = [np.divide(polyp.contour, size, dtype=np.float32) for polyp in polyps]
        pairs = self._associated(found, scene, pts_s)
        number_of = {other: number for number, other in pairs.items()}
        active = [each for number, each in enumerate(self._active) if number not in pairs]
        ids = []
        for other, contour in enumerate(found):
            if other in number_of:
                identity = self._active[number_of[other]].id
            else:
                identity, self._next_id = self._next_id, self._next_id + 1
            ids.append(identity)
            active.append(
                _Active(
                    id=identity, last_pts_s=pts_s, contour=contour, trust=1.0, seen_contour=contour, seen_scene=scene
                )
            )
        self._active, self._scene = tuple(active), scene
        return ids

    def _associated(self, found: Sequence[Contour], scene: FrameScene, pts_s: float) -> dict[int, int]:
        """Associate detections with tracks, by number. Tracks without a detection are moved with the tissue."""
        if not self._active:
            self._pending.clear()
            return {}
        expected = [
            (number, each.contour)
            for number, each in enumerate(self._active)
            if each.trust >= MIN_TRUST and not each.behind
        ]
        pairs = paired(expected, list(enumerate(found)), min_iou=CLEAR_IOU)
        if len(pairs) == len(self._active):
            self._pending.clear()  # no track is behind
            return pairs
        self._pending.append((self._scene, scene))
        self._active = tuple(
            each if number in pairs else replace(each, behind=each.behind + 1)
            for number, each in enumerate(self._active)
        )
        if len(pairs) == len(found) and len(self._pending) < _MOST_PENDING:
            return pairs  # moving the other tracks would change nothing yet
        self._active = tuple(replace(each, behind=max(each.behind, 1)) for each in self._active)
        self._catch_up()
        expected = [(number, each.contour) for number, each in enumerate(self._active) if each.trust >= MIN_TRUST]
        pairs = paired(expected, list(enumerate(found)), min_iou=MIN_IOU)
        lost = [number for number in range(len(self._active)) if number not in pairs]
        left = [(other, contour) for other, contour in enumerate(found) if other not in pairs.values()]
        if lost and left:  # flow over many frames accumulates errors: try the motion since the last detection directly
            direct = [
                (number, propagated.contour)
                for number in lost
                for each in [self._active[number]]
                for propagated in [motion_between(each.seen_scene, scene)(each.seen_contour)]
                if propagated.trust >= MIN_TRUST
            ]
            pairs |= paired(direct, left, min_iou=MIN_IOU)
            pairs |= self._nearest([number for number in lost if number not in pairs], left, pairs, pts_s)
        return pairs

    def _catch_up(self) -> None:
        """Move the tracks with the tissue to the newest frame."""
        for left, (before, after) in zip(range(len(self._pending), 0, -1), self._pending, strict=True):
            moving = [each.behind >= left and each.trust >= MIN_TRUST for each in self._active]
            if any(moving):  # a contour without trust is never used again
                propagate = motion_between(before, after)
                self._active = tuple(
                    _moved(each, propagate(each.contour)) if moves else each
                    for each, moves in zip(self._active, moving, strict=True)
                )
        self._pending.clear()
        self._active = tuple(replace(each, behind=0) for each in self._active)

    def _nearest(
        self, lost: Sequence[int], left: Sequence[tuple[int, Contour]], pairs: dict[int, int], pts_s: float
    ) -> dict[int, int]:
        """Pair the remaining tracks and detections, nearest first."""
        distances = []
        for number in lost:
            each = self._active[number]
            if pts_s - each.last_pts_s > MAX_JUMP_S:
                continue
            max_jump = MAX_JUMP if each.trust >= MIN_TRUST else MAX_BLIND_JUMP
            for other, contour in left:
                scale = cv2.contourArea(contour) / max(cv2.contourArea(each.seen_contour), 1e-9)
                distance = float(np.linalg.norm(contour.mean(axis=0) - each.seen_contour.mean(axis=0)))
                if other not in pairs.values() and distance <= max_jump and 1 / MAX_SCALE <= scale <= MAX_SCALE:
                    distances.append((distance, number, other))
        chosen: dict[int, int] = {}
        for _, number, other in sorted(distances):
            if number not in chosen and other not in chosen.values():
                chosen[number] = other
        return chosen


class TrackStatistics:
    """Collects statistics of every track of a recording, frame by frame, in order."""

    def __init__(self) -> None:
        self._tracks: dict[int, PolypTrack] = {}
        self._last_pts_s = 0.0

    @property
    def tracks(self) -> tuple[PolypTrack, ...]:
        """All tracks so far, by id."""
        return tuple(self._tracks[identity] for identity in sorted(self._tracks))

    def add(self, *, index: int, pts_s: float, polyps: Sequence[Polyp], ids: Sequence[int]) -> None:
        """Add the next frame: its polyps and their ids."""
        for polyp, identity in zip(polyps, ids, strict=True):
            track = self._tracks.get(identity)
            self._tracks[identity] = (
                _started(identity, polyp, index=index, pts_s=pts_s)
                if track is None
                else _continued(track, polyp, index=index, pts_s=pts_s, frame_step_s=pts_s - self._last_pts_s)
            )
        self._last_pts_s = pts_s


def paired(
    known: Sequence[tuple[int, Contour]], found: Sequence[tuple[int, Contour]], *, min_iou: float
) -> dict[int, int]:
    """Pair contours by overlap, largest intersection over union first, each at most once.

    Args:
        known: Contours by number, in relative coordinates.
        found: Likewise.
        min_iou: Minimum overlap of a pair.

    Returns:
        Number of the found contour by number of the known one.
    """
    masks = [(other, _mask(contour)) for other, contour in found]
    overlaps = [
        (iou, number, other)
        for number, contour in known
        for mask in [_mask(contour)]
        for other, candidate in masks
        if (iou := _iou(mask, candidate)) >= min_iou
    ]
    pairs: dict[int, int] = {}
    for _, number, other in sorted(overlaps, key=lambda overlap: -overlap[0]):
        if number not in pairs and other not in pairs.values():
            pairs[number] = other
    return pairs


def motion_between(before: FrameScene | None, after: FrameScene) -> Callable[[Contour], Propagated]:
    """Motion of contours between two frames; none if optical flow cannot be computed."""
    first, second = None if before is None else before.scene, after.scene
    if first is None or second is None or first.rgb.shape != second.rgb.shape:
        return Stillness().propagate
    return Motion(first, second).propagate


def _started(identity: int, polyp: Polyp, *, index: int, pts_s: float) -> PolypTrack:
    return PolypTrack(
        id=identity,
        first_index=index,
        last_index=index,
        first_pts_s=pts_s,
        last_pts_s=pts_s,
        frames=1,
        largest_area=polyp.area,
        largest_index=index,
        best_score=polyp.score,
        best_index=index,
        best_area=polyp.area,
        longest_gap_s=0.0,
    )


def _continued(track: PolypTrack, polyp: Polyp, *, index: int, pts_s: float, frame_step_s: float) -> PolypTrack:
    gap_s = pts_s - track.last_pts_s if index - track.last_index > 1 else 0.0
    track = replace(
        track,
        last_index=index,
        last_pts_s=pts_s,
        frames=track.frames + 1,
        longest_gap_s=max(track.longest_gap_s, gap_s - frame_step_s),
    )
    if polyp.area > track.largest_area:
        track = replace(track, largest_area=polyp.area, largest_index=index)
    if (polyp.score, polyp.area) > (track.best_score, track.best_area):
        track = replace(track, best_score=polyp.score, best_index=index, best_area=polyp.area)
    return track


def _moved(active: _Active, propagated: Propagated) -> _Active:
    return replace(active, contour=propagated.contour, trust=active.trust * propagated.trust)


def overlap_of(one: Contour, other: Contour) -> float:
    """Intersection over union of two contours in relative coordinates, on a coarse grid."""
    return _iou(_mask(one), _mask(other))


def _mask(contour: Contour) -> NDArray[np.bool_]:
    """Rasterize a contour, including its outline, on a coarse grid: bool (128, 128)."""
    corners = np.clip(np.floor(contour * np.float32(_GRID)), -_GRID, 2 * _GRID).astype(np.int32)
    return cv2.fillPoly(np.zeros((_GRID, _GRID), np.uint8), [corners], 1) > 0


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return int(np.count_nonzero(one & other)) / max(int(np.count_nonzero(one | other)), 1)
