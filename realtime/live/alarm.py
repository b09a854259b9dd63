"""Alarm logic: decides when polyps appear and vanish, using hysteresis over time, and assigns their identities.

A detection starts a candidate. Once there has been evidence for it for `appear_ms`, it is present and gets an identity.
A present polyp is lost when nothing has confirmed it for `vanish_ms`, or when its tissue can no longer be found. It
is then remembered for `REMEMBER_S`. A polyp detected within that time is the same one: it is present again without
delay and without another alarm. Otherwise it has vanished, at the time of its last evidence.

Only this module decides when a polyp appears and vanishes; events, markers and counts are derived from it.
It never reads a clock: all times are monotonic seconds given by the caller, at any rate and unevenly spaced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Contour
from polypstream.contract import OperatingPoint
from polypstream.errors import ConfigError
from polypstream.realtime.live.motion import Propagated

LEAST_OVERLAP = 0.1
"""Minimum intersection over union for a detection to match a known polyp. Low, because outlines flicker."""
LONGEST_STEP_S = 0.25
"""Maximum time between two inferences that counts as evidence; what happened in longer gaps is unknown."""
REMEMBER_S = 2.0
"""How long a lost polyp is remembered. Shorter absences (a fold, blur, missed frames) belong to one sighting."""

_GRID = 128


class Change(Enum):
    """Changes of a polyp's state that are reported."""

    APPEARED = "appeared"
    VANISHED = "vanished"


@dataclass(frozen=True, kw_only=True)
class Detection:
    """A region that the network detects as a polyp, on the newest inferred frame."""

    contour: Contour
    score: float


@dataclass(frozen=True, kw_only=True)
class Track:
    """A polyp over time."""

    contour: Contour
    """Position on the newest inferred frame."""
    score: float
    first_seen_s: float
    seen_s: float
    """Capture time of its newest evidence."""
    seen_pts_s: float | None = None
    """Presentation time of that frame, if it has one."""
    is_seen_blurred: bool = False
    """Whether the newest evidence comes from a blurred frame."""
    missed_s: float | None = None
    """Capture time of the first inference since then that did not confirm it; None if the newest one did."""
    held_s: float = 0.0
    """Total time with evidence minus time without."""
    trust: float = 1.0
    """Trust in the contour, in [0, 1]; falls while it is propagated from older evidence."""
    identity: int | None = None
    """None until it has appeared."""
    appeared_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AlarmEvent:
    """The appearance or disappearance of a polyp."""

    change: Change
    track: Track
    """Its state at that time."""
    identity: int
    at_s: float
    """Capture time of the frame that confirmed it, or of its last evidence."""
    duration_s: float
    """Time from its first evidence to its appearance, or from its appearance to its last evidence."""


