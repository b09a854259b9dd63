"""The stop that wakes whoever waits for a socket, a device or a moment."""

import os
import select
from threading import Lock
from types import TracebackType
from typing import Self


class Halted(Exception):  # noqa: N818 - an ending, not an error
    """Raised in whoever waits when it is to stop."""


class Halt:
    """Set once, from any thread; a context manager, since it is a file descriptor that is waited for."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = Lock()
        self._is_set = self._is_closed = False

    @property
    def is_set(self) -> bool:
        """Whether it is time to stop."""
        return self._is_set

    def set(self) -> None:
        """Wake all who wait, now and later."""
        with self._lock:
            self._is_set = True
            if not self._is_closed:
                os.eventfd_write(self._event, 1)

    def pause(self, seconds: float) -> None:
        """Wait for so long. Raises `Halted` at once when set."""
        self._poll([], seconds)

    def until_ready(self, descriptor: int, events: int, timeout_s: float | None) -> None:
        """Wait for events of `select.poll` on a descriptor. Raises `Halted` when set and `TimeoutError`."""
        if not self._poll([(descriptor, events)], timeout_s):
            raise TimeoutError

    def _poll(self, wanted: list[tuple[int, int]], timeout_s: float | None) -> bool:
        poll = select.poll()
        for descriptor, events in [(self._event, select.POLLIN), *wanted]:
            poll.register(descriptor, events)
        ready = poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000)
        if self._is_set:
            raise Halted
        return bool(ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self._event)
