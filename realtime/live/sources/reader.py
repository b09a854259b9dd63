"""The thread that connects, reads what arrives, and connects anew when the line is lost."""

from contextlib import suppress
from threading import Lock
from time import monotonic

import av

from polypstream.errors import SourceError
from polypstream.realtime.live.sources.backlog import Arrival, Backlog, Ended, Lost, Opened
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import Connection, Feed
from polypstream.realtime.live.sources.halt import Halt, Halted
from polypstream.realtime.live.sources.secrets import reason_of


class LineReader:
    """Fills a backlog from a feed until the backlog is closed or the feed has come to its end."""

    def __init__(self, feed: Feed, backlog: Backlog, config: SourceConfig) -> None:
        self._feed, self._backlog, self._config = feed, backlog, config
        self._lock = Lock()
        self._halt: Halt | None = None
        self._failures = 0
        self.stream_in_use = Lock()
        """Held by whoever uses the stream of an `Opened`; afterwards it must ask whether the backlog is closed."""

    def run(self) -> None:
        """The thread's work."""
        with suppress(Halted):
            while True:
                try:
                    with self._new_halt() as halt, self._feed(halt) as connection:
                        self._forward(connection)
                    self._backlog.put(Ended())
                    return
                except Halted:  # by the watchdog, which knows why, or by the end of all, which is found out below
                    pass
                except (OSError, av.FFmpegError) as error:
                    self._backlog.put(Lost(reason=self._reason(error)))
                with self._new_halt() as halt:
                    halt.pause(self._retry_s())

    def drop(self) -> None:
        """Tear the connection down, or break off what leads to one; the next try follows unless the backlog is closed.

        May be called from any thread.
        """
        with self._lock:
            if self._halt is not None:
                self._halt.set()

    def picture_came(self) -> None:
        """The line works: the next failure is the first again."""
        self._failures = 0

    def _forward(self, connection: Connection) -> None:
        self._backlog.put(Opened(stream=connection.stream))
        try:
            for packet in connection.packets():
                self._backlog.put(Arrival(packet=packet, at=monotonic()))
        finally:
            self._backlog.settle()
            with self.stream_in_use:  # whoever comes next finds the backlog closed
                pass

    def _new_halt(self) -> Halt:
        with self._lock:
            self._halt = Halt()
            if self._backlog.is_closed:
                self._halt.set()
            return self._halt

    def _retry_s(self) -> float:
        doubled = self._config.first_retry_s * (1 << min(self._failures, 30))
        self._failures += 1
        return min(doubled, self._config.longest_retry_s)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, SourceError):
            return str(error)
        if isinstance(error, TimeoutError | av.ExitError):
            return f"nothing came for {self._config.watchdog_s:g} s"
        return reason_of(error)
