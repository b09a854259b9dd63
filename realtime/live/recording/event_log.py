"""The log of a session as JSON lines, each on the disk before the next is written."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from threading import Event as Signal
from threading import Lock
from time import monotonic, time

from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import unwritten

RETRY_S = 1.0
"""So long after a failure the disk is tried again: nothing tells when there is room once more."""
_WAITING = 1024
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    """Counted over all events; a gap shows that some were dropped."""
    event: Event
    happened_at: float
    """Seconds since 1970, by the wall clock at the time."""


class EventLog(Background[_Line]):
    """Appends events to a file, from any thread. A context manager.

    `time` is the wall clock's, UTC; `session_s` and `duration_s` are by a clock that never jumps. Nothing raises in
    the caller's thread. While the disk takes no more, events wait, the newest 1024 of them, and are written when it
    does; then a line `events_lost` stands for those that could not wait. `on_notice` is told why the log is not
    written, that it is again, and at the end how many events are not in it.
    """

    def __init__(self, path: Path, *, on_notice: Callable[[str], None]) -> None:
        self.path = path
        self._file = _LineFile(path)
        self._on_notice = on_notice
        self._began_at = monotonic()
        self._is_written = True
        self._closing = Signal()
        self._lock = Lock()
        self._added = 0
        super().__init__("events", capacity=_WAITING, on_stopped=on_notice)

    @property
    def is_written(self) -> bool:
        """Whether events reach the file at present."""
        return self._is_written

    def add(self, event: Event) -> None:
        """Log one event."""
        happened_at = time() - (monotonic() - event.at)
        with self._lock:
            self._give(_Line(number=self._added, event=event, happened_at=happened_at))
            self._added += 1

    def close(self) -> None:
        """Write what waits, if the disk takes it now."""
        self._closing.set()
        super().close()

    def _work(self, lines: Iterator[_Line]) -> None:
        following = 0
        try:
            for line in lines:
                lost = line.number - following
                records = [self._lost(lost, line)] if lost else []
                if not all(self._put(record) for record in (*records, self._record(line))):
                    *_, last = line, *lines
                    self._on_notice(f"the last {last.number + 1 - following} events are not in {self.path}")
                    return
                following = line.number + 1
        finally:
            self._file.close()

    def _put(self, record: dict[str, object]) -> bool:
        """Write a line as soon as that is possible; False where it is not, and all is coming to its end."""
        while True:
            is_last_try = self._closing.is_set()
            try:
                self._file.append(record)
            except OSError as error:
                if self._is_written:
                    self._is_written = False
                    self._on_notice(unwritten(self.path, error))
                if is_last_try:
                    return False
                self._closing.wait(RETRY_S)
            else:
                if not self._is_written:
                    self._is_written = True
                    self._on_notice(f"{self.path} is written again")
                return True

    def _lost(self, count: int, following: _Line) -> dict[str, object]:
        """What stands for events that could not wait, at the time of the one that follows them."""
        event = Event(kind=EventKind.EVENTS_LOST, at=following.event.at, details={"count": count})
        return self._record(replace(following, event=event))

    def _record(self, line: _Line) -> dict[str, object]:
        event = line.event
        moment = datetime.fromtimestamp(line.happened_at, UTC).isoformat(timespec="milliseconds")
        record: dict[str, object] = {
            "event": event.kind.value,
            "time": moment.replace("+00:00", "Z"),
            "session_s": round(event.at - self._began_at, 3),
        }
        if event.pts_s is not None:
            record["pts_s"] = round(event.pts_s, 6)
        return record | dict(event.details)


class _LineFile:
    """A file that holds whole lines only. It is opened with the first line, and anew after each failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def append(self, record: dict[str, object]) -> None:
        """One whole line, on the disk; or `OSError`, and nothing of it."""
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        file = self._opened()
        end = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # where not even that can be done, opening it again does it
                file.truncate(end)
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _opened(self) -> FileIO:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(self._path, "a+b")
            try:
                _cut_unfinished(file)
            except OSError:
                file.close()
                raise
            self._file = file
        return self._file


def _cut_unfinished(file: FileIO) -> None:
    """Cut off what follows the last line end: a line that a full disk, or a kill, left half written."""
    end = size = file.seek(0, os.SEEK_END)
    is_found = False
    while end and not is_found:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        after_line_end = file.read(end - start).rfind(b"\n") + 1
        is_found, end = bool(after_line_end), start + after_line_end
    if end < size:
        file.truncate(end)
