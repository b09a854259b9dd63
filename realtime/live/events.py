"""Events of a live session: kind, time and details, for the log and the message bus."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from time import monotonic

from polypstream.realtime.outlines.contours import Polyp


class EventKind(Enum):
    """Kinds of logged events."""

    SESSION_STARTED = "session_started"
    SESSION_ENDED = "session_ended"
    CONNECTION_FAILED = "connection_failed"
    """The source does not respond, and has not yet in this session."""
    CONNECTION_ESTABLISHED = "connection_established"
    """The first frame came after a `CONNECTION_FAILED`."""
    CONNECTION_LOST = "connection_lost"
    CONNECTION_RESTORED = "connection_restored"
    POLYP_APPEARED = "polyp_appeared"
    POLYP_VANISHED = "polyp_vanished"
    MARKERS_HIDDEN = "markers_hidden"
    """A viewer switched the markers off."""
    MARKERS_SHOWN = "markers_shown"
    POLYP_MISSED = "polyp_missed"
    """A user reported a polyp that was not marked."""
    FALSE_ALARM = "false_alarm"
    """A user reported that what was marked is no polyp."""
    ALERT_ACKNOWLEDGED = "alert_acknowledged"
    SIGHTING_REVIEWED = "sighting_reviewed"
    SNAPSHOT = "snapshot"
    RECORDING_STARTED = "recording_started"
    RECORDING_STOPPED = "recording_stopped"
    SETTINGS_CHANGED = "settings_changed"
    """The threshold or the operating point."""
    OUTPUT_CONNECTED = "output_connected"
    """A pushed stream or the receiver of events accepts what is sent."""
    OUTPUT_FAILED = "output_failed"
    EVENTS_LOST = "events_lost"
    """The oldest waiting events were dropped because the disk stayed full."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event."""

    kind: EventKind
    at: float = field(default_factory=monotonic)
    """Capture time of the frame concerned, or the current time, in monotonic seconds."""
    pts_s: float | None = None
    """Presentation time of the frame concerned, if any."""
    details: Mapping[str, object] = field(default_factory=dict)
    """Further fields, ready for JSON."""


def event_record(event: Event, *, began_at: float, happened_at: float) -> dict[str, object]:
    """The fields of an event, ready for JSON.

    Args:
        event: The event.
        began_at: Start of the session in monotonic seconds.
        happened_at: Wall-clock time of the event in seconds since 1970.

    Returns:
        `event`, `time` (UTC, ISO 8601 with milliseconds), `session_s`, `pts_s` if it is known, and the details.
    """
    moment = datetime.fromtimestamp(happened_at, UTC).isoformat(timespec="milliseconds")
    record: dict[str, object] = {
        "event": event.kind.value,
        "time": moment.replace("+00:00", "Z"),
        "session_s": round(event.at - began_at, 3),
    }
    if event.pts_s is not None:
        record["pts_s"] = round(event.pts_s, 6)
    return record | dict(event.details)


def polyp_details(identity: int, polyp: Polyp, *, duration_s: float | None = None) -> dict[str, object]:
    """Fields of an event about a polyp.

    Args:
        identity: Number of the polyp, from 1.
        polyp: Its newest outline, in source pixels.
        duration_s: Time for which it was present; None if it has just appeared.

    Returns:
        `identity`, `box` (x, y, width, height in source pixels), `mean_probability` and, if given, `duration_s`.
    """
    return {
        "identity": identity,
        **({} if duration_s is None else {"duration_s": round(duration_s, 3)}),
        "box": [round(float(side), 1) for side in polyp.box],
        "mean_probability": round(polyp.score, 4),
    }