class Alarm:
    """The currently known polyps. Not thread-safe."""

    def __init__(self) -> None:
        self._tracks: tuple[Track, ...] = ()
        self._lost: tuple[Track, ...] = ()
        self._updated_s: float | None = None
        self._identities = 0

    @property
    def present(self) -> tuple[Track, ...]:
        """Polyps that have appeared and are neither lost nor vanished."""
        return tuple(track for track in self._tracks if track.identity is not None)

    def update(
        self,
        at_s: float,
        detections: Sequence[Detection],
        propagate: Callable[[Contour], Propagated],
        point: OperatingPoint,
        *,
        pts_s: float | None = None,
    ) -> list[AlarmEvent]:
        """Process the detections on a clear frame.

        Args:
            at_s: Capture time of the frame; must not be earlier than in the previous call.
            detections: The network's detections on it; may be empty.
            propagate: Moves a contour from the frame of the previous call to this one.
            point: Current operating point.
            pts_s: Presentation time of the frame in seconds, for events.

        Returns:
            Polyps that vanished or appeared, in this order.

        Raises:
            ConfigError: The frame is older than the previous one; call `clear` before starting over.
        """
        if self._updated_s is not None and at_s < self._updated_s:
            raise ConfigError(
                f"a frame of {at_s:g} s follows one of {self._updated_s:g} s; keep the frames in order, "
                "or clear the alarm first"
            )
        events = self.expire(at_s)
        step_s = 0.0 if self._updated_s is None else min(at_s - self._updated_s, LONGEST_STEP_S)
        self._updated_s = at_s
        moved = [(track, propagate(track.contour)) for track in self._tracks]
        pairs = _paired([propagated.contour for _, propagated in moved], [found.contour for found in detections])
        tracks = [
            _confirmed(track, detections[pairs[number]], at_s=at_s, pts_s=pts_s, step_s=step_s)
            if number in pairs
            else _missed(track, propagated, at_s=at_s, step_s=step_s)
            for number, (track, propagated) in enumerate(moved)
        ]
        self._lost += tuple(track for track in tracks if track.identity is not None and _is_over(track, at_s, point))
        tracks = [track for track in tracks if not _is_over(track, at_s, point)]
        tracks += [
            _new(found, at_s=at_s, pts_s=pts_s)
            for number, found in enumerate(detections)
            if number not in pairs.values()
        ]
        self._tracks = self._recognized(tracks)
        return events + self._appear(at_s, point)

    def confirm(
        self,
        at_s: float,
        detections: Sequence[Detection],
        propagate: Callable[[Contour], Propagated],
        *,
        pts_s: float | None = None,
    ) -> bool:
        """Process the detections on a blurred frame, which can only confirm polyps that are already present.

        Args:
            at_s: Capture time of the frame.
            detections: The network's detections on it; may be empty.
            propagate: Moves a contour from the frame of the previous call to this one.
            pts_s: Presentation time of the frame in seconds, for events.

        Returns:
            Whether a polyp was confirmed. If so, all contours refer to this frame; otherwise they are unchanged.
        """
        moved = [(track, propagate(track.contour)) for track in self._tracks]
        known = [propagated.contour if track.identity else _NOWHERE for track, propagated in moved]
        pairs = _paired(known, [found.contour for found in detections])
        if not pairs or (self._updated_s is not None and at_s < self._updated_s):
            self._tracks = tuple(
                replace(track, missed_s=at_s) if track.is_seen_blurred and track.missed_s is None else track
                for track in self._tracks
            )
            return False
        self._updated_s = at_s
        self._tracks = tuple(
            replace(
                _confirmed(track, detections[pairs[number]], at_s=at_s, pts_s=pts_s, step_s=0), is_seen_blurred=True
            )
            if number in pairs
            else replace(track, contour=propagated.contour, trust=track.trust * propagated.trust)
            for number, (track, propagated) in enumerate(moved)
        )
        return True

    def expire(self, at_s: float) -> list[AlarmEvent]:
        """End polyps without evidence for `REMEMBER_S`; call it also while nothing is inferred.

        Returns:
            The polyps that have vanished.
        """
        return self._end(lambda track: at_s - track.seen_s >= REMEMBER_S)

    def end(self) -> list[AlarmEvent]:
        """End every polyp, for example at a scene cut.

        Returns:
            The polyps that have vanished.
        """
        return self._end(lambda _: True)

    def clear(self) -> list[AlarmEvent]:
        """End every polyp and forget the time of the last frame, for example when the source is lost or starts over.

        Returns:
            The polyps that have vanished.
        """
        self._updated_s = None
        return self.end()

    def lose(self) -> None:
        """Mark every present polyp as lost but remembered, for example when tissue cannot be found again."""
        self._lost += self.present
        self._tracks = ()

    def _end(self, is_over: Callable[[Track], bool]) -> list[AlarmEvent]:
        over = [track for track in (*self._lost, *self._tracks) if is_over(track)]
        self._lost = tuple(track for track in self._lost if not is_over(track))
        self._tracks = tuple(track for track in self._tracks if not is_over(track))
        return [
            AlarmEvent(
                change=Change.VANISHED,
                track=track,
                identity=track.identity,
                at_s=track.seen_s,
                duration_s=track.seen_s - track.appeared_s,
            )
            for track in sorted(over, key=lambda track: track.seen_s)
            if track.identity is not None
        ]

    def _recognized(self, tracks: Sequence[Track]) -> tuple[Track, ...]:
        """Give lost polyps back their identity: candidates detected only since a polyp was last seen are that polyp.

        The most recently lost polyp comes first, and of several candidates the one with the longest evidence, then
        the largest. So a stray region beside a polyp that moved too far to be matched does not take its identity.
        """
        tracks = list(tracks)
        for lost in sorted(self._lost, key=lambda track: -track.seen_s):
            candidates = [
                number
                for number, track in enumerate(tracks)
                if track.identity is None and track.missed_s is None and track.first_seen_s > lost.seen_s
            ]
            if not candidates:
                continue
            number = max(candidates, key=lambda number: (tracks[number].held_s, _area(tracks[number].contour)))
            tracks[number] = replace(
                tracks[number],
                first_seen_s=lost.first_seen_s,
                identity=lost.identity,
                appeared_s=lost.appeared_s,
            )
            self._lost = tuple(track for track in self._lost if track is not lost)
        return tuple(tracks)

    def _appear(self, at_s: float, point: OperatingPoint) -> list[AlarmEvent]:
        """Assign an identity to each candidate with sufficient evidence."""
        events = []
        tracks = list(self._tracks)
        for number, track in enumerate(tracks):
            if track.identity is not None or track.missed_s is not None:
                continue
            if track.held_s * 1000 < point.appear_ms - 1e-6:
                continue
            self._identities += 1
            tracks[number] = replace(track, identity=self._identities, appeared_s=at_s)
            events.append(
                AlarmEvent(
                    change=Change.APPEARED,
                    track=tracks[number],
                    identity=self._identities,
                    at_s=at_s,
                    duration_s=at_s - track.first_seen_s,
                )
            )
        self._tracks = tuple(tracks)
        return events


