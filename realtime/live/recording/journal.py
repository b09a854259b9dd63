"""Journal of a session: what its report says about time, beyond the sightings."""

from dataclasses import dataclass, field
from time import monotonic, time

from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import Event
from polypstream.realtime.live.visibility import Visibility
from polypstream.realtime.statistics import Delay

SAMPLE_EVERY_S = 1.0
MOST_SAMPLES, MOST_EVENTS, MOST_SPANS = 20_000, 2_000, 5_000
"""Beyond them, later ones are counted only: a report stays readable and a session's memory flat."""
_KINDS = {visibility.value: visibility.name.lower() for visibility in Visibility}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Measurements of one second; delays in milliseconds."""

    at_s: float
    video_ms: float | None
    """99th percentile."""
    marker_ms: float | None
    """99th percentile."""
    fps: float


@dataclass(kw_only=True)
class Span:
    """A time during which the light was not ready."""

    kind: str
    """`lost`, the name of a visibility such as `blurred`, or `other`."""
    text: str
    start_s: float
    end_s: float


@dataclass(kw_only=True)
class Journal:
    """Samples, spans and events; times in seconds from the start of the session. Not thread-safe."""

    began_s: float = field(default_factory=monotonic)
    """Monotonic."""
    began_at: float = field(default_factory=time)
    """Wall clock, in seconds since 1970."""
    samples: list[Sample] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    left_out: int = 0
    """Events and spans that did not fit."""
    ended_s: float | None = None
    """Monotonic; None while the session runs."""
    _light: Light = Light.READY
    _reason: str = ""

    @property
    def duration_s(self) -> float:
        """Time since the start, or of the whole session once it has ended."""
        return (monotonic() if self.ended_s is None else self.ended_s) - self.began_s

    def note(self, event: Event) -> None:
        """Add an event."""
        if len(self.events) < MOST_EVENTS:
            self.events.append(event)
        else:
            self.left_out += 1

    def follow(self, status: Status) -> None:
        """Process the status of the newest frame, or of its absence."""
        now = self.duration_s
        is_same = status.light is self._light and status.reason == self._reason
        if self.spans and self._light is not Light.READY:
            self.spans[-1].end_s = now
        if is_same:
            return
        self._light, self._reason = status.light, status.reason
        if status.light is Light.READY:
            return
        if len(self.spans) >= MOST_SPANS:
            self.left_out += 1
            self._light = Light.READY
            return
        kind = "lost" if status.light is Light.LOST else _KINDS.get(status.reason, "other")
        self.spans.append(Span(kind=kind, text=status.reason or status.light.value, start_s=now, end_s=now))

    def sample(self, *, video: Delay | None, marker: Delay | None, fps: float) -> None:
        """Add measurements, at most once per `SAMPLE_EVERY_S`."""
        now = self.duration_s
        if (self.samples and now - self.samples[-1].at_s < SAMPLE_EVERY_S) or len(self.samples) >= MOST_SAMPLES:
            return
        self.samples.append(
            Sample(
                at_s=now,
                video_ms=None if video is None else video.p99_ms,
                marker_ms=None if marker is None else marker.p99_ms,
                fps=fps,
            )
        )
