"""Video files as sources: every frame with its time, and the packets of every other stream as they are."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, cast

import av
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.damage import Damage, DamageLog
from polypstream.realtime.decoding import Decoder, VideoPacket
from polypstream.realtime.frame import Frame
from polypstream.realtime.opening import is_chapter_text, main_video, open_video
from polypstream.realtime.timeline import FrameClock, PacketClock
from polypstream.realtime.video import VideoInfo, tagged_duration_s, video_info

if TYPE_CHECKING:
    from av.container.core import Chapter

__all__ = ["Damage", "FileSource", "StreamPacket", "VideoInfo"]

_HONEST_FORMATS = frozenset({"matroska", "mov", "avi", "flv", "asf"})
"""Formats whose header states a duration, where others estimate it from the file's size."""
_MOST_FAILURES = 10_000
"""Reading is given up after so many errors in a row."""
_CLAIM_SLACK_S = Fraction(1, 2)
"""How far beyond its last packet a file may claim to last."""
_SUSPICION = 4
"""Within so many packets after a sign of damage, a hole between the times of two packets is damage too."""
_SKIPPED_BYTES = 4096
"""A larger hole between two blocks of a Matroska file is damage."""


@dataclass(frozen=True, kw_only=True)
class StreamPacket:
    """A packet of a stream that is copied, not decoded."""

    packet: "av.Packet[Stream]"


