"""When a finding becomes an alarm and when it ends: hysteresis over time, and one identity for one polyp.

Nothing here reads a clock; all times are monotonic seconds, given by the caller, and may come at any rate and unevenly.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime.contours import MIN_AREA_SHARE
from polypstream.realtime.live.motion import Carried, Contour

LEAST_OVERLAP = 0.1
"""Intersection over union from which a finding is taken for a polyp already known. Low, since outlines flicker."""
LONGEST_STEP_S = 0.25
"""No pair of judgements counts for more towards an appearance: what was between them nobody saw."""
STALE_S = 2.0
"""A polyp ends when nothing has been judged for this long."""

_GRID = 128


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How eager the alarm is."""

    name: str
    threshold: float
    """A pixel whose probability reaches this is polyp."""
    min_area_share: float = MIN_AREA_SHARE
    """Smaller regions, as shares of the picture, are not looked at."""
    appear_ms: float
    """A polyp appears once evidence for it has held this long."""
    vanish_ms: float
    """It vanishes when judgements have found none for this long."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold:g}; it must lie between 0 and 1")
        if not 0 <= self.min_area_share < 1:
            raise ConfigError(f"min_area_share is {self.min_area_share:g}; it should be from 0 to below 1")
        for name in ("appear_ms", "vanish_ms"):
            value = getattr(self, name)
            if not 0 <= value <= 60_000:
                raise ConfigError(f"{name} is {value:g}; it should be from 0 to 60000 milliseconds")


SENSITIVE = OperatingPoint(name="sensitive", threshold=0.75, min_area_share=0.001, appear_ms=80, vanish_ms=400)
"""Finds more. Threshold and area are those that `benchmarks.operating_points` chose on validation data; it waits just
longer than most false alarms of a certified device last (66 ms)."""
SPECIFIC = OperatingPoint(name="specific", threshold=0.95, min_area_share=0.001, appear_ms=240, vanish_ms=400)
"""Fewer false alarms; chosen likewise. It waits six frames at 25 a second; six frames took 88% of that device's false
alarms away."""

OPERATING_POINTS: Mapping[str, OperatingPoint] = {point.name: point for point in (SENSITIVE, SPECIFIC)}


class Change(Enum):
    """What can happen to a polyp."""

    APPEARED = "appeared"
    VANISHED = "vanished"


@dataclass(frozen=True, kw_only=True)
class AlarmEvent:
    """A polyp appeared or vanished."""

    change: Change
    identity: int
    at_s: float
    duration_s: float
    """How long evidence had held before it appeared; how long it had been shown when it vanished."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One region that the network takes for a polyp, on the newest judged picture."""

    contour: Contour
    mean_probability: float


@dataclass(frozen=True, kw_only=True)
class Track:
    """One polyp through time."""

    contour: Contour
    """On the newest judged picture."""
    mean_probability: float
    first_seen_s: float
    seen_s: float
    """When the newest evidence for it was captured."""
    held_s: float = 0.0
    """For how long there has been evidence, less the time without."""
    trust: float = 1.0
    """In the contour: falls when it had to be carried here from older evidence."""
    identity: int | None = None
    """None until it has appeared."""
    appeared_s: float = 0.0


