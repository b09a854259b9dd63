"""Outputs to other machines: their interface and state, which the session reports and logs."""

from dataclasses import dataclass
from typing import Protocol

from polypstream.realtime.live.events import Event


@dataclass(frozen=True, kw_only=True)
class OutputState:
    """State of one output; counts are totals of the session."""

    kind: str
    """`push`, `webhook` or `mqtt`."""
    label: str
    """Its address without credentials."""
    is_working: bool
    """Whether the receiver accepts what is sent."""
    problem: str = ""
    """Why it does not, in one line; empty while it works or is being connected."""
    sent: int = 0
    """Frames or events that were accepted."""
    dropped: int = 0
    """Frames or events that were never sent because the receiver was too slow or unavailable."""
    failures: int = 0
    """Failed attempts to connect or to send."""


class Output(Protocol):
    """Sends something to another machine without ever delaying the session."""

    @property
    def state(self) -> OutputState:
        """The present state; may be read from any thread."""
        ...

    def take_events(self) -> list[Event]:
        """Return what happened to this output since the last call, oldest first."""
        ...

    def close(self) -> None:
        """End it within a few seconds, whatever the receiver does."""
        ...


class EventReceiver(Protocol):
    """Receives the events of a session."""

    def publish(self, event: Event) -> None:
        """Process an event, or queue it; returns immediately. Called from any thread."""
        ...


class EventOutput(EventReceiver, Output, Protocol):
    """An output that publishes the events of the session."""
