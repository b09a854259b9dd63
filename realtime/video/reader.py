"""Reads video files: every frame with its time, and the packets of all other streams unchanged."""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, cast

import av
from av.codec.hwaccel import HWAccel
from av.stream import Disposition, Stream
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.video.avi_index import AviIndex, is_avi_chunk
from polypstream.realtime.video.container import (
    VideoInfo,
    appended_file_at,
    aspect_ratio_of,
    is_chapter_text,
    main_video,
    open_video,
    states_end,
    tagged_duration_s,
    video_info,
)
from polypstream.realtime.video.damage import Damage, DamageLog
from polypstream.realtime.video.decoding import Decoder, VideoPacket
from polypstream.realtime.video.device import is_on_device
from polypstream.realtime.video.dicom import read_dicom
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.timelines import ELEMENTARY_FORMATS, FREE_RUNNING_FORMATS, PacketClock
from polypstream.realtime.video.timestamps import FrameClock

if TYPE_CHECKING:
    from av.container.core import Chapter

__all__ = ["Damage", "StreamPacket", "VideoInfo", "VideoReader"]

_STATED_DURATION_FORMATS = frozenset({"matroska", "mov", "avi", "flv", "asf"})
"""Formats whose header states the duration; for others, FFmpeg estimates it from the file size."""
_MOST_FAILURES = 10_000
"""Reading stops after this many consecutive errors."""
_CLAIM_SLACK_S = Fraction(1, 2)
"""Tolerance in seconds for a stated duration beyond the last packet."""
_SUSPICION = 4
"""Number of packets after a sign of damage within which a gap between packet times counts as damage."""
_SKIPPED_BYTES = 3200
"""A larger gap in bytes between two packets is a sign of damage in formats with contiguous packets."""
_CONTIGUOUS_FORMATS = frozenset({"matroska", "mpeg", "flv", "asf", "ogg", "rm", "mxf"})
_NOTABLE_OFFSET_S = 10
"""Start times from this value are reported to the user; most files with their own clock start within a few seconds."""
_CONTINUOUS = frozenset({"video", "audio"})
_LATE_START_S = 10
"""Files that start later than this are shifted to 0, regardless of their format; an earlier start may be intended."""


_SEARCH_EARLIER_S = (0, 1, 4, 16, 64)
"""Seek distances before the wanted time, tried until a frame that is not later is found: without an index, FFmpeg may
seek to a later position."""


@dataclass(frozen=True, kw_only=True)
class StreamPacket:
    """A packet of a stream that is copied, not decoded. Its times match those of the frames."""

    packet: "av.Packet[Stream]"


