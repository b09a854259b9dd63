"""Temporal filter of recordings: drops unsupported detections, fills in contours by motion.

It looks ahead, which a recording allows and a live feed does not. A detection counts if its polyp is detected for
`MIN_EVIDENCE_S` within `WINDOW_S`, before or after, in frames that can be assessed: what is only seen in red-out, blur
or glare is dropped. A polyp that is detected less often, but in `MIN_LONG_EVIDENCE_S` of the last `LONG_WINDOW_S`,
counts from then on. Where a supported polyp is missed for no longer than `WINDOW_S`, its contour is moved into the gap
by the optical flow from both sides, unless the motion cannot be trusted. So is an outline that differs from those of
both adjacent frames although they agree. A polyp that is first or last detected at the edge of the image is followed
over it; see `edge_tracking`.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from polypstream.arrays import Contour, Size
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.edge_tracking import EdgePolyp, is_same
from polypstream.realtime.annotate.tracks import FrameScene, PolypTracker, motion_between, overlap_of
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour

WINDOW_S = 0.4
"""Detections further apart do not support each other, and longer gaps are not filled."""
MIN_EVIDENCE_S = 0.2
"""Six frames at 30 a second: shorter detections are 88% of the false alarms that were published for a certified device
over 111 procedures."""
LONG_WINDOW_S, MIN_LONG_EVIDENCE_S = 1.0, 0.3
"""A flat polyp may be detected in every third frame only, but for long."""
MAX_STEP_S = 0.1
"""If frames are further apart, detections are not filtered."""
OUTLIER_IOU, AGREEMENT_IOU = 0.6, 0.75
"""An outline is replaced if it overlaps those of both adjacent frames, moved to its frame by motion, by less than the
first value, and they overlap each other by at least the second."""
EDGE_S = 0.6
"""Maximum time for which a polyp is followed over the edge of the image."""
MIN_EDGE_EVIDENCE_S = 0.4
"""Evidence from which a polyp is followed."""
DELAY_S = WINDOW_S + EDGE_S
"""Time by which frames are held back."""
MAX_FRAMES = 64
"""Maximum number of frames held back, at any frame rate."""
MIN_TRUST = 0.5
"""Minimum confidence in the motion for a contour to be filled in; see `motion.Motion`."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class FilteredFrame(Generic[T]):
    """A frame with its confirmed polyps."""

    item: T
    """Item passed with the frame."""
    index: int
    pts_s: float
    polyps: tuple[Polyp, ...]
    tracks: tuple[int, ...]
    """Id of each polyp: from 1, in order of confirmation."""
    interpolated: tuple[bool, ...]
    """Whether each contour was filled in by motion, rather than detected in this frame."""


@dataclass(kw_only=True)
class _Run:
    """Detections of a track without a gap longer than `WINDOW_S`."""

    first_pts_s: float
    evidence_s: float = 0.0
    is_followed_back: bool = False


@dataclass(frozen=True, kw_only=True)
class _View:
    """A polyp in one frame."""

    polyp: Polyp
    pts_s: float
    size: Size
    scene: FrameScene

    @property
    def contour(self) -> Contour:
        """Its contour in relative coordinates."""
        return np.divide(self.polyp.contour, self.size, dtype=np.float32)


@dataclass(kw_only=True)
class _Held(Generic[T]):
    item: T
    index: int
    pts_s: float
    size: Size
    scene: FrameScene
    step_s: float
    """Seconds since the frame before."""
    polyps: dict[int, Polyp]
    """Polyps by tracker id."""
    is_evidence: bool
    supported: set[int] = field(default_factory=set)
    gaps: dict[int, tuple["_Held[T]", "_Held[T]"]] = field(default_factory=dict)
    """Frames of the last detection before and the first one after, by id of each track that is missed here."""
    followed: dict[int, tuple[Polyp, bool]] = field(default_factory=dict)
    """Polyps that are followed over the edge of the image, by tracker id, and whether they are filled in."""

    def view_of(self, identity: int) -> _View:
        """A polyp that was detected here."""
        return _View(polyp=self.polyps[identity], pts_s=self.pts_s, size=self.size, scene=self.scene)


