"""Threads of a pipeline: bounded handover between them, stages that always end, and signals."""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from threading import Condition, Lock, Thread
from types import FrameType
from typing import Generic, TypeVar

from polypstream.errors import ConfigError

T = TypeVar("T")


class Delivery(Enum):
    """Behavior if the receiver is slower than the sender."""

    LOSSLESS = "lossless"
    """The sender waits: for files, where every frame counts."""
    NEWEST = "newest"
    """The oldest item is dropped and counted: for live feeds, where only the newest matters."""


class HandoverClosed(Exception):  # noqa: N818 - not an error
    """Raised by `put` after the handover was closed, and by `get` once it is closed and empty."""


class Handover(Generic[T]):
    """A bounded queue from any thread to one receiver; closing it wakes all waiting threads.

    Args:
        capacity: Maximum number of waiting items, at least 1.
        delivery: Behavior if it is full.
    """

    def __init__(self, *, capacity: int, delivery: Delivery = Delivery.LOSSLESS) -> None:
        if capacity < 1:
            raise ConfigError(f"a handover cannot hold {capacity} items; give a capacity of at least 1")
        self._capacity, self._delivery = capacity, delivery
        self._items: deque[T] = deque()
        self._changed = Condition()
        self._closed = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Number of items dropped in favor of newer ones; always 0 if lossless."""
        return self._dropped

    def put(self, item: T) -> None:
        """Hand one item over.

        Raises:
            HandoverClosed: If it is closed.
        """
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
        """Take the oldest item, waiting for one.

        Args:
            timeout_s: How long to wait, in seconds; None for no limit.

        Raises:
            HandoverClosed: If it is closed and all items are taken.
            TimeoutError: If no item came in time.
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
        """Accept no more items. Those waiting can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def cancel(self) -> None:
        """Close and drop the waiting items; called by the receiver."""
        with self._changed:
            self._items.clear()
            self.close()

    def __iter__(self) -> Iterator[T]:
        """Yield items until the handover is closed and empty."""
        while True:
            try:
                yield self.get()
            except HandoverClosed:
                return


class Stages:
    """Named worker threads that end together: the first error cancels all of them, and `join` raises it.

    Args:
        cancel: Must wake every thread that may be waiting; called from whichever thread failed.
    """

    def __init__(self, *, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._threads: list[Thread] = []
        self._first_error: BaseException | None = None
        self._lock = Lock()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a new thread until it returns. A closed handover ends it normally."""
        thread = Thread(target=self._run, args=(work,), name=f"polypstream-{name}")
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except HandoverClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - kept, and raised again in the caller's thread
            with self._lock:
                self._first_error = self._first_error or error
            self._cancel()

    def join(self) -> None:
        """Wait until every thread has ended, then raise the first error, if there was one, with its traceback."""
        for thread in self._threads:
            thread.join()
        if self._first_error is not None:
            raise self._first_error

    def cancel_and_join(self) -> None:
        """End every thread early, without raising their errors; for use after an error of the caller."""
        self._cancel()
        for thread in self._threads:
            thread.join()

    @property
    def names_alive(self) -> Sequence[str]:
        """Names of the threads still running."""
        return [thread.name for thread in self._threads if thread.is_alive()]


_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay Python signal handlers, which may raise `KeyboardInterrupt`, until the end of the block.

    Keep the block short. It has no effect outside the main thread, where no handlers run.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        waiting.append((number, frame))

    handlers = {number: handler for number in _SIGNALS if callable(handler := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in waiting:
            handlers[signal.Signals(number)](number, frame)
