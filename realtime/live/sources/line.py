"""A live source over a line that may be lost and comes back: decoding, watching, and telling how it stands."""

from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Self

from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.feed import Line, LineState, PacketTap
from polypstream.realtime.live.sources.backlog import Arrival, Backlog, Ended, Item, Lost, Opened
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import Feed
from polypstream.realtime.live.sources.counts import LineCounts
from polypstream.realtime.live.sources.decoder import LiveDecoder
from polypstream.realtime.live.sources.halt import Halted
from polypstream.realtime.live.sources.reader import LineReader
from polypstream.realtime.stage import Stages

_RAW = frozenset({"rawvideo", "v210", "r210"})
"""Codecs whose packets are pictures."""


class LineSource:
    """A `FrameSource` over a feed. A thread of its own reads what arrives; the iterating thread decodes it.

    Latency never grows: a frame that waited for longer than `late_s` while a newer one waits is not delivered; where
    a keyframe waits decoding goes on from there, and where not even that helps it rests until there is one. The tap
    is given every packet all the same.
    """

    def __init__(self, feed: Feed, *, label: str, config: SourceConfig | None = None) -> None:
        self._label, self._config = label, config or SourceConfig()
        self._state = LineState(line=Line.CONNECTING)
        self._backlog = Backlog()
        self._reader = LineReader(feed, self._backlog, self._config)
        self._stages = Stages(cancel=self.close)
        self._stream: VideoStream | None = None
        self._decoder: LiveDecoder | None = None
        self._tap: PacketTap | None = None
        self._told: tuple[PacketTap, VideoStream, tuple[int, int]] | None = None
        self._silent_since = monotonic()
        self._patience_s = self._config.first_picture_s
        self._is_used = self._has_packets = False
        self.counts = LineCounts()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._label}: {self._state.line.value}>"

    @property
    def label(self) -> str:
        """The address without its credentials."""
        return self._label

    @property
    def state(self) -> LineState:
        """How the line stands."""
        return self._state

    @property
    def has_packets(self) -> bool:
        """Whether the newest connection brings compressed packets."""
        return self._has_packets

    def attach(self, tap: PacketTap | None) -> None:
        """Send the packets to a tap as well."""
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
        """End the iteration at once. Leaving the context waits for the reading thread too.

        That one can only be held by looking up a host's name, and by FFmpeg while it connects (`connect_s`) or waits
        for a packet (`watchdog_s`) over RTSP, HTTP or SRT.
        """
        self._backlog.close()
        self._reader.drop()

    def __iter__(self) -> Iterator[Frame]:
        if self._is_used:
            raise SourceError(f"{self._label} has been iterated already; open it again to watch it anew")
        self._is_used = True
        self._silent_since = monotonic()
        self._stages.start("live-reader", self._reader.run)
        try:
            yield from self._frames()
        finally:
            self.close()
            self._state = LineState(line=Line.ENDED, reason=self._state.reason)

    def _frames(self) -> Generator[Frame, None, None]:
        with suppress(Halted):
            while True:
                item = self._backlog.take(self._wait_s())
                with self._reader.stream_in_use:
                    if self._backlog.is_closed:
                        return
                    frames = self._handled(item)
                if frames:
                    self._picture_came()
                    for frame in frames:
                        yield replace(frame, index=self.counts.delivered)
                        self.counts.delivered += 1
                    self._silent_since = monotonic()  # not counting what the caller took
                if isinstance(item, Ended):
                    return
                self._watch()

    def _handled(self, item: Item | None) -> list[Frame]:
        match item:
            case Opened():
                self._open(item.stream)
            case Arrival():
                return self._arrived(item)
            case Lost():
                self._disconnect(item.reason)
            case Ended() if self._decoder is not None:
                frames, self._decoder = self._decoder.flush(at=monotonic()), None
                return frames
        return []

    def _open(self, stream: VideoStream) -> None:
        self._has_packets = stream.codec_context.name not in _RAW
        self._stream, self._decoder = stream, LiveDecoder(stream, self.counts, late_s=self._config.late_s)
        self.counts.connections += 1
        self._silent_since, self._patience_s = monotonic(), self._config.first_picture_s
        self._tell_tap()

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
        self._tell_tap()
        if self._tap is not None and self._has_packets:
            self._tap.packet(arrival.packet)

    def _tell_tap(self) -> None:
        """Tell the tap of the stream where it does not know it, or the stream's pictures have changed their size."""
        if self._tap is None or self._stream is None or self._decoder is None or not self._has_packets:
            return
        now = (self._tap, self._stream, self._decoder.size)
        if now != self._told:
            self._told = now
            self._tap.connected(self._stream)

    def _picture_came(self) -> None:
        self._reader.picture_came()
        self._patience_s = self._config.watchdog_s
        if self._state.line is not Line.RUNNING:
            self._state = LineState(line=Line.RUNNING)

    def _disconnect(self, reason: str) -> None:
        self._stream = self._decoder = None
        since = self._state.since if self._state.line is Line.LOST else monotonic()
        self._state = LineState(line=Line.LOST, reason=reason, since=since)

    def _wait_s(self) -> float | None:
        """How long there may be silence before something has to be done about it."""
        limits = [] if self._state.line is Line.LOST else [self._config.watchdog_s]
        if self._decoder is not None:
            limits.append(self._patience_s)
        return max(self._silent_since + min(limits) - monotonic(), 0) if limits else None

    def _watch(self) -> None:
        silent_s = monotonic() - self._silent_since
        if silent_s < self._config.watchdog_s:
            return
        reason = f"no picture for {self._config.watchdog_s:g} s"
        if self._decoder is not None and silent_s >= self._patience_s:
            self._disconnect(reason)
            self._reader.drop()
        elif self._state.line is not Line.LOST:
            self._state = LineState(line=Line.LOST, reason=reason)
