"""A live session: pictures to the viewers, commands from them, and everything worth keeping to the disk."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from time import monotonic

from polypstream.realtime.live.alarm import OPERATING_POINTS
from polypstream.realtime.live.events import Event, EventKind, Sightings
from polypstream.realtime.live.feed import FrameSource, Line
from polypstream.realtime.live.keeping import Keeper
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.shown import LiveFrame, Status
from polypstream.realtime.live.viewing import Action, Command, Commands, Gauges, SetThreshold, Viewer

THRESHOLD_STEP = 0.05
GAUGES_EVERY_S = 0.2
NOT_LOGGED = "events are not logged"
LEAST_THRESHOLD, LARGEST_THRESHOLD = 0.05, 0.95


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a session came to."""

    frames: int
    frames_not_shown: int
    frames_not_judged: int
    polyps: int
    """Alarms: how often a marker appeared."""
    lines_lost: int


class Session:
    """Runs a live pipeline for its viewers until the source ends, a viewer quits, or `close` is called.

    `run` belongs to the thread that the viewers belong to; `close` may be called from any, also from a signal handler.
    """

    def __init__(
        self,
        source: FrameSource,
        live: LivePipeline,
        *,
        viewers: Sequence[Viewer],
        commands: Commands,
        keeper: Keeper | None = None,
    ) -> None:
        self._source, self._live, self._viewers = source, live, viewers
        self._commands, self._keeper = commands, keeper
        self._sightings = Sightings()
        self._line = Line.CONNECTING
        self._newest: LiveFrame | None = None
        self._gauges: Gauges | None = None
        self._gauges_at = 0.0
        self._frames = self._polyps = self._lines_lost = 0

    def close(self) -> None:
        """End the session."""
        self._live.close()

    def run(self, *, record: bool = False) -> Summary:
        """Show until the end; `record` begins a recording at once."""
        with ExitStack() as stack:
            for viewer in self._viewers:
                stack.callback(viewer.close)
            if self._keeper is not None:
                stack.enter_context(self._keeper)
            self._note(EventKind.SESSION_STARTED, source=self._source.label, **self._settings())
            if record and self._keeper is not None:
                self._keeper.start_recording(has_packets=True)
            with self._live:
                for item in self._live:
                    self._follow_line()
                    if isinstance(item, LiveFrame):
                        self._show(item)
                    else:
                        self._tell(item)
                    for command in self._commands.waiting():
                        self._obey(command)
            for event in self._sightings.end():
                self._keep(event)
            if self._keeper is not None:
                self._keeper.stop_recording()
            self._note(EventKind.SESSION_ENDED, frames=self._frames)
        return Summary(
            frames=self._frames,
            frames_not_shown=self._live.dropped,
            frames_not_judged=self._live.not_judged,
            polyps=self._polyps,
            lines_lost=self._lines_lost,
        )

    def gauges(self) -> Gauges:
        """What the session measures of itself, at most `GAUGES_EVERY_S` seconds old."""
        if self._gauges is None or monotonic() > self._gauges_at + GAUGES_EVERY_S:
            self._gauges, self._gauges_at = self._measured(), monotonic()
        return self._gauges

    def _measured(self) -> Gauges:
        live, tracker = self._live, self._live.tracker
        return Gauges(
            video_delay=live.video_delay.delay(),
            marker_delay=live.marker_delay.delay(),
            fps_in=live.captured.per_second(),
            fps_inference=live.judged.per_second(),
            dropped_inference_frames=live.not_judged,
            operating_point=tracker.operating_point.name,
            threshold=tracker.operating_point.threshold,
            recording=self._keeper is not None and self._keeper.is_recording,
        )

    def _show(self, shown: LiveFrame) -> None:
        gauges, told = self.gauges(), replace(shown, status=self._told(shown.status))
        for viewer in self._viewers:
            viewer.show(told, gauges)
        self._newest, self._frames = shown, self._frames + 1
        for event in self._sightings.look(shown.frame, shown.markers):
            self._polyps += event.kind is EventKind.POLYP_APPEARED
            self._keep(event)
        if self._keeper is not None:
            if not self._source.has_packets:
                self._keeper.record_pictures()
            self._keeper.show(shown)

    def _tell(self, status: Status) -> None:
        told = self._told(status)
        for viewer in self._viewers:
            viewer.tell(told)

    def _told(self, status: Status) -> Status:
        """The status and, while that is so, that events do not reach the disk."""
        if self._keeper is None or self._keeper.is_logging:
            return status
        return replace(status, reason=f"{status.reason}; {NOT_LOGGED}" if status.reason else NOT_LOGGED)

    def _follow_line(self) -> None:
        """Note when the line is lost, and when it is back."""
        state = self._source.state
        if state.line is Line.LOST and self._line is not Line.LOST:
            self._lines_lost += 1
            self._note(EventKind.LINE_LOST, reason=state.reason)
        elif state.line is Line.RUNNING and self._line is Line.LOST:
            self._note(EventKind.LINE_BACK)
        if state.line is not Line.CONNECTING:
            self._line = state.line

    def _obey(self, command: Command) -> None:
        if isinstance(command, SetThreshold):
            self._set_threshold(command.value)
        elif command is Action.THRESHOLD_UP:
            self._set_threshold(self._live.tracker.operating_point.threshold + THRESHOLD_STEP)
        elif command is Action.THRESHOLD_DOWN:
            self._set_threshold(self._live.tracker.operating_point.threshold - THRESHOLD_STEP)
        elif command is Action.OPERATING_POINT_NEXT:
            self._next_operating_point()
        elif command is Action.QUIT:
            self.close()
        elif self._keeper is not None:
            self._obey_keeping(command)

    def _obey_keeping(self, command: Command) -> None:
        assert self._keeper is not None
        if command is Action.SNAPSHOT and self._newest is not None:
            self._keeper.take_snapshot(self._newest)
        elif command is Action.RECORD_START:
            self._keeper.start_recording(has_packets=self._source.has_packets)
        elif command is Action.RECORD_STOP:
            self._keeper.stop_recording()

    def _set_threshold(self, value: float) -> None:
        self._gauges = None
        self._live.tracker.set_threshold(min(max(value, LEAST_THRESHOLD), LARGEST_THRESHOLD))
        self._note(EventKind.SETTINGS_CHANGED, **self._settings())

    def _next_operating_point(self) -> None:
        self._gauges = None
        names = list(OPERATING_POINTS)
        present = self._live.tracker.operating_point.name
        following = names[(names.index(present) + 1) % len(names)] if present in names else names[0]
        self._live.tracker.operating_point = OPERATING_POINTS[following]
        self._note(EventKind.SETTINGS_CHANGED, **self._settings())

    def _settings(self) -> dict[str, object]:
        point = self._live.tracker.operating_point
        return {"operating_point": point.name, "threshold": round(point.threshold, 4)}

    def _note(self, kind: EventKind, **details: object) -> None:
        self._keep(Event(kind=kind, details=details))

    def _keep(self, event: Event) -> None:
        if self._keeper is not None:
            self._keeper.note(event)
