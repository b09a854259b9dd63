"""Live sources: the interface, the connection state, and a source that survives lost connections."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

import av
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import Cancelled, Feed
from polypstream.realtime.live.sources.decoder import LiveDecoder, SourceStatistics
from polypstream.realtime.live.sources.reader import Arrival, Backlog, Ended, Item, Lost, Opened, PacketReader
from polypstream.realtime.video.frame import Frame
from polypstream.threads import Stages


class ConnectionStatus(Enum):
    """Status of the connection to a source."""

    CONNECTING = "connecting"
    RUNNING = "running"
    LOST = "lost"
    """There is no video; the source keeps trying."""
    ENDED = "ended"
    """No more frames will follow."""


@dataclass(frozen=True, kw_only=True)
class ConnectionState:
    """Status of the connection, with time and reason."""

    status: ConnectionStatus
    reason: str = ""
    """One line for the user, without credentials."""
    since: float = field(default_factory=monotonic)
    """Monotonic seconds."""


class PacketTap(Protocol):
    """Receives the unchanged packets of the video stream. Called from the iterating thread."""

    def connected(self, stream: VideoStream) -> None:
        """Called when a stream starts, and again after a reconnection or a change of size."""
        ...

    def packet(self, packet: "av.Packet[Any]") -> None:
        """Called with each packet before it is decoded."""
        ...


class FrameSource(Protocol):
    """A source of live frames: a context manager, and an iterable to be used once, in one thread.

    Iterating yields every frame as it is decoded; its `captured_at` is the arrival time of its last packet. A lost
    connection is not an error: the source waits, reports it in `state`, and continues once the connection is restored.
    Iteration ends when `close` is called, from any thread, or when the source ends.
    """

    @property
    def label(self) -> str:
        """Name for display and logging: the address without its credentials."""
        ...

    @property
    def state(self) -> ConnectionState:
        """Current state of the connection; may be read from any thread."""
        ...

    @property
    def has_packets(self) -> bool:
        """Whether there are compressed packets worth recording; False before the first connection."""
        ...

    @property
    def skipped(self) -> int:
        """Number of frames not delivered since they were late and newer ones were available."""
        ...

    def attach(self, tap: PacketTap | None) -> None:
        """Send the packets to a tap, too; None detaches it. May be called from any thread.

        Sources without compressed packets, such as a capture card with raw video, never call the tap.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def __iter__(self) -> Iterator[Frame]: ...
    def close(self) -> None:
        """End the iteration within a second, even while the source is waiting."""
        ...


_RAW = frozenset({"rawvideo", "v210", "r210"})
"""Codecs whose packets are uncompressed images."""