class VideoReader:
    """A video file: a context manager, and an iterable that can be used once.

    Yields the frames of the main video stream in presentation order and, between them, the packets of all other streams
    in file order. Times start at 0 and increase regardless of the clock in the file, and all streams stay in sync; see
    `info.start_offset_s` and `notices`. Undecodable frames are omitted and listed in `damage`. Iterate in one thread,
    which need not be the one that opened the file.

    Args:
        path: The video file, or a DICOM object with video.
        hardware: What decodes the video, as far as it can; see `device.hardware_for`. Frames may then be in GPU memory.
        copies_video: Also yield the packets of the main video stream, and only the first frame, to copy the file
            without decoding it.

    Raises:
        SourceError: The file cannot be read, contains no video, or no frame of it can be decoded.
        MissingExtraError: The file is a DICOM object, and pydicom is not installed.
    """

    def __init__(self, path: Path | str, *, copies_video: bool = False, hardware: HWAccel | None = None) -> None:
        self.path, self._copies_video = Path(path), copies_video
        self._decoder_notices: list[str] = []
        self.hardware = hardware
        """What the frames are decoded with, into GPU memory; None for the CPU."""
        self._container = open_video(self.path, hardware)
        self._dicom = read_dicom(self.path)
        self._is_elementary = self._container.format.name in ELEMENTARY_FORMATS
        try:
            picture = self._read_to_first_frame()
            if hardware is not None and not is_on_device(picture):
                self._decode_on_the_cpu(picture)
        except BaseException:
            self._container.close()
            raise

    def _decode_on_the_cpu(self, picture: av.VideoFrame) -> None:
        """Begin again without hardware that does not know this kind of video, and with all cores."""
        codec = self._stream.codec_context.codec.canonical_name
        self._decoder_notices.append(
            f"the GPU does not decode this video ({codec}, {picture.format.name}, {picture.width}x{picture.height}): "
            "it is decoded on the CPU"
        )
        self.hardware = None
        self._items.close()
        self._container.close()
        self._container = open_video(self.path)
        self._read_to_first_frame()

    def _read_to_first_frame(self) -> av.VideoFrame:
        """Read until there is a frame, and return its picture."""
        self._stream = main_video(self._container, self.path)
        time_base, rate = self._stream.time_base, self._stream.average_rate
        assert time_base is not None
        self._time_base = time_base
        step = round(1 / (rate * time_base)) if rate else 1
        self._log = DamageLog(time_base=time_base, step=step)
        self._decoder = Decoder(self._stream, self._log)
        self._frame_clock = FrameClock(step=step)
        self._packet_clock = PacketClock(self._container.format.name, reference=self._stream.index)
        self._avi_index = AviIndex(self._container, video=self._stream.index)
        self._start_s = Fraction(0)
        self._sample_aspect_ratio = aspect_ratio_of(self._stream, self._dicom)
        self._coded_aspect_ratio: Fraction | None = None
        self._packets_end: int | None = None
        self._file_position: int | None = None
        self._furthest_byte = 0
        self._file_end_s = Fraction(0)
        self._suspicion = 0
        self._last_dts: int | None = None
        self._usual_step = 0
        self._read_error: str | None = None
        self._frames_read: int | None = None
        self._is_used = self._is_closed = False
        self._items = self._generate()
        self._head: list[Frame | StreamPacket] = []
        for item in self._items:
            self._head.append(item)
            if isinstance(item, Frame):
                self._start_s = self._first_time_s(item)
                self.info = video_info(
                    self.path, self._container, self._stream, item.picture, start_s=self._start_s, dicom=self._dicom
                )
                self._head = [self._from_zero(item) for item in self._head]
                return item.picture
        reason = self._decoder.last_error or self._read_error
        raise SourceError(
            f"no frame of {self.path} can be decoded{f' ({reason})' if reason else ''}; "
            "the recording is empty or damaged: copy it again from its source"
        )

    @property
    def video(self) -> VideoStream:
        """The stream that is decoded. Do not use it while another thread iterates."""
        self._require_open()
        return self._stream

    @property
    def streams(self) -> Sequence[Stream]:
        """All streams in the file's order, including the decoded one. Do not use them while another thread iterates."""
        self._require_open()
        return tuple(stream for stream in self._container.streams if not is_chapter_text(stream))

    @property
    def metadata(self) -> Mapping[str, str]:
        """The container's metadata."""
        return self._container.metadata

    @property
    def chapters(self) -> list["Chapter"]:
        """The container's chapters, with times that match those of the frames."""
        self._require_open()
        chapters = self._container.chapters()
        for chapter in chapters if self._start_s else ():
            offset = round(self._start_s / (chapter["time_base"] or 1))
            chapter["start"], chapter["end"] = max(chapter["start"] - offset, 0), max(chapter["end"] - offset, 0)
        return chapters

    @property
    def covers(self) -> Mapping[int, bytes]:
        """Images attached to the file, such as a cover, by stream index. Only complete before iteration."""
        attached = {s.index for s in self._container.streams.video if s.disposition & Disposition.attached_pic}
        packets = (item.packet for item in self._head if isinstance(item, StreamPacket))
        return {packet.stream_index: bytes(packet) for packet in packets if packet.stream_index in attached}

    @property
    def damage(self) -> list[Damage]:
        """Intervals that could not be decoded, in order of time; complete after iteration."""
        start_s = float(self._start_s)
        return [
            replace(
                damage,
                start_s=None if damage.start_s is None else round(damage.start_s - start_s, 6),
                end_s=None if damage.end_s is None else round(damage.end_s - start_s, 6),
            )
            for damage in self._log.report()
        ]

    @property
    def notices(self) -> list[str]:
        """Notices for the user, one line each; complete after iteration."""
        offset_s = self.info.start_offset_s
        moved = f"the clock in the file starts at {offset_s:.2f} s ({_as_clock(offset_s)}); times are relative to it"
        is_worth_telling = abs(offset_s) >= _NOTABLE_OFFSET_S
        joined = self._packet_clock.notices(start_s=self._start_s)
        return [*self._decoder_notices, *([moved] if is_worth_telling else []), *joined, *self._clock_notices()]

    def _clock_notices(self) -> list[str]:
        """What was changed in the times of frames, and where they differ from a DICOM header."""
        if self._dicom is None:
            return self._frame_clock.notices
        has_times = not self._is_elementary or self._container.format.name == "mpegvideo"
        notices = self._frame_clock.notices if has_times else []
        if self._frames_read is None:
            return notices
        size = (self.info.width, self.info.height)
        stated = self._dicom.notices(
            frames=self._frames_read, size=size, rate=self.info.average_rate, has_times=has_times
        )
        return [*notices, *stated]

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Frames and packets already delivered stay valid."""
        try:
            self._items.close()
        except ValueError:  # another thread is inside the iterator, which closes the file when it returns
            return
        self._is_closed = True
        self._container.close()

    def _require_open(self) -> None:
        if self._is_closed:  # FFmpeg's structures have been freed
            raise SourceError(f"{self.path} is closed; open it again")

    def __iter__(self) -> Iterator[Frame | StreamPacket]:
        if self._is_used:
            raise SourceError(f"{self.path} has already been read; open it again to read it a second time")
        self._is_used = True
        head, self._head = self._head, []
        for item in head:
            yield replace(item, captured_at=monotonic()) if isinstance(item, Frame) else item
        for item in self._items:
            yield self._from_zero(item)

    def _first_time_s(self, frame: Frame) -> Fraction:
        """Start of the file's clock in seconds; 0 if times are not to be shifted."""
        frame_s = frame.pts * self._time_base
        packets = (item.packet for item in self._head if isinstance(item, StreamPacket))
        times_s = [
            packet.pts * packet.time_base
            for packet in packets
            if packet.pts is not None and packet.stream.type in _CONTINUOUS and not _is_cover(packet.stream)
        ]
        times_s += [
            stream.start_time * stream.time_base
            for stream in self._container.streams
            if stream.start_time is not None and stream.time_base and stream.type in _CONTINUOUS
            if not _is_cover(stream)
        ]
        start_s = min([frame_s, *times_s])
        is_steady = not FREE_RUNNING_FORMATS.intersection(self._container.format.name.split(","))
        if self._is_elementary or not is_steady or start_s >= _LATE_START_S:
            return start_s
        return min(frame_s, Fraction(0))  # audio before 0 is encoder delay, which is not played

    def _from_zero(self, item: Frame | StreamPacket) -> Frame | StreamPacket:
        """Shift an item's times so that the file starts at 0."""
        if not self._start_s:
            return item
        if isinstance(item, Frame):
            item.picture.pts = item.pts - round(self._start_s / self._time_base)
        else:
            packet = item.packet
            offset = round(self._start_s / packet.time_base) if packet.time_base else 0
            packet.pts = None if packet.pts is None else packet.pts - offset
            packet.dts = None if packet.dts is None else packet.dts - offset
        return item

    def skip_to(self, time_s: float) -> None:
        """Continue at the key frame before a time, to read part of the file.

        Frames have the same times as when the file is read from its start, unless the clock in the file is reset
        before. Indices count from where reading continues, and `damage` and `notices` only cover that part. Call it
        before iteration.

        Args:
            time_s: Presentation time in seconds.

        Raises:
            SourceError: The file cannot be searched.
        """
        self._require_open()
        target = round((Fraction(time_s) + self._start_s) / self._time_base)
        for earlier_s in _SEARCH_EARLIER_S:
            self._seek(target - round(earlier_s / self._time_base))
            for item in self._items:
                self._head.append(item)
                if isinstance(item, Frame):
                    break
            if any(isinstance(item, Frame) and item.pts <= target for item in self._head):
                break
        self._head = [self._from_zero(item) for item in self._head]

    def _seek(self, target: int) -> None:
        self._items.close()
        try:
            self._container.seek(target, stream=self._stream)
        except (OSError, av.FFmpegError) as error:
            raise SourceError(f"{self.path} cannot be searched ({error}); read it from its start") from None
        self._stream.codec_context.flush_buffers()
        step = self._frame_clock.step
        self._log = DamageLog(time_base=self._time_base, step=step)
        self._decoder = Decoder(self._stream, self._log)
        self._frame_clock = FrameClock(step=step)
        self._packet_clock = PacketClock(self._container.format.name, reference=self._stream.index)
        self._packets_end = self._file_position = self._last_dts = None
        self._head = []
        self._items = self._generate()

    def frames(self) -> Iterator[Frame]:
        """Iterate over the frames only, in presentation order, instead of over the reader."""
        return (item for item in self if isinstance(item, Frame))

    def _generate(self) -> Generator[Frame | StreamPacket, None, None]:
        index = 0
        for packet in self._packets():
            self._watch_file(packet)
            if packet.stream_index != self._stream.index:
                yield StreamPacket(packet=packet)
                continue
            self._watch_video(packet)
            if not packet.size:  # an empty packet means no change, but to the decoder the end of the stream
                continue
            if self._copies_video:
                yield StreamPacket(packet=packet)
                if index:
                    continue
            for picture in self._decoder.decode(cast("VideoPacket", packet)):
                yield self._frame(index, picture)
                index += 1
        if self._copies_video and index:
            return
        for picture in self._decoder.flush():
            yield self._frame(index, picture)
            index += 1
        self._frames_read = index
        if index:
            self._check_end()

    def _frame(self, index: int, picture: av.VideoFrame) -> Frame:
        picture.time_base = self._time_base
        if picture.pts is None and self._dicom is not None and self._dicom.rate is not None:
            picture.duration = self._frame_clock.step
        picture.pts = self._frame_clock.pts_of(picture)
        return Frame(
            index=index, picture=picture, time_base=self._time_base, sample_aspect_ratio=self._aspect_ratio_now()
        )

    def _aspect_ratio_now(self) -> Fraction:
        """The container's pixel aspect ratio, until it changes in the coded video."""
        coded = Fraction(self._stream.codec_context.sample_aspect_ratio or 0)
        if self._coded_aspect_ratio is None:
            self._coded_aspect_ratio = coded
        elif coded and coded != self._coded_aspect_ratio:
            self._coded_aspect_ratio = self._sample_aspect_ratio = coded
        return self._sample_aspect_ratio

    def _packets(self) -> Iterator["av.Packet[Stream]"]:
        """All packets, on one timeline."""
        for packet in self._demuxed():
            self._avi_index.fix(packet)
            for time in self._avi_index.hidden_before(packet):
                self._log.expect(time, 0, corrupt=False)
            yield from self._kept(self._packet_clock.fix(packet))
        yield from self._kept(self._packet_clock.flush())

    def _kept(self, packets: Sequence["av.Packet[Stream]"]) -> Iterator["av.Packet[Stream]"]:
        """Packets whose frames are not discarded: FFmpeg marks what lies before the end of an earlier timeline."""
        for packet in packets:
            yield _unmarked(packet) if packet.is_discard and self._packet_clock.has_joined else packet

    def _demuxed(self) -> Iterator["av.Packet[Stream]"]:
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux():
                    failures = 0
                    if packet.size or packet.pts is not None or packet.dts is not None:  # otherwise PyAV's end marker
                        yield packet
                return
            except av.FFmpegError as error:
                failures += 1
                self._suspicion = _SUSPICION
                self._read_error = error.strerror

    def _watch_file(self, packet: "av.Packet[Stream]") -> None:
        """Record the read position, in bytes and in seconds."""
        if packet.pos is not None:
            self._furthest_byte = max(self._furthest_byte, packet.pos + packet.size)
            before, self._file_position = self._file_position, max(self._file_position or 0, packet.pos + packet.size)
            if before is not None and packet.pos - before > _SKIPPED_BYTES:
                if _CONTIGUOUS_FORMATS.intersection(self._container.format.name.split(",")):
                    self._suspicion = _SUSPICION
                elif self._avi_index.is_missing and not is_avi_chunk(self.path, before):
                    self._log.hidden()
        if packet.pts is not None:
            self._file_end_s = max(self._file_end_s, (packet.pts + (packet.duration or 0)) * packet.time_base)

    def _watch_video(self, packet: "av.Packet[Stream]") -> None:
        """Record intervals without packets due to damage."""
        if packet.pts is None:
            return
        if packet.is_corrupt:
            self._suspicion = _SUSPICION
        if packet.dts is not None:
            if self._last_dts is not None and not self._suspicion:
                self._usual_step = max(packet.dts - self._last_dts, 0)
            self._last_dts = packet.dts
        duration, end = max(packet.duration or 0, self._usual_step), self._packets_end
        if self._suspicion and end is not None and packet.pts > end + duration // 2:
            self._log.skipped(end)
        self._suspicion = max(self._suspicion - 1, 0)
        self._read_error = None
        self._packets_end = max(packet.pts + duration, packet.pts if end is None else end)

    def _check_end(self) -> None:
        """Record an end that is earlier than stated by the container."""
        end, claimed_s = self._log.end, self._claimed_end_s()
        claimed = None if claimed_s is None else round(claimed_s / self._time_base)
        tolerance = max(self._frame_clock.step * 3 // 2, round(Fraction(1, 20) / self._time_base))
        if claimed is not None and end is not None and claimed > end + tolerance:
            self._log.ended(claimed_end=claimed, reason="the file ends before its stated duration")
        elif appended := appended_file_at(self.path, self._container.format.name, after=self._furthest_byte):
            reason = f"another file is appended at byte {appended} and is not read; split the file there"
            self._log.ended(claimed_end=None, reason=reason)
        elif self._dicom is not None and self._dicom.is_cut_off:
            end = self._frame_clock.end
            stated = round(self._start_s / self._time_base) + (self._dicom.frames or 0) * self._frame_clock.step
            reason = "the DICOM object ends before its video does"
            self._log.ended(claimed_end=stated if stated > end else None, reason=reason, shown_until=end)
        elif self._read_error is not None:
            self._log.ended(claimed_end=None, reason=f"the file cannot be read any further ({self._read_error})")

    def _claimed_end_s(self) -> Fraction | None:
        """Stated end of the video stream in seconds; None if the container does not state it."""
        if not any(name in self._container.format.name for name in _STATED_DURATION_FORMATS):
            return None
        start_s = (self._stream.start_time or 0) * self._time_base if not states_end(self._container) else 0
        if self._stream.duration is not None:
            duration = self._stream.duration
            if self._container.format.name == "avi":  # FFmpeg shortens the duration of a truncated file
                duration = max(duration, self._stream.frames)
            return start_s + duration * self._time_base
        if (tagged_s := tagged_duration_s(self._stream)) is not None:
            return tagged_s
        claimed_s = Fraction(self._container.duration or 0, av.time_base)
        if not states_end(self._container):
            claimed_s += Fraction(max(self._container.start_time or 0, 0), av.time_base)
        return claimed_s if claimed_s > self._file_end_s + _CLAIM_SLACK_S else None  # or another stream is longer


def _is_cover(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _as_clock(seconds: float) -> str:
    minutes, rest = divmod(abs(seconds), 60)
    return f"{'-' if seconds < 0 else ''}{int(minutes) // 60}:{int(minutes) % 60:02}:{rest:05.2f}"


def _unmarked(packet: "av.Packet[Stream]") -> "av.Packet[Stream]":
    """Copy a packet without the flag that makes decoders discard its frame."""
    copy: av.Packet[Stream] = av.Packet(bytes(packet))
    copy.stream = packet.stream
    copy.pts, copy.dts, copy.duration, copy.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for data in packet.iter_sidedata():
        data.to_packet(copy)
    return copy
