"""The log of a session as JSON lines, each on the disk before the next is written."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from time import monotonic, time

from polypstream.realtime.live.events import Event
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import OnStopped, recording_error

_WAITING = 1024


@dataclass(frozen=True, kw_only=True)
class _Line:
    event: Event
    happened_at: float
    """Seconds since 1970, by the wall clock at the time."""


class EventLog(Background[_Line]):
    """Appends events to a file, from any thread. A context manager.

    `time` is the wall clock's, UTC; `session_s` and `duration_s` are by a clock that never jumps. Nothing raises in
    the caller's thread: where the log cannot go on, `on_stopped` is told why, once.
    """

    def __init__(self, path: Path, *, on_stopped: OnStopped) -> None:
        self.path = path
        self._began_at = monotonic()
        super().__init__("events", capacity=_WAITING, on_stopped=on_stopped)

    def add(self, event: Event) -> None:
        """Log one event."""
        happened_at = time() - (monotonic() - event.at)
        self._give(_Line(event=event, happened_at=happened_at))

    def _work(self, lines: Iterator[_Line]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileIO(self.path, "ab") as file:
                for line in lines:
                    _append(file, self._record(line))
        except OSError as error:
            raise recording_error(self.path, error) from error

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


def _append(file: FileIO, record: dict[str, object]) -> None:
    """One whole line, on the disk; or nothing of it."""
    line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
    end = file.seek(0, os.SEEK_END)
    try:
        written = file.write(line)
        while written < len(line):
            written += file.write(line[written:])
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise
