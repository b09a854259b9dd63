"""Packet reader: the thread that connects, reads and reconnects, and its queue of packets to decode."""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from threading import Condition, Lock
from time import monotonic
from typing import TypeAlias

import av
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.live.sources.config import SourceConfig, reason_of
from polypstream.realtime.live.sources.connection import Cancellation, Cancelled, Connection, Feed
from polypstream.realtime.video.decoding import VideoPacket

_MOST_BYTES = 64 << 20
"""About ten seconds of a fast stream; if the iterating thread is away for longer, the oldest packets are lost."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A connection was established; `is_file` as in `Connection`."""

    stream: VideoStream
    is_file: bool


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A packet with its arrival time in monotonic seconds."""

    packet: VideoPacket
    at: float


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A connection failed, or ended."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The source has ended: no packets will follow."""


Item: TypeAlias = Opened | Arrival | Lost | Ended


class Backlog:
    """A closable queue for one sender and one receiver; the sender never waits."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._bytes = 0
        self._is_closed = self._is_taking = False
        self.overflowed = 0
        """Packets dropped because the receiver was too slow."""

    @property
    def is_closed(self) -> bool:
        """Whether the queue is closed."""
        return self._is_closed

    @property
    def is_empty(self) -> bool:
        """Whether everything has been taken."""
        return not self._items

    def put(self, item: Item) -> None:
        """Add an item; raises `Cancelled` if closed."""
        with self._changed:
            if self._is_closed:
                raise Cancelled
            self._items.append(item)
            self._bytes += _size(item)
            while self._bytes > _MOST_BYTES and len(self._items) > 2:
                self._overflow()
            self._changed.notify_all()

    def _overflow(self) -> None:
        place = next(place for place, item in enumerate(self._items) if isinstance(item, Arrival))
        self._bytes -= _size(self._items[place])
        del self._items[place]
        self.overflowed += 1

    def take(self, timeout_s: float | None) -> Item | None:
        """Return the oldest item, or None after the timeout; raises `Cancelled` if closed."""
        with self._changed:
            self._is_taking = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed or bool(self._items), timeout_s)
            self._is_taking = False
            if self._is_closed:
                raise Cancelled
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= _size(item)
            return item

    def up_to_keyframe(self) -> list[Arrival]:
        """Take all packets before the newest queued keyframe, if there is one."""
        with self._changed:
            places = [i for i, item in enumerate(self._items) if isinstance(item, Arrival) and item.packet.is_keyframe]
            taken = [self._items.popleft() for _ in range(places[-1] if places else 0)]
            self._bytes -= sum(map(_size, taken))
            return [item for item in taken if isinstance(item, Arrival)]

    def settle(self) -> None:
        """Wait until the receiver has processed everything and asks for more, or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (self._is_taking and not self._items))

    def close(self) -> None:
        """Drop the remaining items, and wake both ends."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()


def _size(item: Item) -> int:
    return item.packet.size if isinstance(item, Arrival) else 0


class PacketReader:
    """Fills the queue from a feed until the queue is closed or the feed ends."""

    def __init__(self, feed: Feed, backlog: Backlog, config: SourceConfig) -> None:
        self._feed, self._backlog, self._config = feed, backlog, config
        self._lock = Lock()
        self._cancellation: Cancellation | None = None
        self._failures = 0
        self.stream_in_use = Lock()
        """Held while using the stream of an `Opened`; after acquiring it, check whether the queue is closed."""

    def run(self) -> None:
        """Run the reading thread."""
        with suppress(Cancelled):
            while True:
                try:
                    with self._new_cancellation() as cancellation, self._feed(cancellation) as connection:
                        self._forward(connection)
                    self._backlog.put(Ended())
                    return
                except Cancelled:  # by the watchdog, which knows the reason, or by closing, which is checked below
                    pass
                except (OSError, av.FFmpegError) as error:
                    self._backlog.put(Lost(reason=self._reason(error)))
                with self._new_cancellation() as cancellation:
                    cancellation.wait(self._retry_s())

    def drop(self) -> None:
        """Close the connection, or abort opening it; another attempt follows unless the queue is closed.

        May be called from any thread.
        """
        with self._lock:
            if self._cancellation is not None:
                self._cancellation.cancel()

    def frame_arrived(self) -> None:
        """Report a decoded frame: the connection works, so the retry delay is reset."""
        self._failures = 0

    def _forward(self, connection: Connection) -> None:
        self._backlog.put(Opened(stream=connection.stream, is_file=connection.is_file))
        try:
            for packet in connection.packets():
                self._backlog.put(Arrival(packet=packet, at=monotonic()))
        finally:
            self._backlog.settle()
            with self.stream_in_use:  # the next user will find the queue closed
                pass

    def _new_cancellation(self) -> Cancellation:
        with self._lock:
            self._cancellation = Cancellation()
            if self._backlog.is_closed:
                self._cancellation.cancel()
            return self._cancellation

    def _retry_s(self) -> float:
        doubled = self._config.first_retry_s * (1 << min(self._failures, 30))
        self._failures += 1
        return min(doubled, self._config.longest_retry_s)

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, SourceError):
            return str(error)
        if isinstance(error, TimeoutError | av.ExitError):
            return f"no data for {self._config.watchdog_s:g} s"
        return reason_of(error)
