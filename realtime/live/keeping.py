"""What a session keeps on disk: its events, snapshots, and recordings that start and stop on command."""

from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.feed import FrameSource
from polypstream.realtime.live.recording.event_log import EventLog
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.overlay import OverlayConfig, OverlayRecorder
from polypstream.realtime.live.recording.snapshots import Snapshot, Snapshots
from polypstream.realtime.live.shown import LiveFrame
from polypstream.realtime.overlay import MarkerStyle

OnNotice = Callable[[str], None]
"""Told a line for the user, from any thread."""


class Record(Enum):
    """What a recording holds."""

    FEED = "feed"
    """The source's own packets, untouched; its pictures, encoded, where it has no packets."""
    OVERLAY = "overlay"
    BOTH = "both"


class Keeper:
    """Keeps a session in a folder of its own, made when the session begins. A context manager.

    Nothing here holds the picture up or ends the session: what cannot be kept is told to `on_notice`.
    """

    def __init__(
        self, folder: Path, source: FrameSource, *, record: Record, style: MarkerStyle, on_notice: OnNotice
    ) -> None:
        self.folder = folder / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        self._source, self._record, self._style, self._on_notice = source, record, style, on_notice
        self._open = ExitStack()
        self._recording = ExitStack()
        self._recorders: list[OverlayRecorder] = []
        self._feed: FeedRecorder | None = None

    @property
    def is_recording(self) -> bool:
        """Whether pictures are being recorded now."""
        return self._feed is not None or bool(self._recorders)

    @property
    def is_logging(self) -> bool:
        """Whether events reach the disk now; those that do not, wait."""
        return self._log.is_written

    def __enter__(self) -> Self:
        self._log = self._open.enter_context(EventLog(self.folder / "events.jsonl", on_notice=self._on_notice))
        self._snapshots = self._open.enter_context(
            Snapshots(self.folder, self._style, on_saved=self._saved, on_failed=self._on_notice)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_recording()
        self._open.close()

    def note(self, event: Event) -> None:
        """Log an event."""
        self._log.add(event)

    def show(self, shown: LiveFrame) -> None:
        """Record a frame, if a recording is on."""
        for recorder in self._recorders:
            recorder.show(shown)

    def take_snapshot(self, shown: LiveFrame) -> None:
        """Keep this frame as a picture."""
        self._snapshots.take(shown)

    def start_recording(self, *, has_packets: bool) -> None:
        """Begin a recording, unless one is on. `has_packets`: whether the source has any to copy."""
        if self.is_recording:
            return
        self.note(Event(kind=EventKind.RECORDING_STARTED, details={"holds": self._record.value}))
        if self._record is not Record.OVERLAY:
            if has_packets:
                path = self.folder / "feed.mkv"
                self._feed = self._recording.enter_context(FeedRecorder(path, on_stopped=self._stopped))
                self._source.attach(self._feed)
            else:
                self._add_recorder("feed", OverlayConfig(style=None))
        if self._record is not Record.FEED:
            self._add_recorder("overlay", OverlayConfig(style=self._style))

    def record_pictures(self) -> None:
        """In place of packets, which the source turns out not to have, record its pictures."""
        if self._feed is not None:
            self._source.attach(None)
            self._feed = None
            self._add_recorder("feed", OverlayConfig(style=None))

    def stop_recording(self) -> None:
        """End the recording properly, if one is on."""
        if not self.is_recording:
            return
        self._source.attach(None)
        self._feed, self._recorders = None, []
        self._recording.close()
        self.note(Event(kind=EventKind.RECORDING_STOPPED))

    def _add_recorder(self, name: str, config: OverlayConfig) -> None:
        recorder = OverlayRecorder(self.folder / f"{name}.mkv", config, on_stopped=self._stopped)
        self._recorders.append(self._recording.enter_context(recorder))

    def _stopped(self, reason: str) -> None:
        self._on_notice(reason)
        self.note(Event(kind=EventKind.RECORDING_STOPPED, details={"reason": reason}))

    def _saved(self, snapshot: Snapshot, event: Event) -> None:
        self.note(event)
        self._on_notice(f"snapshot: {snapshot.marked}")