class TemporalFilter(Generic[T]):
    """Filters the detections of one recording. Frames go in and come out in order, later by up to `DELAY_S`.

    Not thread-safe. It can be pickled with its pending frames, if the items can.

    Args:
        is_on: False only assigns ids, and releases every frame immediately.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self._tracker = PolypTracker()
        self._held: deque[_Held[T]] = deque()
        self._last_pts_s: float | None = None
        self._ids: dict[int, int] = {}
        self._evidence: dict[int, deque[tuple[float, float]]] = {}
        """Time and seconds of evidence of the detections within `LONG_WINDOW_S`, by tracker id."""
        self._first_pts_s = 0.0
        self._runs: dict[int, _Run] = {}
        self._shown: dict[int, _View] = {}
        """Supported polyps of the frame that was released last, by tracker id."""
        self._shown_s: dict[int, float] = {}
        """Seconds of evidence in released frames, by tracker id."""
        self._leaving: dict[int, tuple[EdgePolyp, float]] = {}
        """Polyps followed over the edge, and the time of their last detection, by tracker id."""
        self._released_scene: FrameScene | None = None

    def push(
        self,
        item: T,
        *,
        index: int,
        pts_s: float,
        polyps: Sequence[Polyp],
        size: Size,
        scene: FrameScene,
        is_evidence: bool = True,
    ) -> Iterator[FilteredFrame[T]]:
        """Add the next frame.

        Args:
            item: Returned with the frame.
            index: Index of the frame.
            pts_s: Presentation time in seconds, later than that of the frame before.
            polyps: Polyps detected in it, in source pixels.
            size: Width and height of the frame in pixels.
            scene: The frame scaled down.
            is_evidence: Whether the frame can be assessed, so that its detections confirm a polyp. Others are kept only
                if the polyp is confirmed by other frames.

        Yields:
            Frames whose polyps are decided, in order; none, one or several.
        """
        ids = self._tracker.update(pts_s=pts_s, polyps=polyps, size=size, scene=scene)
        if self._last_pts_s is None:
            self._first_pts_s = self._last_pts_s = pts_s
        step_s = pts_s - self._last_pts_s
        self._last_pts_s = pts_s
        found = dict(zip(ids, polyps, strict=True))
        if len(found) < len(polyps):
            raise ConfigError(f"two polyps of frame {index} have the same track; pass each frame once")
        frame = _Held(
            item=item,
            index=index,
            pts_s=pts_s,
            size=size,
            scene=scene,
            step_s=step_s,
            polyps=found,
            is_evidence=is_evidence,
        )
        self._held.append(frame)
        if not self._is_on or step_s > MAX_STEP_S:
            frame.supported = set(found)
        else:
            for identity in found:
                self._support(identity)
        while self._held and self._is_decided(self._held[0]):
            yield self._released(self._held.popleft())

    def flush(self) -> Iterator[FilteredFrame[T]]:
        """Release the remaining frames after the last one.

        In a recording shorter than `WINDOW_S`, all detections are confirmed.
        """
        if self._held and self._held[-1].pts_s - self._first_pts_s < WINDOW_S:
            for each in self._held:
                each.supported = set(each.polyps)
        while self._held:
            yield self._released(self._held.popleft())

    def _is_decided(self, frame: _Held[T]) -> bool:
        return not self._is_on or len(self._held) > MAX_FRAMES or self._held[-1].pts_s - frame.pts_s > DELAY_S

    def _support(self, identity: int) -> None:
        """Count the newest detection of a track, and note the gap before it."""
        newest = self._held[-1]
        recent = [each for each in self._held if newest.pts_s - each.pts_s <= WINDOW_S and identity in each.polyps]
        evidence_s = sum(each.is_evidence for each in recent) * newest.step_s
        long_evidence_s = self._long_evidence_s(identity)
        if (
            evidence_s >= MIN_EVIDENCE_S - 1e-6
            or long_evidence_s >= MIN_LONG_EVIDENCE_S - 1e-6
            or any(identity in each.supported for each in recent[:-1])
        ):
            for each in recent:
                each.supported.add(identity)
        if len(recent) > 1:
            for frame in self._held:
                if recent[-2].index < frame.index < newest.index:
                    frame.gaps[identity] = recent[-2], newest
        if len(recent) == 1 or identity not in self._runs:
            self._runs[identity] = _Run(first_pts_s=newest.pts_s)
        run = self._runs[identity]
        run.evidence_s += newest.step_s * newest.is_evidence
        is_enough = identity in newest.supported and run.evidence_s >= MIN_EDGE_EVIDENCE_S - 1e-6
        if is_enough and not run.is_followed_back:
            run.is_followed_back = True
            self._follow_back(identity, run.first_pts_s)

    def _long_evidence_s(self, identity: int) -> float:
        """Add the newest detection of a track to its evidence; return the evidence within `LONG_WINDOW_S`."""
        newest = self._held[-1]
        self._evidence.setdefault(identity, deque()).append((newest.pts_s, newest.step_s * newest.is_evidence))
        for each in [*self._evidence]:
            while self._evidence[each] and newest.pts_s - self._evidence[each][0][0] > LONG_WINDOW_S:
                self._evidence[each].popleft()
            if not self._evidence[each]:
                del self._evidence[each]
                self._runs.pop(each, None)
        return sum(seconds for _, seconds in self._evidence[identity])

    def _follow_back(self, identity: int, first_pts_s: float) -> None:
        """Follow a track that began at the edge of the image back in time."""
        frames = list(self._held)
        start = next(
            place for place, each in enumerate(frames) if each.pts_s >= first_pts_s and identity in each.supported
        )
        first = frames[start]
        polyp = EdgePolyp.at_edge(first.polyps[identity], first.size, first.scene)
        for place in range(start - 1, -1, -1):
            later, frame = frames[place + 1], frames[place]
            if polyp is None or later.step_s > MAX_STEP_S or first.pts_s - frame.pts_s > EDGE_S + 1e-6:
                return
            polyp = _followed(identity, polyp, later.scene, frame)

    def _follow_on(self, frame: _Held[T], shown: dict[int, Polyp]) -> None:
        """Follow tracks that ended at the edge of the image into the next frame that is released."""
        before = self._released_scene
        if before is None or frame.step_s > MAX_STEP_S:
            self._leaving.clear()
            return
        for identity, view in self._shown.items():
            if identity not in shown and self._shown_s.get(identity, 0.0) >= MIN_EDGE_EVIDENCE_S - 1e-6:
                started = EdgePolyp.at_edge(view.polyp, view.size, view.scene)
                if started is not None:
                    self._leaving[identity] = started, frame.pts_s - frame.step_s
        for identity, (leaving, last_pts_s) in list(self._leaving.items()):
            del self._leaving[identity]
            if identity not in shown and frame.pts_s - last_pts_s <= EDGE_S + 1e-6:
                moved = _followed(identity, leaving, before, frame)
                if moved is not None:
                    self._leaving[identity] = moved, last_pts_s

    def _released(self, frame: _Held[T]) -> FilteredFrame[T]:
        kept = {identity: polyp for identity, polyp in frame.polyps.items() if identity in frame.supported}
        filled = {
            identity: polyp
            for identity, (before, after) in frame.gaps.items()
            if identity in before.supported and identity in after.supported
            if (polyp := _between(before.view_of(identity), frame, after.view_of(identity))) is not None
        }
        if self._is_on and self._held and max(frame.step_s, self._held[0].step_s) <= MAX_STEP_S:
            after = self._held[0]
            filled |= {
                identity: polyp
                for identity in kept
                if identity in self._shown and identity in after.supported
                if (polyp := _instead(self._shown[identity], frame.view_of(identity), after.view_of(identity)))
            }
        frame.gaps.clear()  # or frames that refer to each other would never be freed
        shown = {**kept, **filled}
        if self._is_on:
            self._follow_on(frame, shown)
            for identity in kept:
                self._shown_s[identity] = self._shown_s.get(identity, 0.0) + frame.step_s * frame.is_evidence
            self._shown = {
                identity: _View(polyp=polyp, pts_s=frame.pts_s, size=frame.size, scene=frame.scene)
                for identity, polyp in shown.items()
            }
            self._released_scene = frame.scene
        followed = {
            each: polyp
            for each, (polyp, _) in frame.followed.items()
            if each not in shown and not any(is_same(polyp, other, frame.size) for other in shown.values())
        }
        everything = {**shown, **followed}
        for identity in everything:
            self._ids.setdefault(identity, len(self._ids) + 1)
        return FilteredFrame(
            item=frame.item,
            index=frame.index,
            pts_s=frame.pts_s,
            polyps=tuple(everything.values()),
            tracks=tuple(self._ids[identity] for identity in everything),
            interpolated=tuple(
                identity in filled or (identity in followed and frame.followed[identity][1]) for identity in everything
            ),
        )


def _followed(identity: int, polyp: EdgePolyp, from_scene: FrameScene, frame: _Held[T]) -> EdgePolyp | None:
    """Follow a polyp into an adjacent frame, and note it there unless it is already known; None if it ends there."""
    moved = polyp.moved(from_scene, frame.scene, frame.size)
    if moved is None or identity in frame.supported:
        return None
    for other, detection in frame.polyps.items():
        if is_same(moved.visible, detection, frame.size):
            if other in frame.supported:
                return None
            frame.followed[identity] = detection, False
            return EdgePolyp.at_edge(detection, frame.size, frame.scene)
    frame.followed.setdefault(identity, (moved.visible, True))
    return moved


def _between(before: _View, frame: _Held[T], after: _View) -> Polyp | None:
    """Propagate the contour between two detections of its track, from the side with the more reliable motion."""
    share = (frame.pts_s - before.pts_s) / max(after.pts_s - before.pts_s, 1e-9)
    best: tuple[float, Contour] | None = None
    for side, nearness in ((before, 1 - share), (after, share)):
        moved = motion_between(side.scene, frame.scene)(side.contour)
        if moved.trust >= MIN_TRUST and (best is None or moved.trust * nearness > best[0]):
            best = moved.trust * nearness, moved.contour
    return None if best is None else _filled_in(best[1], before, after, frame.size)


def _instead(before: _View, view: _View, after: _View) -> Polyp | None:
    """The outline of a single frame from those of the frames beside it, if they agree and it differs from both."""
    own = view.contour
    alike = max(overlap_of(before.contour, own), overlap_of(after.contour, own))
    if alike >= OUTLIER_IOU or overlap_of(before.contour, after.contour) <= alike:  # motion need not be computed
        return None
    one, other = (motion_between(side.scene, view.scene)(side.contour) for side in (before, after))
    if (
        min(one.trust, other.trust) < MIN_TRUST
        or max(overlap_of(one.contour, own), overlap_of(other.contour, own)) >= OUTLIER_IOU
        or overlap_of(one.contour, other.contour) < AGREEMENT_IOU
    ):
        return None
    return _filled_in(max(one, other, key=lambda moved: moved.trust).contour, before, after, view.size)


def _filled_in(contour: Contour, before: _View, after: _View, size: Size) -> Polyp | None:
    """A polyp with the lower score of two; None if nothing of the contour is in the image."""
    pixels = np.clip(contour, 0, 1) * np.asarray(size, np.float32)
    score = min(before.polyp.score, after.polyp.score)
    polyp = polyp_from_contour(np.asarray(pixels, np.float32), score=score)
    return polyp if polyp.area >= 1 else None
