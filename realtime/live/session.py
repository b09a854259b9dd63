"""A live session: passes frames to viewers, executes their commands, and writes events and recordings."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from time import monotonic

from polypstream.contract import OperatingPoint
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.outputs.output import Output
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import SessionRecorder
from polypstream.realtime.live.recording.review_export import ModelFacts
from polypstream.realtime.live.recording.session_report import SessionFacts
from polypstream.realtime.live.sources.source import ConnectionStatus, FrameSource
from polypstream.realtime.live.viewers.viewer import (
    Action,
    Command,
    Commands,
    ExportReview,
    LiveStatistics,
    Review,
    SetThreshold,
    Viewer,
)

THRESHOLD_STEP = 0.05
STATISTICS_EVERY_S = 0.2
NOT_LOGGED = "events are not logged"
LEAST_THRESHOLD, LARGEST_THRESHOLD = 0.01, 0.99
"""Range of the threshold keys; a threshold outside is not changed by them."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Totals of a session."""

    frames: int
    """Displayed."""
    frames_dropped: int
    """Number of frames not displayed because a viewer was busy, or because they were decoded too late."""
    frames_inferred: int
    """Number of inferred frames; inference runs on the newest frame whenever it is idle."""
    polyps: int
    """Alarms: how many polyps appeared."""
    connections_lost: int
    frames_unusable: int = 0
    """Frames without visibility, on which inference was skipped."""
    frames_late: int = 0
    """Displayed later than 5.75 ms after decoding."""
    markers_late: int = 0
    """Inferred frames displayed later than 120 ms after capture."""
    markers: int = 0
    """Inferred frames that were displayed."""