class Alarm:
    """The polyps known at the moment. Not safe to share between threads."""

    def __init__(self) -> None:
        self._tracks: tuple[Track, ...] = ()
        self._judged_s: float | None = None
        self._identities = 0

    @property
    def shown(self) -> tuple[Track, ...]:
        """Those that have appeared and not vanished."""
        return tuple(track for track in self._tracks if track.identity is not None)

    def update(
        self, at_s: float, findings: Sequence[Finding], carry: Callable[[Contour], Carried], point: OperatingPoint
    ) -> list[AlarmEvent]:
        """Take in what was found on a picture captured at `at_s`, later than any before.

        `carry` brings a contour from the picture judged last to this one. A polyp whose tissue cannot be found again,
        and for which there is no new evidence, vanishes at once.
        """
        if self._judged_s is not None and at_s <= self._judged_s:
            raise ConfigError(f"a picture of {at_s:g} s was judged after one of {self._judged_s:g} s; keep their order")
        step_s = 0.0 if self._judged_s is None else min(at_s - self._judged_s, LONGEST_STEP_S)
        last_s, self._judged_s = self._judged_s, at_s
        moved = [(track, carry(track.contour)) for track in self._tracks]
        pairs = _paired([carried.contour for _, carried in moved], [finding.contour for finding in findings])
        tracks = [
            replace(
                track,
                contour=findings[pairs[number]].contour,
                mean_probability=findings[pairs[number]].mean_probability,
                held_s=track.held_s + (step_s if track.seen_s == last_s else 0.0),
                seen_s=at_s,
                trust=1.0,
            )
            if number in pairs
            else replace(
                track,
                contour=carried.contour,
                held_s=track.held_s - step_s,
                trust=track.trust * carried.trust,
            )
            for number, (track, carried) in enumerate(moved)
        ]
        tracks += [
            Track(
                contour=finding.contour,
                mean_probability=finding.mean_probability,
                first_seen_s=at_s,
                seen_s=at_s,
            )
            for number, finding in enumerate(findings)
            if number not in pairs.values()
        ]
        events = self._ended(at_s, tracks, lambda track: _is_over(track, at_s, point))
        self._tracks = tuple(self._appeared(track, at_s, point, events) for track in self._tracks)
        return events

    def expire(self, at_s: float) -> list[AlarmEvent]:
        """End what has not been judged for `STALE_S`; call it when nothing is being judged."""
        return self._ended(at_s, self._tracks, lambda track: at_s - track.seen_s >= STALE_S)

    def clear(self, at_s: float) -> list[AlarmEvent]:
        """End everything, as when the source is lost."""
        return self._ended(at_s, self._tracks, lambda _: True)

    def _ended(self, at_s: float, tracks: Sequence[Track], is_over: Callable[[Track], bool]) -> list[AlarmEvent]:
        over = {id(track): track for track in tracks if is_over(track)}
        self._tracks = tuple(track for track in tracks if id(track) not in over)
        return [
            AlarmEvent(change=Change.VANISHED, identity=track.identity, at_s=at_s, duration_s=at_s - track.appeared_s)
            for track in over.values()
            if track.identity is not None
        ]

    def _appeared(self, track: Track, at_s: float, point: OperatingPoint, events: list[AlarmEvent]) -> Track:
        """The track, with an identity once its evidence has held for long enough."""
        if track.identity is not None or track.seen_s != at_s or track.held_s * 1000 < point.appear_ms - 1e-6:
            return track
        self._identities += 1
        events.append(
            AlarmEvent(
                change=Change.APPEARED,
                identity=self._identities,
                at_s=at_s,
                duration_s=at_s - track.first_seen_s,
            )
        )
        return replace(track, identity=self._identities, appeared_s=at_s)


def _is_over(track: Track, at_s: float, point: OperatingPoint) -> bool:
    if track.seen_s == at_s:
        return False
    if track.identity is None and track.held_s <= 0:
        return True
    return track.trust == 0 or (at_s - track.seen_s) * 1000 >= point.vanish_ms


def _paired(known: Sequence[Contour], found: Sequence[Contour]) -> dict[int, int]:
    """Which of the known contours is which of the found ones, by number: best overlap first, each only once."""
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
    """What a contour encloses, its outline included, on a coarse grid: bool (128, 128)."""
    corners = np.clip(np.floor(contour * np.float32(_GRID)), -_GRID, 2 * _GRID).astype(np.int32)
    return cv2.fillPoly(np.zeros((_GRID, _GRID), np.uint8), [corners], 1) > 0


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return int(np.count_nonzero(one & other)) / max(int(np.count_nonzero(one | other)), 1)
