"""Threads of a pipeline: bounded handover between them, stages that always end, priorities, CPU cores, and signals."""

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path
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


SWITCH_S = 0.0001
"""Interval at which Python's threads switch; with the default of 5 ms, one of them could delay a frame that long."""
TRACKING_NICENESS, INFERENCE_NICENESS = 5, 10
"""Niceness of the tracking and the inference thread, relative to the thread that displays frames."""
HIGHEST_NICENESS = 19


def live_inference_threads() -> int:
    """Number of threads for the network in a live session: one core is reserved for the frames."""
    return max(1, usable_cores() - 1)


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let Python's threads switch more often while in this context."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def lower_thread_priority(niceness: int) -> None:
    """Lower the priority of this thread, relative to the one it has.

    The niceness is added to that of the process, which `nice` or a service manager may have set. Without permission, or
    on a system without thread priorities, nothing changes.

    Args:
        niceness: Amount by which the thread's niceness is raised.
    """
    if not sys.platform.startswith("linux"):
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        present = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(present + niceness, HIGHEST_NICENESS))


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Take back real-time scheduling that a library gives to the calling thread and to threads that it starts.

    As root, SVT-AV1 does so when an encoder is opened, with the highest priority there is: everything else on the
    machine would have to wait.
    """
    before = _realtime_threads()
    try:
        yield
    finally:
        for thread in _realtime_threads() - before:
            with suppress(OSError):  # it may have ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _realtime_threads() -> set[int]:
    found = set[int]()
    if sys.platform.startswith("linux"):
        for thread in (int(each.name) for each in Path("/proc/self/task").iterdir()):
            with suppress(OSError):
                if os.sched_getscheduler(thread) in {os.SCHED_FIFO, os.SCHED_RR}:
                    found.add(thread)
    return found


MOST_SIDE_BY_SIDE = 4
"""Maximum number of parallel segmenters; more only need memory, as each has several cores already."""


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares_of_cores(cores: int) -> list[int]:
    """Numbers of threads of the segmenters that should run in parallel on this number of cores.

    Single-threaded segmenters never wait; several threads on one frame synchronize at every layer.
    """
    count = min(cores, MOST_SIDE_BY_SIDE)
    return [cores // count + (index < cores % count) for index in range(count)]


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