class FileSource:
    """A video file: a context manager, and an iterable that can be used once.

    It yields the frames of the main video stream in presentation order and, between them, the packets of all other
    streams as they lie in the file. Iterate in one thread, which need not be the one that opened it. Raises
    `SourceError` on opening where the file cannot be read, holds no video, or not one frame can be decoded. Anything
    that cannot be decoded later on is left out and listed in `damage`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._container = open_video(self.path)
        try:
            self._begin()
        except BaseException:
            self._container.close()
            raise

    def _begin(self) -> None:
        self._stream = main_video(self._container, self.path)
        time_base, rate = self._stream.time_base, self._stream.average_rate
        assert time_base is not None
        self._time_base = time_base
        step = round(1 / (rate * time_base)) if rate else 1
        self._log = DamageLog(time_base=time_base, step=step)
        self._decoder = Decoder(self._stream, self._log)
        self._frame_clock = FrameClock(step=step)
        self._packet_clock = PacketClock(self._container.format.name)
        self._packets_end: int | None = None
        self._file_position: int | None = None
        self._file_end_s = Fraction(0)
        self._suspicion = 0
        self._read_error: str | None = None
        self._is_used = self._is_closed = False
        self._items = self._generate()
        self._head: list[Frame | StreamPacket] = []
        for item in self._items:
            self._head.append(item)
            if isinstance(item, Frame):
                self.info = video_info(self.path, self._container, self._stream, item.picture)
                return
        reason = self._decoder.last_error or self._read_error
        raise SourceError(
            f"not one frame of {self.path} can be decoded{f' ({reason})' if reason else ''}; "
            "the recording is empty or damaged: copy it again from where it came"
        )

    @property
    def video(self) -> VideoStream:
        """The stream that is decoded. Not to be touched while another thread iterates."""
        self._require_open()
        return self._stream

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams in the file's order, the decoded one among them. The same caution holds."""
        self._require_open()
        return tuple(stream for stream in self._container.streams if not is_chapter_text(stream))

    @property
    def metadata(self) -> Mapping[str, str]:
        """The container's metadata."""
        return self._container.metadata

    @property
    def chapters(self) -> list["Chapter"]:
        """The container's chapters."""
        self._require_open()
        return self._container.chapters()

    @property
    def covers(self) -> Mapping[int, bytes]:
        """Pictures attached to the file, such as a cover, by stream index. Complete before iteration only."""
        attached = {s.index for s in self._container.streams.video if s.disposition & Disposition.attached_pic}
        packets = (item.packet for item in self._head if isinstance(item, StreamPacket))
        return {packet.stream_index: bytes(packet) for packet in packets if packet.stream_index in attached}

    @property
    def damage(self) -> list[Damage]:
        """What could not be decoded, in order of time; complete after iteration."""
        return self._log.report()

    @property
    def notices(self) -> list[str]:
        """Facts for the user, one line each; complete after iteration."""
        return [*self._packet_clock.notices, *self._frame_clock.notices]

    def __enter__(self) -> "FileSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Frames and packets already delivered stay valid."""
        try:
            self._items.close()
        except ValueError:  # another thread is inside the iterator: the file is closed when it lets go
            return
        self._is_closed = True
        self._container.close()

    def _require_open(self) -> None:
        if self._is_closed:  # FFmpeg's structures are gone
            raise SourceError(f"{self.path} is closed; open it again")

    def __iter__(self) -> Iterator[Frame | StreamPacket]:
        if self._is_used:
            raise SourceError(f"{self.path} has been read once already; open it again to read it anew")
        self._is_used = True
        head, self._head = self._head, []
        for item in head:
            yield replace(item, captured_at=monotonic()) if isinstance(item, Frame) else item
        yield from self._items

    def _generate(self) -> Generator[Frame | StreamPacket, None, None]:
        index = 0
        for packet in self._packets():
            self._watch_file(packet)
            if packet.stream_index != self._stream.index:
                yield StreamPacket(packet=packet)
                continue
            self._watch_video(packet)
            if not packet.size:  # "the picture stays as it is"; for the decoder it would mean the end
                continue
            for picture in self._decoder.decode(cast("VideoPacket", packet)):
                yield self._frame(index, picture)
                index += 1
        for picture in self._decoder.flush():
            yield self._frame(index, picture)
            index += 1
        if index:
            self._check_end()

    def _frame(self, index: int, picture: av.VideoFrame) -> Frame:
        picture.time_base = self._time_base
        picture.pts = self._frame_clock.pts_of(picture)
        return Frame(index=index, picture=picture, time_base=self._time_base)

    def _packets(self) -> Iterator["av.Packet[Stream]"]:
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux():
                    failures = 0
                    if packet.size or packet.pts is not None or packet.dts is not None:  # else PyAV's mark of the end
                        self._packet_clock.mend(packet)
                        yield packet
                return
            except av.FFmpegError as error:
                failures += 1
                self._suspicion = _SUSPICION
                self._read_error = error.strerror

    def _watch_file(self, packet: "av.Packet[Stream]") -> None:
        """Keep account of where in the file we are, in bytes and in seconds."""
        if packet.pos is not None and "matroska" in self._container.format.name:
            if self._file_position is not None and packet.pos - self._file_position > _SKIPPED_BYTES:
                self._suspicion = _SUSPICION
            self._file_position = packet.pos + packet.size
        if packet.pts is not None:
            self._file_end_s = max(self._file_end_s, (packet.pts + (packet.duration or 0)) * packet.time_base)

    def _watch_video(self, packet: "av.Packet[Stream]") -> None:
        """Note stretches for which the demuxer, having met damage, gave no packets."""
        if packet.pts is None:
            return
        if packet.is_corrupt:
            self._suspicion = _SUSPICION
        duration, end = packet.duration or 0, self._packets_end
        if self._suspicion and end is not None and packet.pts > end + duration // 2:
            self._log.skipped(end)
        self._suspicion = max(self._suspicion - 1, 0)
        self._read_error = None
        self._packets_end = max(packet.pts + duration, packet.pts if end is None else end)

    def _check_end(self) -> None:
        """Note an early end, judged by what the container claims."""
        end, claimed_s = self._log.end, self._claimed_end_s()
        claimed = None if claimed_s is None else round(claimed_s / self._time_base)
        tolerance = max(self._frame_clock.step * 3 // 2, round(Fraction(1, 20) / self._time_base))
        if claimed is not None and end is not None and claimed > end + tolerance:
            self._log.ended(claimed_end=claimed, reason="the file ends before the time it claims")
        elif self._read_error is not None:
            self._log.ended(claimed_end=None, reason=f"the file cannot be read any further ({self._read_error})")

    def _claimed_end_s(self) -> Fraction | None:
        """When the video stream should end; None where the container makes no claim of its own."""
        if not any(name in self._container.format.name for name in _HONEST_FORMATS):
            return None
        start_s = (self._stream.start_time or 0) * self._time_base
        if self._stream.duration is not None:
            return start_s + self._stream.duration * self._time_base
        if (tagged_s := tagged_duration_s(self._stream)) is not None:
            return tagged_s
        claimed_s = Fraction(self._container.duration or 0, av.time_base)
        return claimed_s if claimed_s > self._file_end_s + _CLAIM_SLACK_S else None  # else another stream lasts longer