class Session:
    """Runs a live pipeline for its viewers until the source ends, a viewer quits, or `close` is called.

    `Action.OPERATING_POINT_NEXT` cycles through `operating_points`. `outputs` are closed at the end, and their events
    are logged. `model` and `label` are stated in what is saved. `on_notice` is called with one line for every change of
    the connection.

    Call `run` in the thread of the viewers; `close` may be called from any thread, also from a signal handler.
    """

    def __init__(
        self,
        source: FrameSource,
        live: LivePipeline,
        *,
        viewers: Sequence[Viewer],
        commands: Commands,
        recorder: SessionRecorder | None = None,
        operating_points: Sequence[OperatingPoint] = (),
        outputs: Sequence[Output] = (),
        model: ModelFacts | None = None,
        label: str = "",
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source, self._live, self._viewers = source, live, viewers
        self._commands, self._recorder, self._outputs = commands, recorder, outputs
        self._points = {point.name: point for point in operating_points}
        self._model, self._label = model or ModelFacts(), label
        self._on_notice = on_notice
        self._reasons: set[str] = set()
        self._is_stopped = False
        self._connection = ConnectionStatus.CONNECTING
        self._newest: DisplayFrame | None = None
        self._statistics: LiveStatistics | None = None
        self._statistics_at = 0.0
        self._frames = self._polyps = self._connections_lost = 0

    def close(self) -> None:
        """End the session."""
        self._is_stopped = True
        self._live.close()

    def run(self, *, record: bool = False) -> Summary:
        """Run until the end.

        Args:
            record: Whether to start a recording immediately.
        """
        with ExitStack() as stack:
            for viewer in self._viewers:
                stack.callback(viewer.close)
            if self._recorder is not None:
                stack.enter_context(self._recorder)
            labeled = {"label": self._label} if self._label else {}
            self._note(EventKind.SESSION_STARTED, source=self._source.label, **labeled, **self._settings())
            if record and self._recorder is not None:
                self._recorder.start_recording(has_packets=True)
            with self._live:
                for item in self._live:
                    self._follow_connection()
                    if isinstance(item, DisplayFrame):
                        self._show(item)
                    else:
                        self._tell(item)
                    self._keep_polyps()
                    self._follow_outputs()
                    for command in self._commands.waiting():
                        self._obey(command)
            reason = "the session was stopped" if self._is_stopped else "the source has ended"
            self._tell(Status(light=Light.LOST, reason=reason))
            self._live.tracker.reset()
            self._keep_polyps()
            self._follow_outputs()
            if self._recorder is not None:
                self._recorder.finish()
            self._note(EventKind.SESSION_ENDED, frames=self._frames)
            if self._recorder is not None:
                self._recorder.write_report(self._facts())
        return Summary(
            frames=self._frames,
            frames_dropped=self._live.dropped,
            frames_inferred=self._live.inferences,
            polyps=self._polyps,
            connections_lost=self._connections_lost,
            frames_unusable=self._live.unusable,
            frames_late=self._live.late_frames,
            markers_late=self._live.late_markers[0],
            markers=self._live.late_markers[1],
        )

    def statistics(self) -> LiveStatistics:
        """Statistics of the session, at most `STATISTICS_EVERY_S` seconds old."""
        if self._statistics is None or monotonic() > self._statistics_at + STATISTICS_EVERY_S:
            self._statistics, self._statistics_at = self._measured(), monotonic()
        return self._statistics

    def _measured(self) -> LiveStatistics:
        live, tracker, recorder = self._live, self._live.tracker, self._recorder
        return LiveStatistics(
            video_delay=live.video_delay.delay(),
            marker_delay=live.marker_delay.delay(),
            fps_in=live.captured.per_second(),
            fps_inference=live.inferred.per_second(),
            dropped_inference_frames=live.not_inferred,
            inferences=live.inferences,
            unusable_frames=live.unusable,
            inference_threads=live.inference_threads,
            is_late=live.is_late,
            dropped_frames=live.dropped,
            operating_point=tracker.operating_point.name,
            threshold=tracker.operating_point.threshold,
            recording=recorder is not None and recorder.is_recording,
            saving_problem="" if recorder is None else recorder.problem,
            notice=None if recorder is None else recorder.notice,
            recording_s=None if recorder is None else recorder.recording_s,
            recording_file="" if recorder is None else recorder.recording_file,
            free_bytes=None if recorder is None else recorder.record.free_bytes,
            record_revision=0 if recorder is None else recorder.record.revision,
            outputs=tuple(output.state for output in self._outputs),
        )

    def _show(self, shown: DisplayFrame) -> None:
        statistics, reported = self.statistics(), replace(shown, status=self._reported(shown.status))
        self._follow(reported.status, statistics)
        for viewer in self._viewers:
            viewer.show(reported, statistics)
        self._newest, self._frames = shown, self._frames + 1
        if self._recorder is not None:
            if not self._source.has_packets:
                self._recorder.record_pictures()
            self._recorder.show(shown)

    def _tell(self, status: Status) -> None:
        reported, statistics = self._reported(status), self.statistics()
        self._follow(reported, statistics)
        for viewer in self._viewers:
            viewer.tell(reported, statistics)
        if self._recorder is not None:
            self._recorder.record.tick(monotonic())

    def _follow(self, status: Status, statistics: LiveStatistics) -> None:
        if self._recorder is not None:
            journal = self._recorder.journal
            journal.follow(status)
            journal.sample(video=statistics.video_delay, marker=statistics.marker_delay, fps=statistics.fps_in)

    def _keep_polyps(self) -> None:
        """Log polyps that appeared or vanished according to the tracker."""
        for event in self._live.tracker.take_events():
            self._polyps += event.kind is EventKind.POLYP_APPEARED
            self._keep(event)

    def _follow_outputs(self) -> None:
        """Log the events of the outputs."""
        for output in self._outputs:
            for event in output.take_events():
                self._keep(event)

    def _reported(self, status: Status) -> Status:
        """The status, with a notice while events cannot be written."""
        if self._recorder is None or self._recorder.is_logging:
            return status
        return replace(status, reason=f"{status.reason}; {NOT_LOGGED}" if status.reason else NOT_LOGGED)

    def _follow_connection(self) -> None:
        """Log and report lost and restored connections; each reason once."""
        state = self._source.state
        if state.status is ConnectionStatus.LOST:
            if self._connection is ConnectionStatus.RUNNING:
                self._connections_lost += 1
                self._note(EventKind.CONNECTION_LOST, reason=state.reason)
            elif self._connection is ConnectionStatus.CONNECTING:
                self._note(EventKind.CONNECTION_FAILED, reason=state.reason)
            if state.reason not in self._reasons:
                is_lost = self._connections_lost or self._connection is ConnectionStatus.RUNNING
                self._on_notice(f"{'connection lost' if is_lost else 'no connection'}: {state.reason}; trying again")
                self._reasons.add(state.reason)
        elif state.status is ConnectionStatus.RUNNING and self._connection is ConnectionStatus.LOST:
            kind = EventKind.CONNECTION_RESTORED if self._connections_lost else EventKind.CONNECTION_ESTABLISHED
            self._note(kind)
            self._on_notice("connection restored" if self._connections_lost else "connected")
            self._reasons.clear()
        if state.status is not ConnectionStatus.CONNECTING:
            self._connection = state.status

    def _obey(self, command: Command) -> None:
        if isinstance(command, SetThreshold):
            self._set_threshold(command.value)
        elif command is Action.THRESHOLD_UP:
            self._step_threshold(THRESHOLD_STEP)
        elif command is Action.THRESHOLD_DOWN:
            self._step_threshold(-THRESHOLD_STEP)
        elif command is Action.OPERATING_POINT_NEXT:
            self._next_operating_point()
        elif command is Action.OVERLAY_OFF:
            self._note(EventKind.MARKERS_HIDDEN)
        elif command is Action.OVERLAY_ON:
            self._note(EventKind.MARKERS_SHOWN)
        elif command is Action.ALERT_ACKNOWLEDGED:
            self._note(EventKind.ALERT_ACKNOWLEDGED)
        elif command is Action.QUIT:
            self.close()
        elif self._recorder is not None:
            self._obey_recording(command)

    def _obey_recording(self, command: Command) -> None:
        assert self._recorder is not None
        self._statistics = None
        if isinstance(command, Review):
            self._recorder.review(command)
        elif isinstance(command, ExportReview):
            self._recorder.export_review(command.formats, self._model_facts())
        elif command is Action.MISSED:
            self._recorder.report_missed(self._newest)
        elif command is Action.FALSE_ALARM:
            self._recorder.report_false()
        elif command is Action.SNAPSHOT:
            self._recorder.take_snapshot(self._newest)
        elif command is Action.RECORD_START:
            self._recorder.start_recording(has_packets=self._source.has_packets)
        elif command is Action.RECORD_STOP:
            self._recorder.stop_recording()

    def _step_threshold(self, step: float) -> None:
        """Change the threshold within the range of the keys; one beyond it is never moved in the opposite direction."""
        present = self._live.tracker.operating_point.threshold
        least, largest = min(present, LEAST_THRESHOLD), max(present, LARGEST_THRESHOLD)
        self._set_threshold(min(max(present + step, least), largest))

    def _set_threshold(self, value: float) -> None:
        if value == self._live.tracker.operating_point.threshold:
            return
        self._statistics = None
        self._live.tracker.set_threshold(value)
        self._note(EventKind.SETTINGS_CHANGED, **self._settings())

    def _next_operating_point(self) -> None:
        names = list(self._points)
        if not names:
            return
        self._statistics = None
        present = self._live.tracker.operating_point.name
        following = names[(names.index(present) + 1) % len(names)] if present in names else names[0]
        self._live.tracker.operating_point = self._points[following]
        self._note(EventKind.SETTINGS_CHANGED, **self._settings())

    def _facts(self) -> SessionFacts:
        """What the report says about the session as a whole."""
        live, point = self._live, self._live.tracker.operating_point
        threads = live.inference_threads
        return SessionFacts(
            source=self._source.label,
            label=self._label,
            model=self._model_facts(),
            settings={
                "Model": self._model.name,
                "Backend": self._model.backend,
                **({} if threads is None else {"CPU threads of the network at the end": str(threads)}),
                "Operating point at the end": point.name,
                "Threshold at the end": f"{point.threshold:.3g}",
                "Smallest region": f"{point.min_area_share:.2%} of the frame",
                "Appears after, vanishes after": f"{point.appear_ms:g} ms, {point.vanish_ms:g} ms",
                "Software": f"polypstream {version('polypstream')}",
            },
            totals={
                "frames displayed": self._frames,
                "frames dropped": live.dropped,
                "frames inferred": live.inferences,
                "frames not inferred, as a newer one was there": live.not_inferred,
                "connections lost": self._connections_lost,
            },
        )

    def _model_facts(self) -> ModelFacts:
        return replace(self._model, threshold=self._live.tracker.operating_point.threshold)

    def _settings(self) -> dict[str, object]:
        point = self._live.tracker.operating_point
        return {"operating_point": point.name, "threshold": round(point.threshold, 4)}

    def _note(self, kind: EventKind, **details: object) -> None:
        self._keep(Event(kind=kind, details=details))

    def _keep(self, event: Event) -> None:
        if self._recorder is not None:
            self._recorder.note(event)
