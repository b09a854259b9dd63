"""Sightings: what the record of a session says about each polyp, gathered from the markers on display.

Markers of one track are one sighting. A new track within `MERGE_S` of the last one continues its sighting, unless both
were on display together: a polyp that leaves the view and returns is not counted again. `Sighting.tracks` has them all.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from threading import Lock

from polypstream.arrays import Contour
from polypstream.realtime.live.display_frame import Marker

MERGE_S = 5.0
"""Time after a sighting within which another track continues it."""
CURRENT_S = 1.0
"""Time after its last marker during which a sighting is the current one."""
BETTER = 0.02
"""Score by which a marker must exceed the one of the stored frame to replace it."""
IMAGE_EVERY_S = 0.5
"""Minimum time between two frames stored for one sighting."""
FRESH_S = 0.15
"""Maximum age of the evidence of a marker on a stored frame."""
REVISED_EVERY_S = 2.0
LONGEST_STEP_S = 0.3
"""Longest time between two frames that counts as marked."""


class Kind(StrEnum):
    """Origin of an entry of the record."""

    POLYP = "polyp"
    """Marked on the display."""
    MISSED = "missed"
    """Reported by a user."""


class Verdict(StrEnum):
    """Result of the review."""

    OPEN = "open"
    ACCEPTED = "accepted"
    DELETED = "deleted"
    """It is no polyp."""


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """One entry of the record. Times are monotonic seconds."""

    number: int
    """From 1."""
    kind: Kind = Kind.POLYP
    first_s: float
    last_s: float
    marked_s: float = 0.0
    """Total time with a marker."""
    tracks: tuple[int, ...] = ()
    score: float = 0.0
    """Highest mean probability."""
    is_reported_false: bool = False
    """Whether a user reported during the session that it is no polyp."""
    verdict: Verdict = Verdict.OPEN
    is_corrected: bool = False
    """Whether a user has drawn the contour."""
    contour: Contour | None = None
    """Contour on the stored frame, (N, 2) float32 in pixels of that frame when upright; None without one."""
    size: tuple[int, int] | None = None
    """Width and height of the stored frame when upright; None before it is stored."""
    image_s: float = 0.0
    """When the stored frame was captured."""
    image: int = 0
    """Increases with every new image or contour; 0 before the first."""
    clip: str = ""
    """File name of its clip."""
    note: str = ""
    """What a user wrote about it."""

    @property
    def duration_s(self) -> float:
        """Time from its first to its last marker."""
        return self.last_s - self.first_s


class SightingLog:
    """The sightings of a session. Thread-safe.

    Args:
        sightings: Those of a session that has ended, oldest first.
    """

    def __init__(self, sightings: Iterable[Sighting] = ()) -> None:
        self._lock = Lock()
        self._sightings = {each.number: each for each in sightings}
        self._numbers: dict[int, int] = {}
        self._imaged: dict[int, tuple[float, float]] = {}
        self._shown_s: float | None = None
        self._current: frozenset[int] = frozenset()
        self._revised_s = 0.0
        self.revision = 0
        """Increases with every change."""

    def all(self) -> tuple[Sighting, ...]:
        """Return every sighting, oldest first."""
        with self._lock:
            return tuple(self._sightings.values())

    def get(self, number: int) -> Sighting | None:
        """Return one sighting; None if there is none of this number."""
        with self._lock:
            return self._sightings.get(number)

    def show(self, markers: Sequence[Marker], *, at_s: float) -> list[tuple[int, Marker]]:
        """Process the markers of the next displayed frame.

        Args:
            markers: Everything marked on it.
            at_s: When it was captured.

        Returns:
            Number and marker of the sightings for which this frame should be stored.
        """
        if not markers and not self._current:
            self._shown_s = at_s
            return []
        with self._lock:
            step_s = 0.0 if self._shown_s is None else max(at_s - self._shown_s, 0.0)
            self._shown_s = at_s
            marked = {number for marker in markers if (number := self._numbers.get(marker.identity)) is not None}
            wanted, taken = [], set[int]()
            for marker in markers:
                if self._numbers.get(marker.identity) in taken:
                    del self._numbers[marker.identity]  # it was taken for a polyp that turns out to be another one
                number = self._number_of(marker, at_s, marked)
                marked.add(number)
                taken.add(number)
                self._extend(number, marker, at_s, step_s)
                if self._is_better(number, marker, at_s):
                    self._imaged[number] = at_s, marker.polyp.score
                    wanted.append((number, marker))
            current = frozenset(
                number for number in self._current | marked if at_s - self._sightings[number].last_s < CURRENT_S
            )
            if current != self._current or (marked and at_s - self._revised_s >= REVISED_EVERY_S):
                self._current, self._revised_s = current, at_s
                self.revision += 1
        return wanted

    def add_missed(self, *, at_s: float) -> Sighting:
        """Add a polyp that was not marked."""
        with self._lock:
            sighting = Sighting(number=len(self._sightings) + 1, kind=Kind.MISSED, first_s=at_s, last_s=at_s)
            self._sightings[sighting.number] = sighting
            self.revision += 1
        return sighting

    def report_false(self, *, at_s: float, within_s: float) -> Sighting | None:
        """Mark the newest polyp as reported false; None if none was marked within this time."""
        with self._lock:
            recent = [
                each
                for each in self._sightings.values()
                if each.kind is Kind.POLYP and at_s - each.last_s <= within_s and not each.is_reported_false
            ]
            if not recent:
                return None
            newest = max(recent, key=lambda each: each.last_s)
            return self._changed(replace(newest, is_reported_false=True))

    def change(self, number: int, **values: object) -> Sighting | None:
        """Replace fields of a sighting; None if there is none of this number."""
        with self._lock:
            present = self._sightings.get(number)
            return None if present is None else self._changed(replace(present, **values))  # type: ignore[arg-type]

    def _changed(self, sighting: Sighting) -> Sighting:
        self._sightings[sighting.number] = sighting
        self.revision += 1
        return sighting

    def _number_of(self, marker: Marker, at_s: float, marked: set[int]) -> int:
        """Return the sighting of a marker: of its track, the one that it continues, or a new one."""
        number = self._numbers.get(marker.identity)
        if number is not None:
            return number
        continued = [
            each
            for each in self._sightings.values()
            if each.kind is Kind.POLYP
            and each.verdict is Verdict.OPEN
            and each.number not in marked
            and at_s - each.last_s <= MERGE_S
        ]
        if continued:
            last = max(continued, key=lambda each: each.last_s)
            self._sightings[last.number] = replace(last, tracks=(*last.tracks, marker.identity))
            number = last.number
        else:
            number = len(self._sightings) + 1
            self._sightings[number] = Sighting(number=number, first_s=at_s, last_s=at_s, tracks=(marker.identity,))
            self.revision += 1
        self._numbers[marker.identity] = number
        return number

    def _extend(self, number: int, marker: Marker, at_s: float, step_s: float) -> None:
        present = self._sightings[number]
        is_continuous = at_s - present.last_s <= LONGEST_STEP_S
        self._sightings[number] = replace(
            present,
            last_s=max(at_s, present.last_s),
            marked_s=present.marked_s + (min(step_s, LONGEST_STEP_S) if is_continuous else 0.0),
            score=max(present.score, marker.polyp.score),
        )

    def _is_better(self, number: int, marker: Marker, at_s: float) -> bool:
        stored = self._imaged.get(number)
        if stored is None:
            return True
        stored_s, score = stored
        is_due = at_s - stored_s >= IMAGE_EVERY_S and marker.evidence_age_s <= FRESH_S
        is_open = self._sightings[number].verdict is Verdict.OPEN
        return is_due and is_open and marker.polyp.score > score + BETTER
