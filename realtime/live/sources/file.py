"""A video file played in real time, each frame at its own time, once or in a loop."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from polypstream.realtime.decoding import VideoPacket
from polypstream.realtime.live.sources.config import AtEnd, SourceConfig
from polypstream.realtime.live.sources.connection import Connection, Feed, packets_of
from polypstream.realtime.live.sources.halt import Halt
from polypstream.realtime.opening import main_video, open_video

_SLIP_S = 1.0
"""When playing is late by more, as after the machine slept, the clock is set anew instead of hurrying."""


def file_feed(path: Path, config: SourceConfig) -> Feed:
    """A feed from a file. Raises `SourceError` at once where there is no such file, or no video in it."""
    with open_video(path) as container:
        main_video(container, path)

    def open_file(halt: Halt) -> Connection:
        return FileConnection(path, config.at_end, halt)

    return open_file


class FileConnection:
    """A file whose packets are given out when their time has come.

    Decoding times set the pace, so that each frame leaves the decoder at its presentation time, whatever the frame
    rate does. In a loop the times of each pass go on from those of the pass before.
    """

    def __init__(self, path: Path, at_end: AtEnd, halt: Halt) -> None:
        self._path, self._at_end, self._halt = path, at_end, halt
        self._container = open_video(path)
        self.stream = main_video(self._container, path)
        self._start_at: float | None = None

    def packets(self) -> Iterator[VideoPacket]:
        """The packets in real time, up to the end of the file where it is not looped."""
        offset = 0
        while True:
            first: int | None = None
            end = 0
            for packet in self._packets():
                time = packet.dts if packet.dts is not None else packet.pts
                if time is not None:
                    first = time if first is None else first
                    end = max(end, time - first + self._length_of(packet))
                    self._wait(Fraction(offset + time - first) * packet.time_base)
                if offset:
                    packet.dts = None if packet.dts is None else packet.dts + offset
                    packet.pts = None if packet.pts is None else packet.pts + offset
                yield packet
            if self._at_end is AtEnd.STOP or not end:
                return
            offset += end

    def _packets(self) -> Iterator[VideoPacket]:
        with open_video(self._path) as container:  # anew for each pass: seeking would reset a decoder in use
            for packet in packets_of(container, main_video(container, self._path), self._halt):
                packet.stream = self.stream
                yield packet

    def _length_of(self, packet: VideoPacket) -> int:
        rate = self.stream.average_rate
        return packet.duration or (round(1 / (rate * packet.time_base)) if rate else 1)

    def _wait(self, due_s: Fraction) -> None:
        now = monotonic()
        if self._start_at is None or now - self._start_at - due_s > _SLIP_S:
            self._start_at = now - float(due_s)
        self._halt.pause(self._start_at + float(due_s) - now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()
