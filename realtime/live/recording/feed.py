"""Feed recording: writes the unchanged packets of a compressed feed to files that are playable after a crash."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.video.stream import VideoStream

from polypstream.errors import OutputError
from polypstream.files import OnStopped
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.segment import Segment, SegmentNames
from polypstream.realtime.video.streams import add_copy
from polypstream.realtime.video.timelines import PacketClock
from polypstream.realtime.video.timestamps import CopyClock

_WAITING = 256
"""Packets that may be buffered for a slow disk: a few seconds."""


class _Stretch:
    """The packets between two connections: one file, with times from 0."""

    def __init__(self, stream: VideoStream, names: SegmentNames) -> None:
        self.source = stream
        self.segment = Segment(names)
        self._copy = add_copy(self.segment.container, stream)
        self._joined, self._growing = PacketClock("mpegts", reference=self._copy.index), CopyClock()
        self._first: int | None = None

    def mux(self, packet: "av.Packet[Any]") -> None:
        if self._first is None:
            self._first = packet.dts if packet.dts is not None else packet.pts or 0
        packet.pts = None if packet.pts is None else packet.pts - self._first
        packet.dts = None if packet.dts is None else packet.dts - self._first
        packet.stream = self._copy
        self._write(self._joined.fix(packet))

    def finish(self) -> None:
        """Write what the clock still buffers."""
        self._write(self._joined.flush())

    def _write(self, packets: "list[av.Packet[Any]]") -> None:
        for packet in packets:
            self._growing.fix(packet)
            self.segment.mux(packet)


@dataclass(frozen=True, kw_only=True)
class _Item:
    number: int
    """Consecutive over all received packets; a gap means that some were dropped."""
    stretch: _Stretch
    packet: "av.Packet[Any]"


class FeedRecorder(Background[_Item]):
    """Records packets to `path`, and after each reconnection to `…-2.mkv`, `…-3.mkv`. Use as a context manager.

    A file starts with the first key frame. If the disk is too slow, packets are dropped up to the next key frame.
    Nothing raises in the caller's thread: if recording fails, `on_stopped` is called once with the reason, and the
    part written so far is playable.

    Args:
        path: First file to write, ending in .mkv.
        on_stopped: Called with the reason, from any thread.
        waiting: Maximum number of packets that may be buffered for a slow disk; None for a few seconds.
    """

    def __init__(self, path: Path, *, on_stopped: OnStopped, waiting: int | None = None) -> None:
        self._names = SegmentNames(path)
        self._stretch: _Stretch | None = None
        self._came = 0
        self.written = 0
        """Packets."""
        super().__init__("record-feed", capacity=waiting or _WAITING, on_stopped=on_stopped)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files written so far, in order."""
        return tuple(self._names.used)

    def connected(self, stream: VideoStream) -> None:
        """Start a new file with the next key frame."""
        try:
            self._stretch = _Stretch(stream, self._names)
        except (ValueError, av.FFmpegError) as error:
            self._stretch = None
            codec = stream.codec_context.name
            self._fail(
                OutputError(f"{codec} packets cannot be recorded unchanged ({error}); record the overlay instead")
            )

    def packet(self, packet: "av.Packet[Any]") -> None:
        """Pass a copy of a packet to the writing thread."""
        if not self.is_running or not packet.size:
            return
        if self._stretch is None or packet.stream is not self._stretch.source:
            self.connected(packet.stream)
        if self._stretch is not None:
            self._came += 1
            self._give(_Item(number=self._came, stretch=self._stretch, packet=_copied(packet)))

    def _work(self, items: Iterator[_Item]) -> None:
        with ExitStack() as open_segment:
            stretch: _Stretch | None = None
            next_number = 0
            for item in items:
                is_whole = item.stretch is stretch and item.number == next_number
                if not is_whole and not item.packet.is_keyframe:
                    continue
                if item.stretch is not stretch:
                    open_segment.close()
                    stretch = item.stretch
                    open_segment.enter_context(stretch.segment)
                stretch.mux(item.packet)
                next_number = item.number + 1
                self.written += 1


def _copied(packet: "av.Packet[Any]") -> "av.Packet[Any]":
    """Copy a packet: muxing changes its times and stream, while decoding needs the original ones."""
    copy: av.Packet[Any] = av.Packet(bytes(packet))
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for data in packet.iter_sidedata():
        data.to_packet(copy)
    return copy
