"""What has arrived and is not decoded yet, between the thread that reads and the thread that iterates."""

from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import TypeAlias

from av.video.stream import VideoStream

from polypstream.realtime.decoding import VideoPacket
from polypstream.realtime.live.sources.halt import Halted

_MOST_BYTES = 64 << 20
"""Some ten seconds of a fast stream; an iterating thread that stays away for longer loses the oldest."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A connection stands."""

    stream: VideoStream


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A packet and when it came, in monotonic seconds."""

    packet: VideoPacket
    at: float


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A connection failed, or ended."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The source has come to its end: no more will follow."""


Item: TypeAlias = Opened | Arrival | Lost | Ended


class Backlog:
    """A closable queue of one sender and one receiver that never makes the sender wait."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._bytes = 0
        self._is_closed = self._is_taking = False
        self.overflowed = 0
        """Packets thrown away since nobody took them."""

    @property
    def is_closed(self) -> bool:
        """Whether nothing more will be given out."""
        return self._is_closed

    @property
    def is_empty(self) -> bool:
        """Whether all that came has been taken."""
        return not self._items

    def put(self, item: Item) -> None:
        """Add what came. Raises `Halted` when closed."""
        with self._changed:
            if self._is_closed:
                raise Halted
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
        """The oldest item, or None when none came in time. Raises `Halted` when closed."""
        with self._changed:
            self._is_taking = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._is_closed or bool(self._items), timeout_s)
            self._is_taking = False
            if self._is_closed:
                raise Halted
            if not self._items:
                return None
            item = self._items.popleft()
            self._bytes -= _size(item)
            return item

    def up_to_keyframe(self) -> list[Arrival]:
        """Take all packets before the newest keyframe that waits, if one does."""
        with self._changed:
            places = [i for i, item in enumerate(self._items) if isinstance(item, Arrival) and item.packet.is_keyframe]
            taken = [self._items.popleft() for _ in range(places[-1] if places else 0)]
            self._bytes -= sum(map(_size, taken))
            return [item for item in taken if isinstance(item, Arrival)]

    def settle(self) -> None:
        """Wait until the receiver has dealt with everything and asks for more, or the backlog is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or (self._is_taking and not self._items))

    def close(self) -> None:
        """Throw away what is left, and wake both ends."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._bytes = 0
            self._changed.notify_all()


def _size(item: Item) -> int:
    return item.packet.size if isinstance(item, Arrival) else 0
