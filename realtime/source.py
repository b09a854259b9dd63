"""Video files as sources: every frame with its time, and the packets of every other stream as they are."""

import struct
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import av
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.damage import Damage, DamageLog
from polypstream.realtime.decoding import Decoder, VideoPacket
from polypstream.realtime.frame import Frame
from polypstream.realtime.timeline import FrameClock, PacketClock

if TYPE_CHECKING:
    from av.container.core import Chapter

__all__ = ["Damage", "FileSource", "StreamPacket", "VideoInfo"]

_WANTED = "MP4, MOV, MKV, AVI, MPG, TS or another format that FFmpeg reads"
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "idf", "adf"})
"""FFmpeg would draw a text file as ANSI art."""
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


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a file says of its video stream, and what its first decoded frame confirmed.

    The colour tags are FFmpeg's numbers, which are those of ISO/IEC 23091-2; 2 means unspecified, and so does a range
    of 0 (1 is limited, 2 is full).
    """

    path: Path
    codec: str
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    average_rate: Fraction | None
    """Frames per second."""
    frame_count: int | None
    """The container's claim; None where it makes none."""
    duration_s: float | None
    sample_aspect_ratio: Fraction
    """Width over height of a pixel; 1 where the file does not say."""
    rotation: int
    """Degrees by which players turn the picture counter-clockwise; pictures are delivered unturned."""
    display_matrix: tuple[int, ...] | None
    """FFmpeg's matrix of nine, row by row, of which `rotation` is the angle."""
    is_interlaced: bool
    color_range: int
    colorspace: int
    color_primaries: int
    color_trc: int


class FileSource:
    """A video file: a context manager, and an iterable that can be used once.

    It yields the frames of the main video stream in presentation order and, between them, the packets of all other
    streams as they lie in the file. Iterate in one thread, which need not be the one that opened it. Raises
    `SourceError` on opening where the file cannot be read, holds no video, or not one frame can be decoded. Anything
    that cannot be decoded later on is left out and listed in `damage`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._container = _opened(self.path)
        try:
            self._begin()
        except BaseException:
            self._container.close()
            raise

    def _begin(self) -> None:
        self._stream = _main_video(self._container, self.path)
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
        self._is_used = False
        self._items = self._generate()
        self._head: list[Frame | StreamPacket] = []
        for item in self._items:
            self._head.append(item)
            if isinstance(item, Frame):
                self.info = self._info(item.picture)
                return
        reason = self._decoder.last_error or self._read_error
        raise SourceError(
            f"not one frame of {self.path} can be decoded{f' ({reason})' if reason else ''}; "
            "the recording is empty or damaged: copy it again from where it came"
        )

    @property
    def video(self) -> VideoStream:
        """The stream that is decoded. Not to be touched while another thread iterates, nor after closing."""
        return self._stream

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams in the file's order, the decoded one among them. The same caution holds."""
        return tuple(stream for stream in self._container.streams if not _is_chapter_text(stream))

    @property
    def metadata(self) -> Mapping[str, str]:
        """The container's metadata."""
        return self._container.metadata

    @property
    def chapters(self) -> list["Chapter"]:
        """The container's chapters."""
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
        with suppress(ValueError):  # another thread is still inside the iterator, and ends it
            self._items.close()
        self._container.close()

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
            self._log.skipped(end, packet.pts)
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
        if (tagged_s := _tagged_duration_s(self._stream)) is not None:
            return tagged_s
        claimed_s = Fraction(self._container.duration or 0, av.time_base)
        return claimed_s if claimed_s > self._file_end_s + _CLAIM_SLACK_S else None  # else another stream lasts longer

    def _info(self, picture: av.VideoFrame) -> VideoInfo:
        stream, container = self._stream, self._container
        duration = stream.duration * self._time_base if stream.duration else None
        if duration is None and container.duration:
            duration = Fraction(container.duration, av.time_base)
        return VideoInfo(
            path=self.path,
            codec=stream.codec_context.codec.canonical_name,
            width=picture.width,
            height=picture.height,
            pixel_format=picture.format.name,
            time_base=self._time_base,
            average_rate=stream.average_rate or stream.guessed_rate or None,
            frame_count=stream.frames or None,
            duration_s=None if duration is None else float(duration),
            sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
            rotation=picture.rotation,
            display_matrix=_display_matrix(picture),
            is_interlaced=picture.interlaced_frame,
            color_range=int(picture.color_range),
            colorspace=int(picture.colorspace),
            color_primaries=int(picture.color_primaries),
            color_trc=int(picture.color_trc),
        )


def _opened(path: Path) -> av.container.InputContainer:
    """Open a file, or say in one line why that cannot be done."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder, not a video; name the video files inside it")
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path} is empty (0 bytes); copy the recording again from where it came")
        # "file:" since a colon in a name would else be taken for a protocol; metadata may be in any encoding
        container = av.open(f"file:{path}", "r", metadata_errors="surrogateescape")
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}; check the path") from None
    except PermissionError:
        raise SourceError(f"{path} may not be read; check its permissions") from None
    except av.FFmpegError as error:
        raise SourceError(_unreadable(path, error)) from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check the path and the disk") from None
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise SourceError(f"{path} is a text file, not a video; give {_WANTED}")
    return container


def _unreadable(path: Path, error: av.FFmpegError) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free"}:
        return (
            f"{path} is an MP4 or MOV file without a usable index: its recording or its copying was cut off; "
            "copy it again, or repair it (the program untrunc can)"
        )
    return f"{path} is not a video ({error.strerror}); give {_WANTED}"


def _main_video(container: av.container.InputContainer, path: Path) -> VideoStream:
    """The stream to decode: a film, not the cover picture of a sound file."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        found = ", ".join(sorted({s.type for s in container.streams})) or "no"
        raise SourceError(f"{path} holds no video ({found} streams only); give a file with a video stream")
    if not (decodable := [stream for stream in videos if stream.codec_context is not None]):
        raise SourceError(f"the video in {path} has a codec that FFmpeg cannot decode; convert it to H.264 first")
    best = container.streams.best("video")
    return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])


def _is_chapter_text(stream: Stream) -> bool:
    """Whether a stream only holds the titles of the chapters, which are carried as chapters."""
    return stream.type == "data" and stream.discard == Discard.all


def _display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    try:
        side_data: Any = picture.side_data  # PyAV's stub has it as a dictionary
        matrix = next((data for data in side_data if data.type == SideDataType.DISPLAYMATRIX), None)
    except ValueError:  # PyAV does not know every kind of side data
        return None
    return None if matrix is None else struct.unpack("=9i", bytes(matrix))


def _tagged_duration_s(stream: Stream) -> Fraction | None:
    """Seconds by Matroska's statistics tag, such as "00:00:10.040000000"."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None