class LiveSource:
    """A `FrameSource` based on a feed. A separate thread reads packets; the iterating thread decodes them.

    Latency does not accumulate: a frame that waited longer than `late_s` is dropped if a newer one is available.
    Decoding continues at the newest queued keyframe, if there is one; if the delay still grows, it pauses until the
    next keyframe. The tap receives every packet regardless.

    Args:
        feed: Opens the connection.
        label: Name for display, without credentials.
        config: Options of the source.
    """

    def __init__(self, feed: Feed, *, label: str, config: SourceConfig | None = None) -> None:
        self._label, self._config = label, config or SourceConfig()
        self._state = ConnectionState(status=ConnectionStatus.CONNECTING)
        self._backlog = Backlog()
        self._reader = PacketReader(feed, self._backlog, self._config)
        self._stages = Stages(cancel=self.close)
        self._stream: VideoStream | None = None
        self._decoder: LiveDecoder | None = None
        self._tap: PacketTap | None = None
        self._announced: tuple[PacketTap, VideoStream, tuple[int, int]] | None = None
        self._silent_since = monotonic()
        self._patience_s = self._config.first_frame_s
        self._is_used = self._has_packets = False
        self.counts = SourceStatistics()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label}: {self._state.status.value}>"

    @property
    def label(self) -> str:
        """Address without its credentials."""
        return self._label

    @property
    def state(self) -> ConnectionState:
        """Current state of the connection."""
        return self._state

    @property
    def has_packets(self) -> bool:
        """Whether the newest connection provides compressed packets."""
        return self._has_packets

    @property
    def skipped(self) -> int:
        """Number of frames not delivered since they were late and newer ones were available."""
        return self.counts.skipped

    def attach(self, tap: PacketTap | None) -> None:
        """Send the packets to a tap, too."""
        self._tap = tap

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._stages.cancel_and_join()
            return
        self.close()
        self._stages.join()

    def close(self) -> None:
        """End the iteration immediately. Leaving the context also waits for the reading thread.

        That thread can be blocked only while a host name is resolved, or while FFmpeg connects (`connect_s`) or waits
        for a packet (`watchdog_s`) over RTSP, HTTP or SRT.
        """
        self._backlog.close()
        self._reader.drop()

    def __iter__(self) -> Iterator[Frame]:
        if self._is_used:
            raise SourceError(f"{self._label} has already been iterated; open the source again to restart it")
        self._is_used = True
        self._silent_since = monotonic()
        self._stages.start("live-reader", self._reader.run)
        try:
            yield from self._frames()
        finally:
            self.close()
            self._state = ConnectionState(status=ConnectionStatus.ENDED, reason=self._state.reason)

    def _frames(self) -> Generator[Frame, None, None]:
        with suppress(Cancelled):
            while True:
                item = self._backlog.take(self._wait_s())
                with self._reader.stream_in_use:
                    if self._backlog.is_closed:
                        return
                    frames = self._handled(item)
                if frames:
                    self._frame_arrived()
                    for frame in frames:
                        yield replace(frame, index=self.counts.delivered)
                        self.counts.delivered += 1
                    self._silent_since = monotonic()  # exclude the caller's processing time
                if isinstance(item, Ended):
                    return
                self._watch()

    def _handled(self, item: Item | None) -> list[Frame]:
        match item:
            case Opened():
                self._open(item)
            case Arrival():
                return self._arrived(item)
            case Lost():
                self._disconnect(item.reason)
            case Ended() if self._decoder is not None:
                frames, self._decoder = self._decoder.flush(at=monotonic()), None
                return frames
        return []

    def _open(self, opened: Opened) -> None:
        stream, late_s = opened.stream, self._config.late_s
        self._has_packets = stream.codec_context.name not in _RAW
        self._stream = stream
        self._decoder = LiveDecoder(stream, self.counts, late_s=late_s, is_file=opened.is_file)
        self.counts.connections += 1
        self._silent_since, self._patience_s = monotonic(), self._config.first_frame_s
        self._announce_stream()

    def _arrived(self, arrival: Arrival) -> list[Frame]:
        if self._decoder is None:
            return []
        lag_s = monotonic() - arrival.at
        if lag_s > self._config.late_s and (passed := self._backlog.up_to_keyframe()):
            for stale in [arrival, *passed]:
                self._pass_on(stale)
            self.counts.skipped += 1 + len(passed)
            return []
        frames = self._decoder.decode(arrival, lag_s=lag_s)
        self._pass_on(arrival)
        if lag_s > self._config.late_s and not self._backlog.is_empty:
            self.counts.skipped += len(frames)
            return []
        return frames

    def _pass_on(self, arrival: Arrival) -> None:
        self._announce_stream()
        if self._tap is not None and self._has_packets:
            self._tap.packet(arrival.packet)

    def _announce_stream(self) -> None:
        """Announce the stream to the tap if it is new to it, or if the size of its frames has changed."""
        if self._tap is None or self._stream is None or self._decoder is None or not self._has_packets:
            return
        now = (self._tap, self._stream, self._decoder.size)
        if now != self._announced:
            self._announced = now
            self._tap.connected(self._stream)

    def _frame_arrived(self) -> None:
        self._reader.frame_arrived()
        self._patience_s = self._config.watchdog_s
        if self._state.status is not ConnectionStatus.RUNNING:
            self._state = ConnectionState(status=ConnectionStatus.RUNNING)

    def _disconnect(self, reason: str) -> None:
        self._stream = self._decoder = None
        since = self._state.since if self._state.status is ConnectionStatus.LOST else monotonic()
        self._state = ConnectionState(status=ConnectionStatus.LOST, reason=reason, since=since)

    def _wait_s(self) -> float | None:
        """Return how long there may be silence until something has to be done."""
        limits = [] if self._state.status is ConnectionStatus.LOST else [self._config.watchdog_s]
        if self._decoder is not None:
            limits.append(self._patience_s)
        return max(self._silent_since + min(limits) - monotonic(), 0) if limits else None

    def _watch(self) -> None:
        silent_s = monotonic() - self._silent_since
        if silent_s < self._config.watchdog_s:
            return
        reason = f"no video for {self._config.watchdog_s:g} s"
        if self._decoder is not None and silent_s >= self._patience_s:
            self._disconnect(reason)
            self._reader.drop()
        elif self._state.status is not ConnectionStatus.LOST:
            self._state = ConnectionState(status=ConnectionStatus.LOST, reason=reason)
