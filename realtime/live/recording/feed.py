"""Records a compressed feed as it comes: its packets, untouched, in files that play after a crash."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.video.stream import VideoStream

from polypstream.errors import SinkError
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import OnStopped
from polypstream.realtime.live.recording.part import Part, PartNames
from polypstream.realtime.streams import add_copy
from polypstream.realtime.timeline import CopyClock, PacketClock

_WAITING = 256
"""Packets that may wait for a slow disk: some seconds."""


class _Stretch:
    """What comes between two connections: one file, with times from 0."""

    def __init__(self, stream: VideoStream, names: PartNames) -> None:
        self.source = stream
        self.part = Part(names)
        self._copy = add_copy(self.part.container, stream)
        self._joined, self._growing = PacketClock("mpegts"), CopyClock()
        self._first: int | None = None

    def mux(self, packet: "av.Packet[Any]") -> None:
        if self._first is None:
            self._first = packet.dts if packet.dts is not None else packet.pts or 0
        packet.pts = None if packet.pts is None else packet.pts - self._first
        packet.dts = None if packet.dts is None else packet.dts - self._first
        packet.stream = self._copy
        self._joined.mend(packet)
        self._growing.mend(packet)
        self.part.mux(packet)


@dataclass(frozen=True, kw_only=True)
class _Item:
    number: int
    """Counted over all packets that came; a gap shows that some were dropped."""
    stretch: _Stretch
    packet: "av.Packet[Any]"


class FeedRecorder(Background[_Item]):
    """A tap that writes what it is given to `path`, and after each reconnection to `…-2.mkv`, `…-3.mkv`.

    A file begins with the first key frame that comes. Packets that a slow disk leaves no time for are dropped up to
    the next key frame. A context manager. Nothing raises in the caller's thread: where the recording cannot go on,
    `on_stopped` is told why, once, and what was written plays.
    """

    def __init__(self, path: Path, *, on_stopped: OnStopped) -> None:
        self._names = PartNames(path)
        self._stretch: _Stretch | None = None
        self._came = 0
        self.written = 0
        """Packets."""
        super().__init__("record-feed", capacity=_WAITING, on_stopped=on_stopped)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files written so far, in order."""
        return tuple(self._names.used)

    def connected(self, stream: VideoStream) -> None:
        """Begin a new file with the next key frame."""
        try:
            self._stretch = _Stretch(stream, self._names)
        except (ValueError, av.FFmpegError) as error:
            self._stretch = None
            codec = stream.codec_context.name
            self._fail(
                SinkError(f"a {codec} feed cannot be recorded as it comes ({error}); record the overlay instead")
            )

    def packet(self, packet: "av.Packet[Any]") -> None:
        """Hand a copy of one packet to the writer."""
        if not self.is_running or not packet.size:
            return
        if self._stretch is None or packet.stream is not self._stretch.source:
            self.connected(packet.stream)
        if self._stretch is not None:
            self._came += 1
            self._give(_Item(number=self._came, stretch=self._stretch, packet=_copied(packet)))

    def _work(self, items: Iterator[_Item]) -> None:
        with ExitStack() as open_part:
            stretch: _Stretch | None = None
            next_number = 0
            for item in items:
                is_whole = item.stretch is stretch and item.number == next_number
                if not is_whole and not item.packet.is_keyframe:
                    continue
                if item.stretch is not stretch:
                    open_part.close()
                    stretch = item.stretch
                    open_part.enter_context(stretch.part)
                stretch.mux(item.packet)
                next_number = item.number + 1
                self.written += 1


def _copied(packet: "av.Packet[Any]") -> "av.Packet[Any]":
    """A packet with memory of its own: muxing gives it new times and another stream, decoding needs the old ones."""
    copy: av.Packet[Any] = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for data in packet.iter_sidedata():
        data.to_packet(copy)
    return copy
