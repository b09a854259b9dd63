"""Session recorder: saves the events and snapshots of a live session, and recordings that start and stop on command."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from enum import Enum
from itertools import count
from pathlib import Path
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Self

from polypstream.errors import OutputError
from polypstream.files import locked
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.live.display_frame import DisplayFrame
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.clips import AFTER_S, BEFORE_S, ClipBuffer
from polypstream.realtime.live.recording.event_log import EventLog
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.journal import Journal
from polypstream.realtime.live.recording.overlay import OverlayConfig, OverlayRecorder
from polypstream.realtime.live.recording.review_export import ModelFacts, ReviewExports
from polypstream.realtime.live.recording.session_folder import LOCK, save_facts
from polypstream.realtime.live.recording.session_record import SessionRecord
from polypstream.realtime.live.recording.session_report import SessionFacts, write_session_report
from polypstream.realtime.live.recording.sightings import Sighting
from polypstream.realtime.live.recording.snapshots import Snapshot, Snapshots
from polypstream.realtime.live.sources.source import FrameSource
from polypstream.realtime.live.viewers.viewer import Notice, Review
from polypstream.realtime.outlines.drawing import MarkerStyle

OnNotice = Callable[[str], None]
"""Called with one line for the user, from any thread."""


MISSED_EVERY_S = 1.0
"""Minimum time between two reports of a missed polyp, each of which stores a frame and a clip."""


class Record(Enum):
    """Content of a recording."""

    FEED = "feed"
    """The unchanged packets of the source; encoded frames if it has no packets."""
    OVERLAY = "overlay"
    BOTH = "both"


class SessionRecorder:
    """Saves a session in a new folder, which is created on entry. Use as a context manager.

    Nothing here delays a frame or ends the session: failures are reported through `on_notice` and in `problem`.
    If a recorder stops by itself (disk, folder, codec), `is_recording` becomes False, and the next `start_recording`
    starts new recorders.

    Args:
        folder: Folder to create; a number is appended if it exists.
        source: The source, whose packets are recorded.
        record: What to record.
        style: Appearance of the markers.
        on_notice: Called with one line for the user, from any thread.
        on_event: Called with each logged event, from any thread; must return immediately.
    """

    def __init__(
        self,
        folder: Path,
        source: FrameSource,
        *,
        record: Record,
        style: MarkerStyle,
        on_notice: OnNotice,
        on_event: Callable[[Event], object] = lambda _: None,
    ) -> None:
        self._on_event = on_event
        self.folder = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self._source, self._record, self._style, self._on_notice = source, record, style, on_notice
        self._open = ExitStack()
        self._recording = ExitStack()
        self._recorders: list[OverlayRecorder] = []
        self._feed: FeedRecorder | None = None
        self.journal = Journal()
        """What the report says about time."""
        self._clips = ClipBuffer()
        self._recording_since: float | None = None
        self._missed_s = float("-inf")
        self._recording_problem = self._snapshot_problem = self._record_problem = ""
        self.opened_record: SessionRecord | None = None
        """The record of the session; None before it starts."""
        self._notice: Notice | None = None
        self._notice_lock = Lock()

    @property
    def is_recording(self) -> bool:
        """Whether a recording is running."""
        return (self._feed is not None and self._feed.is_running) or any(each.is_running for each in self._recorders)

    @property
    def problem(self) -> str:
        """Why something cannot be saved, in one line; empty if everything is saved."""
        return self._recording_problem or self._snapshot_problem or self._record_problem or self._log.problem

    @property
    def recording_s(self) -> float | None:
        """How long the recording has been running, in seconds; None without one."""
        since = self._recording_since
        return monotonic() - since if since is not None and self.is_recording else None

    @property
    def recording_file(self) -> str:
        """Name of the newest file of the recording; empty without one."""
        if not self.is_recording:
            return ""
        files = [*(self._feed.files if self._feed is not None else ())]
        for recorder in self._recorders:
            files += recorder.files[-1:]
        return files[-1].name if files else ""

    @property
    def notice(self) -> Notice | None:
        """The newest message for the user."""
        return self._notice

    @property
    def is_logging(self) -> bool:
        """Whether events currently reach the disk; otherwise they are buffered."""
        return self._log.is_written

    def __enter__(self) -> Self:
        self.folder = _new_folder(self.folder)
        self._open.enter_context(locked(self.folder / LOCK))
        self._log = self._open.enter_context(EventLog(self.folder / "events.jsonl", on_notice=self._on_notice))
        self._source.attach(self._clips)
        self._open.callback(self._source.attach, None)
        self._open.enter_context(self._clips)
        self.record = self._open.enter_context(SessionRecord(self.folder, self._style, on_problem=self._record_failed))
        self.opened_record = self.record
        self._exports = self._open.enter_context(
            ReviewExports(self.record, self.folder, on_done=lambda text, bad: self._report(text, is_problem=bad))
        )
        self._snapshots = self._open.enter_context(
            Snapshots(self.folder, self._style, on_saved=self._saved, on_failed=self._snapshot_failed)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_recording()
        self._open.close()

    def note(self, event: Event) -> None:
        """Log an event."""
        self.journal.note(event)
        self._log.add(event)
        self._on_event(event)

    def show(self, shown: DisplayFrame) -> None:
        """Record a frame if a recording is running, and what is marked on it in any case."""
        self.record.show(shown)
        for recorder in self._recorders:
            recorder.show(shown)

    def take_snapshot(self, shown: DisplayFrame | None) -> None:
        """Save this frame; None if there has been no frame yet, which is reported."""
        if shown is None:
            self._report("no snapshot: there has been no frame yet", is_problem=True)
        else:
            self._snapshots.take(shown)

    def report_missed(self, shown: DisplayFrame | None) -> None:
        """Add a polyp that was not marked on this frame to the record, and keep a clip."""
        if shown is None:
            self._report("nothing to report: there has been no frame yet", is_problem=True)
            return
        if monotonic() - self._missed_s < MISSED_EVERY_S:
            return  # the key was pressed twice, or commands come from a script
        self._missed_s = monotonic()
        sighting = self.record.add_missed(shown)
        clip = self._keep_clip(sighting, "missed")
        frame = shown.frame
        details: dict[str, object] = {"sighting": sighting.number, "clip": clip}
        self.note(Event(kind=EventKind.POLYP_MISSED, at=frame.captured_at, pts_s=frame.pts_s, details=details))
        self._report(f"missed polyp noted{self._about_clip(clip)}", is_problem=False)

    def report_false(self) -> None:
        """Mark the newest sighting in the record as reported false, and keep a clip."""
        sighting = self.record.report_false()
        if sighting is None:
            self._report("nothing to report as false: no polyp was marked in the last 10 s", is_problem=True)
            return
        clip = self._keep_clip(sighting, "false")
        self.note(Event(kind=EventKind.FALSE_ALARM, details={"sighting": sighting.number, "clip": clip}))
        self._report(f"sighting {sighting.number} noted as false{self._about_clip(clip)}", is_problem=False)

    def review(self, decision: Review) -> None:
        """Set the result of the review of a sighting."""
        event = reviewed(self.record, decision)
        if event is None:
            self._report(f"sighting {decision.number} cannot be changed: it is not in the record", is_problem=True)
        else:
            self.note(event)

    def write_report(self, facts: SessionFacts) -> None:
        """Write the report of the session, and what a later review needs to write it again; call `finish` first."""
        self.journal.ended_s = monotonic()
        try:
            save_facts(self.folder, facts, self.journal)
            path = write_session_report(self.folder, facts, self.journal, self.record)
        except OutputError as error:
            self._report(f"the report of the session could not be written: {error}", is_problem=True)
        else:
            self._report(f"report: {path}", is_problem=False)

    def export_review(self, formats: tuple[ExportFormat, ...], model: ModelFacts) -> None:
        """Write the reviewed sightings in these formats, in a separate thread."""
        self._exports.start(formats, model)

    def start_recording(self, *, has_packets: bool) -> None:
        """Start a recording unless one is running. `has_packets`: whether the source provides packets."""
        if self.is_recording:
            return
        self._close_recorders()
        self._recording_problem = ""
        self._recording_since = monotonic()
        self.note(Event(kind=EventKind.RECORDING_STARTED, details={"holds": self._record.value}))
        if self._record is not Record.OVERLAY:
            if has_packets:
                path = self.folder / "feed.mkv"
                self._feed = self._recording.enter_context(FeedRecorder(path, on_stopped=self._stopped))
                self._clips.recorder = self._feed
            else:
                self._add_recorder("feed", OverlayConfig(style=None))
        if self._record is not Record.FEED:
            self._add_recorder("overlay", OverlayConfig(style=self._style))

    def record_pictures(self) -> None:
        """Record frames instead of packets, which the source turned out not to provide."""
        if self._feed is not None:
            self._clips.recorder = self._feed = None
            self._add_recorder("feed", OverlayConfig(style=None))

    def stop_recording(self) -> None:
        """Stop the recording, if one is running, and complete its files."""
        was_recording, problem = self.is_recording, self._recording_problem
        self._close_recorders()
        if was_recording and self._recording_problem == problem:
            self.note(Event(kind=EventKind.RECORDING_STOPPED))
        self._recording_problem = ""

    def finish(self) -> None:
        """Stop the recording and save the pending snapshots; only events are accepted afterwards."""
        self.stop_recording()
        self._snapshots.close()
        self._clips.close()
        self._exports.close()
        self.record.close()

    def _close_recorders(self) -> None:
        """Complete the files of the running recorders, and discard those that stopped by themselves."""
        self._clips.recorder = self._feed = None
        self._recorders = []
        self._recording.close()

    def _add_recorder(self, name: str, config: OverlayConfig) -> None:
        recorder = OverlayRecorder(self.folder / f"{name}.mkv", config, on_stopped=self._stopped)
        self._recorders.append(self._recording.enter_context(recorder))

    def _stopped(self, reason: str) -> None:
        self._recording_problem = reason
        self._report(reason, is_problem=True)
        self.note(Event(kind=EventKind.RECORDING_STOPPED, details={"reason": reason}))

    def _saved(self, snapshot: Snapshot, event: Event) -> None:
        self._snapshot_problem = ""
        self.note(event)
        self._report(f"snapshot: {snapshot.marked}", is_problem=False)

    def _keep_clip(self, sighting: Sighting, name: str) -> str:
        """Start a clip; returns its file name, or "" if there is nothing to keep."""
        path = self.folder / f"{name}_{sighting.number:03}.mkv"
        if not self._clips.keep(path, on_stopped=self._clip_failed):
            return ""
        self.record.set_clip(sighting.number, path.name)
        return path.name

    def _about_clip(self, clip: str) -> str:
        if not clip:
            return "; there is no clip, as this source provides no compressed packets"
        before_s = min(self._clips.buffered_s, BEFORE_S)
        return f"; {clip} keeps {before_s:.0f} s before and {AFTER_S:.0f} s after"

    def _clip_failed(self, reason: str) -> None:
        self._report(f"the clip could not be saved: {reason}", is_problem=True)

    def _record_failed(self, reason: str) -> None:
        self._record_problem = reason
        if reason:
            self._report(reason, is_problem=True)

    def _snapshot_failed(self, reason: str) -> None:
        self._snapshot_problem = reason
        self._report(reason, is_problem=True)

    def _report(self, text: str, *, is_problem: bool) -> None:
        """Show a message in the terminal and in all viewers."""
        with self._notice_lock:
            number = 1 if self._notice is None else self._notice.number + 1
            self._notice = Notice(number=number, text=text, is_problem=is_problem)
        self._on_notice(text)


def reviewed(record: SessionRecord, decision: Review) -> Event | None:
    """Apply a decision to the record; returns its event, or None if there is no such sighting."""
    if not record.review(decision.number, decision.verdict, decision.contour, decision.note):
        return None
    details: dict[str, object] = {
        "sighting": decision.number,
        "verdict": decision.verdict.value,
        "corrected": decision.contour is not None,
    }
    return Event(kind=EventKind.SIGHTING_REVIEWED, details=details)


def _new_folder(path: Path) -> Path:
    """Create a folder not used by another session; if that fails, return its name, as it may succeed later."""
    for number in count(1):
        candidate = path if number == 1 else path.with_name(f"{path.name}-{number}")
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError:
            return candidate
        else:
            return candidate
    raise AssertionError("unreachable: the sequence of numbers is infinite")
