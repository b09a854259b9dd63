"""What happened in a live session, and when: the events, and the polyps' comings and goings worked out of frames."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic

from polypstream.realtime.contours import Polyp
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.shown import Marker


class EventKind(Enum):
    """Everything that is worth a line."""

    SESSION_STARTED = "session_started"
    SESSION_ENDED = "session_ended"
    LINE_LOST = "line_lost"
    LINE_BACK = "line_back"
    POLYP_APPEARED = "polyp_appeared"
    POLYP_VANISHED = "polyp_vanished"
    SNAPSHOT = "snapshot"
    RECORDING_STARTED = "recording_started"
    RECORDING_STOPPED = "recording_stopped"
    SETTINGS_CHANGED = "settings_changed"
    """The threshold or the operating point."""
    EVENTS_LOST = "events_lost"
    """The disk took no more for so long that the oldest events could not wait."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that happened."""

    kind: EventKind
    at: float = field(default_factory=monotonic)
    """Monotonic seconds: when the frame concerned was captured, or now."""
    pts_s: float | None = None
    """Presentation time of the frame concerned, where one is."""
    details: Mapping[str, object] = field(default_factory=dict)
    """What else there is to say, ready for JSON."""


PATIENCE_S = 1.0
"""A marker that is missing for less is only hidden: by a blurred frame, or since the network is late."""


@dataclass(kw_only=True)
class _Seen:
    first_at: float
    last_at: float
    last_pts_s: float | None
    polyp: Polyp


class Sightings:
    """Follows the markers from frame to frame: who is new, who is gone, and for how long it was seen.

    A polyp is gone when its marker has been missing for `PATIENCE_S`; the event then has the time of its last frame.
    """

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def look(self, frame: Frame, markers: Sequence[Marker]) -> list[Event]:
        """What changed with this frame."""
        return self.look_at(markers, at=frame.captured_at, pts_s=frame.pts_s)

    def look_at(self, markers: Iterable[Marker], *, at: float, pts_s: float | None) -> list[Event]:
        """The same, for a frame of which only the times are known."""
        appeared = []
        for marker in markers:
            seen = self._seen.get(marker.identity)
            if seen is None:
                details = {"identity": marker.identity, **_described(marker.polyp)}
                appeared.append(Event(kind=EventKind.POLYP_APPEARED, at=at, pts_s=pts_s, details=details))
            first_at = at if seen is None else seen.first_at
            self._seen[marker.identity] = _Seen(first_at=first_at, last_at=at, last_pts_s=pts_s, polyp=marker.polyp)
        gone = [identity for identity, seen in self._seen.items() if at - seen.last_at >= PATIENCE_S]
        return [self._vanished(identity) for identity in gone] + appeared

    def end(self) -> list[Event]:
        """Every polyp that was still seen is gone: nothing more will come."""
        return [self._vanished(identity) for identity in list(self._seen)]

    def _vanished(self, identity: int) -> Event:
        seen = self._seen.pop(identity)
        duration_s = round(seen.last_at - seen.first_at, 3)
        details = {"identity": identity, "duration_s": duration_s, **_described(seen.polyp)}
        return Event(kind=EventKind.POLYP_VANISHED, at=seen.last_at, pts_s=seen.last_pts_s, details=details)


def _described(polyp: Polyp) -> dict[str, object]:
    """Where it was last seen, in source pixels, and how sure the network was."""
    return {
        "box": [round(float(side), 1) for side in polyp.box],
        "mean_probability": round(polyp.mean_probability, 4),
    }