def _new(found: Detection, *, at_s: float, pts_s: float | None) -> Track:
    return Track(
        contour=found.contour,
        score=found.score,
        first_seen_s=at_s,
        seen_s=at_s,
        seen_pts_s=pts_s,
    )


def _area(contour: Contour) -> float:
    return float(cv2.contourArea(np.asarray(contour, np.float32)))


_NOWHERE: Contour = np.full((1, 2), -0.5, np.float32)


def _confirmed(track: Track, found: Detection, *, at_s: float, pts_s: float | None, step_s: float) -> Track:
    return replace(
        track,
        contour=found.contour,
        score=found.score,
        held_s=track.held_s + (step_s if track.missed_s is None else 0.0),
        seen_s=at_s,
        seen_pts_s=pts_s,
        is_seen_blurred=False,
        missed_s=None,
        trust=1.0,
    )


def _missed(track: Track, propagated: Propagated, *, at_s: float, step_s: float) -> Track:
    return replace(
        track,
        contour=propagated.contour,
        held_s=track.held_s - step_s,
        missed_s=at_s if track.missed_s is None else track.missed_s,
        trust=track.trust * propagated.trust,
    )


def _is_over(track: Track, at_s: float, point: OperatingPoint) -> bool:
    if track.missed_s is None:
        return False
    if track.identity is None and track.held_s <= 0:
        return True
    return track.trust == 0 or (at_s - track.seen_s) * 1000 >= point.vanish_ms


def _paired(known: Sequence[Contour], found: Sequence[Contour]) -> dict[int, int]:
    """Match known and found contours by index: best overlap first, each at most once."""
    masks = [_mask(contour) for contour in found]
    overlaps = [
        (overlap, number, other)
        for number, contour in enumerate(known)
        for mask in [_mask(contour)]
        for other, candidate in enumerate(masks)
        if (overlap := _overlap(mask, candidate)) >= LEAST_OVERLAP
    ]
    pairs: dict[int, int] = {}
    for _, number, other in sorted(overlaps, key=lambda overlap: -overlap[0]):
        if number not in pairs and other not in pairs.values():
            pairs[number] = other
    return pairs


def _mask(contour: Contour) -> NDArray[np.bool_]:
    """Rasterize a contour, including its outline, on a coarse grid: bool (128, 128)."""
    corners = np.clip(np.floor(contour * np.float32(_GRID)), -_GRID, 2 * _GRID).astype(np.int32)
    return cv2.fillPoly(np.zeros((_GRID, _GRID), np.uint8), [corners], 1) > 0


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return int(np.count_nonzero(one & other)) / max(int(np.count_nonzero(one | other)), 1)
