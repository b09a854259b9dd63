"""Event log of a session: JSON lines, each written to disk before the next one."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from threading import Event as Signal
from threading import Lock
from time import monotonic, time

from polypstream.files import unwritten
from polypstream.realtime.live.events import Event, EventKind, event_record
from polypstream.realtime.live.recording.background import Background

RETRY_S = 1.0
"""Interval in seconds between attempts to write to a failed disk, as nothing signals that space is available again."""
_WAITING = 1024
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    """Consecutive over all events; a gap means that some were dropped."""
    event: Event
    happened_at: float
    """Wall-clock time of the event in seconds since 1970."""


class EventLog(Background[_Line]):
    """Appends events to a file; may be called from any thread. Use as a context manager.

    `time` is UTC from the wall clock; `session_s` and `duration_s` come from a monotonic clock. Nothing raises in the
    caller's thread. While the disk cannot be written, the newest 1024 events are buffered; once it can be written
    again, a line `events_lost` replaces those that were dropped. `on_notice` is called when writing fails, when it
    works again, and at the end with the number of missing events.

    Args:
        path: File to append to.
        on_notice: Called with one line for the user, from any thread.
        began_at: Start of the session in monotonic seconds; None for now.
    """

    def __init__(self, path: Path, *, on_notice: Callable[[str], None], began_at: float | None = None) -> None:
        self.path = path
        self._file = _LineFile(path)
        self._on_notice = on_notice
        self._began_at = monotonic() if began_at is None else began_at
        self._is_written, self._problem = True, ""
        self._closing = Signal()
        self._lock = Lock()
        self._added = 0
        super().__init__("events", capacity=_WAITING, on_stopped=on_notice)

    @property
    def problem(self) -> str:
        """Why events currently cannot be written; empty if they can."""
        return self._problem

    @property
    def is_written(self) -> bool:
        """Whether events are currently written to the file."""
        return self._is_written

    def add(self, event: Event) -> None:
        """Log one event."""
        happened_at = time() - (monotonic() - event.at)
        with self._lock:
            self._give(_Line(number=self._added, event=event, happened_at=happened_at))
            self._added += 1

    def close(self) -> None:
        """Write the buffered events if the disk accepts them now."""
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
                    self._on_notice(f"the last {last.number + 1 - following} events are missing in {self.path}")
                    return
                following = line.number + 1
        finally:
            self._file.close()

    def _put(self, record: dict[str, object]) -> bool:
        """Write a line as soon as that is possible; False if it is impossible and the log is closing."""
        while True:
            is_last_try = self._closing.is_set()
            try:
                self._file.append(record)
            except OSError as error:
                if self._is_written:
                    self._is_written, self._problem = False, unwritten(self.path, error)
                    self._on_notice(self._problem)
                if is_last_try:
                    return False
                self._closing.wait(RETRY_S)
            else:
                if not self._is_written:
                    self._is_written, self._problem = True, ""
                    self._on_notice(f"{self.path} can be written again")
                return True

    def _lost(self, count: int, following: _Line) -> dict[str, object]:
        """Return the line that replaces dropped events, with the time of the event that follows them."""
        event = Event(kind=EventKind.EVENTS_LOST, at=following.event.at, details={"count": count})
        return self._record(replace(following, event=event))

    def _record(self, line: _Line) -> dict[str, object]:
        return event_record(line.event, began_at=self._began_at, happened_at=line.happened_at)


class _LineFile:
    """A file that contains only complete lines. It is opened for the first line, and again after each failure."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def append(self, record: dict[str, object]) -> None:
        """Append one complete line to the disk; on `OSError`, none of it."""
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        file = self._opened()
        end = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # if even this fails, the next open does it
                file.truncate(end)
            self.close()
            raise

    def close(self) -> None:
        """Close the file; the next line opens it again."""
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
    """Truncate an incomplete last line, left by a full disk or a killed process."""
    end = size = file.seek(0, os.SEEK_END)
    is_found = False
    while end and not is_found:
        start = max(end - _BLOCK, 0)
        file.seek(start)
        after_line_end = file.read(end - start).rfind(b"\n") + 1
        is_found, end = bool(after_line_end), start + after_line_end
    if end < size:
        file.truncate(end)
