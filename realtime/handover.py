"""The bounded, closable hand-over between two threads of the pipeline."""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from threading import Condition
from typing import Generic, TypeVar

from polypstream.errors import ConfigError

T = TypeVar("T")


class Delivery(Enum):
    """What happens when the receiver is slower than the sender."""

    LOSSLESS = "lossless"
    """The sender waits: for files, where every frame counts."""
    NEWEST = "newest"
    """The oldest item is dropped and counted: for live feeds, where only the present counts."""


class HandoverClosed(Exception):  # noqa: N818 - an ending, not an error
    """Raised by `put` after the hand-over was closed, and by `get` once it is closed and empty."""


class Handover(Generic[T]):
    """A queue of at most `capacity` items from any thread to one receiver; closing it wakes all."""

    def __init__(self, *, capacity: int, delivery: Delivery = Delivery.LOSSLESS) -> None:
        if capacity < 1:
            raise ConfigError(f"a hand-over cannot hold {capacity} items; give a capacity of at least 1")
        self._capacity, self._delivery = capacity, delivery
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How many items were dropped because newer ones came; always 0 when lossless."""
        return self._dropped

    def put(self, item: T) -> None:
        """Hand one item over; raises `HandoverClosed` when nobody will take it."""
        with self._changed:
            if self._delivery is Delivery.LOSSLESS:
                self._changed.wait_for(lambda: self._closed or len(self._items) < self._capacity)
            if self._closed:
                raise HandoverClosed
            if len(self._items) == self._capacity:
                self._items.popleft()
                self._dropped += 1
            self._items.append(item)
            self._changed.notify_all()

    def get(self, *, timeout_s: float | None = None) -> T:
        """Take the oldest item; raises `HandoverClosed` when it is closed and all items are taken.

        Raises `TimeoutError` where none comes within `timeout_s`; None waits for ever.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or bool(self._items), timeout_s):
                raise TimeoutError(f"nothing was handed over within {timeout_s} s")
            if not self._items:
                raise HandoverClosed
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Say that no more items come. What is waiting can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Close, and throw away what is waiting: the receiver wants no more."""
        with self._changed:
            self._items.clear()
            self.close()

    def __iter__(self) -> Iterator[T]:
        """Yield items until the hand-over is closed and empty."""
        while True:
            try:
                yield self.get()
            except HandoverClosed:
                return
