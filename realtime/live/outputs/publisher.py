"""Event publisher: sends the events of a session to another machine, in order, each until it is accepted."""

import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from secrets import token_hex
from threading import Condition, Lock
from time import monotonic, time

from polypstream.errors import OutputError
from polypstream.realtime.live.events import Event, EventKind, event_record
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.threads import Stages

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
"""Seconds between a failure and the next attempt; doubled after every failure until an event is accepted."""
RECEIVER_S = 5.0
"""Seconds that a receiver may take to accept an event."""
END_S = 3.0
"""Seconds during which waiting events are still sent at the end."""
CAPACITY = 1024
"""Events that may wait; beyond that the oldest is dropped and counted."""


class RejectedError(OutputError):
    """The receiver will never accept this event."""


class EventPublisher(ABC):
    """Sends events from its own thread, from construction until `close`.

    An event is sent again until the receiver accepts it, so that it may arrive twice; `session` and `sequence`, counted
    from 1, identify it. Nothing raises in the caller's thread. Subclasses must call `__init__` last.

    Args:
        kind: Short name of the kind of receiver.
        label: Address of the receiver without secrets.
        on_notice: Called with one line when sending fails or works again, from any thread.
    """

    def __init__(self, kind: str, label: str, *, on_notice: Callable[[str], None]) -> None:
        self._kind, self._label, self._on_notice = kind, label, on_notice
        self.session = token_hex(8)
        self._began_at = monotonic()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._changed = Condition()
        self._changes: deque[Event] = deque(maxlen=64)
        self._deadline: float | None = None
        self._given = self._sent = self._dropped = self._failures = 0
        self._is_working, self._problem = True, ""
        self._close_lock = Lock()
        self._stages = Stages(cancel=self._cancel)
        self._stages.start(kind, self._run)

    @property
    def state(self) -> OutputState:
        """The present state."""
        return OutputState(
            kind=self._kind,
            label=self._label,
            is_working=self._is_working,
            problem=self._problem,
            sent=self._sent,
            dropped=self._dropped,
            failures=self._failures,
        )

    def take_events(self) -> list[Event]:
        """Return what happened to the receiver since the last call."""
        return [self._changes.popleft() for _ in range(len(self._changes))]

    def publish(self, event: Event) -> None:
        """Queue an event; returns immediately."""
        happened_at = time() - (monotonic() - event.at)
        record = event_record(event, began_at=self._began_at, happened_at=happened_at)
        with self._changed:
            self._given += 1
            record |= {"session": self.session, "sequence": self._given}
            if len(self._waiting) == CAPACITY:
                self._waiting.popleft()
                self._dropped += 1
            self._waiting.append((self._given, json.dumps(record, separators=(",", ":")).encode()))
            self._changed.notify()

    def close(self) -> None:
        """Send what waits, within some seconds; the rest is counted as dropped."""
        self._cancel()
        with self._close_lock:
            self._stages.join()
            if self._waiting:
                lost, self._dropped = len(self._waiting), self._dropped + len(self._waiting)
                self._waiting.clear()
                self._on_notice(f"{lost} events did not reach {self._label}: {self._problem}")

    @abstractmethod
    def _send(self, number: int, body: bytes) -> None:
        """Send one event, and return once it is accepted.

        Raises:
            RejectedError: It will never be accepted.
            OutputError: It should be sent again.
        """

    def _disconnect(self) -> None:  # noqa: B027 - most receivers need nothing
        """Release what `_send` keeps open; called after failures and at the end."""

    def _cancel(self) -> None:
        with self._changed:
            self._deadline = self._deadline or monotonic() + END_S
            self._changed.notify()

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        try:
            while (item := self._next()) is not None:
                try:
                    self._send(*item)
                except RejectedError as error:
                    self._done(item)
                    self._dropped += 1
                    self._failed(f"{error}; an event is lost")
                except OutputError as error:
                    self._disconnect()
                    self._failed(f"{error}; events wait")
                    self._pause(retry_s)
                    retry_s = min(2 * retry_s, LONGEST_RETRY_S)
                else:
                    self._done(item)
                    self._sent += 1
                    self._accepted()
                    retry_s = FIRST_RETRY_S
        finally:
            self._disconnect()

    def _next(self) -> tuple[int, bytes] | None:
        """Wait for an event, which stays in the queue until it is accepted; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._deadline is not None)
            if not self._waiting or (self._deadline is not None and monotonic() > self._deadline):
                return None
            return self._waiting[0]

    def _done(self, item: tuple[int, bytes]) -> None:
        with self._changed:
            if self._waiting and self._waiting[0] is item:  # unless it was dropped meanwhile
                self._waiting.popleft()
            else:
                self._dropped -= 1

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._deadline is not None, seconds)
            if self._deadline is not None:
                self._changed.wait(min(0.2, max(self._deadline - monotonic(), 0)))

    def _failed(self, reason: str) -> None:
        self._failures += 1
        is_new, self._problem = self._is_working or reason != self._problem, reason
        self._is_working = False
        if is_new:
            self._on_notice(reason)
            details = {"output": self._label, "reason": reason}
            self._changes.append(Event(kind=EventKind.OUTPUT_FAILED, details=details))

    def _accepted(self) -> None:
        if not self._is_working:
            self._is_working, self._problem = True, ""
            self._on_notice(f"{self._label} accepts events again")
            self._changes.append(Event(kind=EventKind.OUTPUT_CONNECTED, details={"output": self._label}))
