"""What a live source is: frames as they come, the state of the line, and a tap on the untouched packets."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

import av
from av.video.stream import VideoStream

from polypstream.realtime.frame import Frame


class Line(Enum):
    """How the connection to a source stands."""

    CONNECTING = "connecting"
    RUNNING = "running"
    LOST = "lost"
    """There was a picture and there is none now, or there never was; the source goes on trying."""
    ENDED = "ended"
    """Nothing more will come."""


@dataclass(frozen=True, kw_only=True)
class LineState:
    """The state of the line, since when, and why."""

    line: Line
    reason: str = ""
    """For the user, on one line, without credentials."""
    since: float = field(default_factory=monotonic)
    """Monotonic seconds."""


class PacketTap(Protocol):
    """Takes the packets of the video stream as the source sent them. Called from the thread that iterates."""

    def connected(self, stream: VideoStream) -> None:
        """A stream begins; after a reconnection, or a change of size, another one."""
        ...

    def packet(self, packet: "av.Packet[Any]") -> None:
        """One packet, before it is decoded."""
        ...


class FrameSource(Protocol):
    """Where live pictures come from: a context manager, and an iterable to be used once, in one thread.

    Iterating yields every frame as it is decoded, its `captured_at` the moment its last packet had arrived. A lost
    line is no error: the source waits, says so in `state`, and goes on when the line is back. Iteration ends when
    `close` is called, from any thread, or the source has an end.
    """

    @property
    def label(self) -> str:
        """A name to show and to log: the address without its credentials."""
        ...

    @property
    def state(self) -> LineState:
        """How the line stands now; may be read from any thread."""
        ...

    @property
    def has_packets(self) -> bool:
        """Whether there are compressed packets worth keeping; false before the first connection too."""
        ...

    def attach(self, tap: PacketTap | None) -> None:
        """Send the packets to a tap as well, from any thread; None ends it.

        A source that has no packets, such as a capture card with raw pictures, never calls it.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None:
        """End the iteration, within a second, whatever the source is waiting for."""
        ...
