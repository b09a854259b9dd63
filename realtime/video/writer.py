"""Video output: writes annotated frames and copies all other streams of the source."""

import os
from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import av
from av.audio.stream import AudioStream
from av.rational import AVRational
from av.stream import Stream
from av.video.frame import PictureType

from polypstream.errors import OutputError
from polypstream.files import UnfinishedFile, partial_path, write_error
from polypstream.realtime.video.audio import AudioConverter
from polypstream.realtime.video.encoding import (
    Encoding,
    FrameConverter,
    add_video_stream,
    device_format,
    encoder_time_base,
    format_notice,
    working_format,
)
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from polypstream.realtime.video.streams import (
    MATROSKA,
    add_copy,
    add_cover,
    container_metadata,
    container_options,
    copy_metadata,
    describe,
    is_cover,
    is_timecode,
    keeps_aspect,
    plan_container,
)
from polypstream.realtime.video.timestamps import CopyClock
from polypstream.scheduling import ordinary_scheduling
from polypstream.threads import uninterrupted

if TYPE_CHECKING:
    from av.container import OutputContainer
__all__ = ["Encoding", "NullWriter", "VideoWriter", "Writer"]

_BUFFER_BYTES = 1 << 20


class VideoWriter:
    """Writes a video file with newly encoded frames and all other streams, metadata and chapters of the source.

    While it is being written, the file is named `<stem>.partial<suffix>`; `finish` renames it. After `abandon`, it is
    closed in a playable state and keeps the partial name. As a context manager, it calls `finish`, or `abandon` if an
    exception occurred. If the requested container does not support a stream of the source, a Matroska or QuickTime
    file is written instead; see `path`. Use the writer from one thread, and construct it before iterating over the
    source.

    Args:
        path: The video file to write; its suffix selects the container.
        source: The video whose other streams are copied.
        encoding: Codec, quality and preset.

    Raises:
        OutputError: The file cannot be written.
        ConfigError: The encoder or container does not support the frames.
    """

    def __init__(self, path: Path | str, *, source: VideoReader, encoding: Encoding) -> None:
        self._source, self._encoding = source, encoding
        self._own_notices: list[str] = []
        self._frames = 0
        self._last_pts: int | None = None
        self._is_open = self._is_flushed = self._has_packets = False
        plan = plan_container(Path(path), source=source, encoder=encoding.encoder)
        self._final, self._left_out, self._converted = plan.path, plan.left_out, plan.converted
        self._own_notices += plan.notices
        self._partial = partial_path(self._final)
        self._check_names()
        encoder, info = encoding.encoder, source.info
        on_device = device_format(encoder, info) if source.hardware else None
        self._hardware = source.hardware if on_device else None
        pixel_format = on_device or working_format(info.pixel_format, encoder, info.width, info.height)
        if pixel_format != info.pixel_format:
            notice = format_notice(info.pixel_format, pixel_format, encoder, info.width, info.height)
            self._own_notices += [notice] if notice else []
        if not keeps_aspect(plan.format_name, encoder) and info.sample_aspect_ratio != 1:
            name, ratio = encoder.canonical_name.upper(), info.sample_aspect_ratio
            self._own_notices.append(f"the pixel aspect ratio of {ratio} is lost: {name} only stores it in .mp4 files")
        if info.has_hdr_metadata:
            self._own_notices.append("the HDR metadata (brightness of the mastering display) is dropped")
        self._converter = FrameConverter(info, pixel_format, keeps_on_device=on_device is not None)
        try:
            self._file = UnfinishedFile(self._final)
        except OSError as error:
            raise self._error(error) from error
        try:
            self._open(plan.format_name, pixel_format)
        except (OSError, ValueError, av.FFmpegError) as error:
            self._file.discard()
            raise self._error(error) from error
        except BaseException:
            self._file.discard()
            raise

    @property
    def path(self) -> Path:
        """Name of the finished file."""
        return self._final

    @property
    def partial_path(self) -> Path:
        """Name of the file while it is being written, and after it was abandoned."""
        return self._partial

    @property
    def notices(self) -> list[str]:
        """Notices for the user, one line each: what could not be preserved, and what was corrected."""
        corrected = [
            f"{clock.fixed} packets of {name} had no usable decoding time; they were shifted by the least possible"
            for name, clock in ((self._names[index], clock) for index, clock in self._clocks.items())
            if clock.fixed
        ]
        return [*self._own_notices, *self._converter.notices, *corrected, *self._source.notices]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self.abandon()

    def prepared(self, frame: Frame) -> av.VideoFrame:
        """Return the image of a frame in the encoder's format and size, writable; pass it to `write_picture`.

        The image is not copied if it already fits, but its memory is no longer shared: drawing on it affects neither
        the decoder nor other frames. It stays in GPU memory if the encoder takes it from there.
        """
        picture = self._converter.convert(frame.picture)
        if picture is frame.picture:
            picture.make_writable()
        return picture

    def write(self, item: Frame | StreamPacket) -> None:
        """Write an unchanged frame, or a packet of a copied stream."""
        if isinstance(item, StreamPacket):
            self._write_packet(item.packet)
        else:
            self.write_picture(item.picture)

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Encode an image, such as `prepared` returns, at its own presentation time."""
        self._require_open()
        picture = self._converter.convert(picture)
        picture.pict_type = PictureType.NONE  # otherwise the encoder repeats the source's choice of key frames
        pts = picture.pts
        if pts is not None:
            self._note_rounding(pts)
            if self._encoder_base != self._source.info.time_base:
                pts = picture.pts = round(pts * self._source.info.time_base / self._encoder_base)
                picture.time_base = self._encoder_base
        if pts is None or (self._last_pts is not None and pts <= self._last_pts):
            pts = picture.pts = 0 if self._last_pts is None else self._last_pts + 1
        self._last_pts = pts
        try:
            with uninterrupted():
                packets = self._video.encode(picture)
                self._has_packets = self._has_packets or bool(packets)
                self._mux(packets)
        except (OSError, av.FFmpegError) as error:
            raise self._error(error) from error
        self._frames += 1

    def finish(self) -> None:
        """Flush the encoder, write the index, and give the file its final name.

        Raises:
            OutputError: This fails, or no frame was written. A playable part is kept under the partial name.
        """
        if not self._is_open:
            return
        if not self._frames:
            self._end(keep=False)
            raise OutputError(f"no frame was written to {self._final}; the source contains none")
        try:
            self._complete(rename=True)
        except (OSError, av.FFmpegError) as error:
            self._end(keep=True)
            raise self._error(error) from error
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Close the file in a playable state under its partial name; delete it if nothing in it is playable."""
        if not self._is_open:
            return
        try:
            if self._frames:
                self._complete(rename=False)
        except (OSError, av.FFmpegError):
            pass
        finally:
            self._end(keep=self._frames > 0)

    def _check_names(self) -> None:
        try:
            if self._final.is_dir():
                raise OutputError(f"{self._final} is a folder; choose another name for the video")
            for path in (self._final, self._partial):
                if path.exists() and path.samefile(self._source.path):
                    raise OutputError(f"{path} is the input video; choose another folder for the output")
        except OutputError:
            raise
        except OSError as error:
            raise self._error(error) from error

    def _open(self, format_name: str, pixel_format: str) -> None:
        source, info = self._source, self._source.info
        self._names: dict[int, str] = {}
        self._clocks: dict[int, CopyClock] = {}
        self._copies: dict[int, Stream] = {}
        self._converters: dict[int, AudioConverter] = {}
        self._container: OutputContainer = av.open(
            self._file,
            "w",
            format=format_name,
            buffer_size=_BUFFER_BYTES,
            metadata_errors="surrogateescape",
            container_options=container_options(
                format_name, [s for s in source.streams if s.index not in self._left_out], source.metadata
            ),
        )
        for stream in source.streams:
            if stream.index == source.video.index:
                has_aspect = bool(source.video.sample_aspect_ratio)
                self._video = add_video_stream(
                    self._container,
                    self._encoding,
                    info,
                    pixel_format,
                    has_aspect=has_aspect,
                    hardware=self._hardware,
                )
                copy_metadata(stream, self._video)
                for timecode in filter(is_timecode, source.streams):
                    self._video.metadata.setdefault("timecode", timecode.metadata["timecode"])
                self._video.disposition = stream.disposition
            elif stream.index in self._left_out:
                continue
            elif stream.index in self._converted and isinstance(stream, AudioStream):
                self._converters[stream.index] = AudioConverter(self._container, stream)
            elif format_name == MATROSKA and is_cover(stream):
                add_cover(self._container, stream, source.covers.get(stream.index, b""))
            else:
                self._names[stream.index] = describe(stream)
                self._copies[stream.index] = add_copy(self._container, stream)
                self._clocks[stream.index] = CopyClock()
        self._container.metadata.update(container_metadata(source.metadata.items()))
        self._container.set_chapters(source.chapters)
        with ordinary_scheduling():
            self._container.start_encoding()
        self._header_size = self._file.size
        self._is_open = True
        self._encoder_base = encoder_time_base(self._encoding.encoder, info)
        written = max(self._video.time_base or self._encoder_base, self._encoder_base)
        self._tick_ms = float(written * 1000)
        self._ticks_per_tick: Fraction | None = info.time_base / written

    def _note_rounding(self, pts: int) -> None:
        if (
            self._ticks_per_tick is not None
            and (pts * self._ticks_per_tick.numerator) % self._ticks_per_tick.denominator
        ):
            self._ticks_per_tick = None
            holder = f"{self._final.suffix} files support"
            if self._encoder_base != self._source.info.time_base:
                holder = f"{self._encoding.encoder.canonical_name.upper()} supports"
            self._own_notices.append(f"times are rounded to {self._tick_ms:g} ms: {holder} no finer ones")

    def _write_packet(self, packet: "av.Packet[Stream]") -> None:
        self._require_open()
        index = packet.stream_index
        copy = self._copies.get(index)
        if copy is None:
            if converter := self._converters.get(index):
                self._write_converted(converter, packet)
            return
        assert copy.time_base is not None
        packet.stream = copy
        packet.rescale_ts(AVRational(copy.time_base))
        self._clocks[index].fix(packet)
        try:
            with uninterrupted():
                self._mux([packet])
        except OSError as error:
            raise self._error(error) from error
        except av.FFmpegError as error:
            notice = f"not every packet of {self._names[index]} could be written ({error.strerror})"
            if notice not in self._own_notices:
                self._own_notices.append(notice)

    def _with_decoding_times(self, packets: "Sequence[av.Packet[Any]]") -> "Sequence[av.Packet[Any]]":
        """Assign new decoding times to a video too short for early packets, for which x265's are random."""
        shown = [packet.pts for packet in packets if packet.pts is not None]
        if self._has_packets or len(shown) < len(packets):
            return packets
        times = sorted(shown)
        delay = max((time - pts for time, pts in zip(times, shown, strict=True)), default=0)
        for time, packet in zip(times, packets, strict=True):
            packet.dts = time - delay
        return packets

    def _write_converted(self, converter: AudioConverter, packet: "av.Packet[Stream]") -> None:
        try:
            with uninterrupted():
                self._mux(converter.convert(packet))
        except (OSError, av.FFmpegError) as error:
            raise self._error(error) from error

    def _mux(self, packets: "Sequence[av.Packet[Any]]") -> None:
        for packet in packets:
            self._container.mux_one(packet)
        if self._file.size > self._header_size:
            self._file.checkpoint()

    def _complete(self, *, rename: bool) -> None:
        with uninterrupted():
            if not self._is_flushed:
                self._is_flushed = True
                self._mux(_with_end(self._with_decoding_times(self._video.encode(None))))
                for converter in self._converters.values():
                    self._mux(converter.convert(None))
            self._container.close()
            self._file.checkpoint()
            self._file.finish(rename=rename)
            self._is_open = False

    def _end(self, *, keep: bool) -> None:
        """Close what is still open; a playable file is kept under its partial name."""
        if not self._is_open:
            return
        self._is_open = False
        if keep and self._file.has_checkpoint:
            self._file.close()
        else:
            self._file.discard()
        with suppress(OSError, ValueError, av.FFmpegError):
            self._container.close()

    def _require_open(self) -> None:
        if not self._is_open:
            raise OutputError(f"{self._final} is already closed; open a new writer to write more")

    def _error(self, error: Exception) -> OutputError:
        file = getattr(self, "_file", None)
        cause = file.error if file is not None and isinstance(file.error, OSError) else error
        text = str(write_error(self._final, cause, otherwise="check the folder, the codec and its preset"))
        if file is not None and self._frames and file.has_checkpoint:
            text += f"; the part written so far is kept, with .partial in its name, in {self._final.parent}"
        return OutputError(text)


class Writer(Protocol):
    """Anything that accepts frames and copied packets: a context manager, used from one thread."""

    @property
    def path(self) -> Path:
        """Name of the finished file."""
        ...

    @property
    def notices(self) -> list[str]:
        """Notices for the user, one line each."""
        ...

    def prepared(self, frame: Frame) -> av.VideoFrame:
        """Return the image of a frame, writable and in the format in which it will be written."""
        ...

    def write(self, item: Frame | StreamPacket) -> None:
        """Write an unchanged frame, or a packet of a copied stream."""
        ...

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Write an image, such as `prepared` returns, at its own presentation time."""
        ...

    def finish(self) -> None:
        """Complete the output."""
        ...

    def abandon(self) -> None:
        """End the output early and keep the usable part."""
        ...


class NullWriter:
    """Discards everything: for records without video, and for benchmarks without an encoder."""

    def __init__(self) -> None:
        self.path = Path(os.devnull)
        self.notices: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def prepared(self, frame: Frame) -> av.VideoFrame:
        """Return the image of a frame, writable."""
        frame.picture.make_writable()
        return frame.picture

    def write(self, item: Frame | StreamPacket) -> None:
        """Discard an item."""

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Discard an image."""

    def finish(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""


def _with_end(packets: "Sequence[av.Packet[Any]]") -> "Sequence[av.Packet[Any]]":
    """Make the last packet, in decoding order, last until the last frame, in presentation order, has been displayed.

    The length of an MP4 file that was written in fragments follows from decoding times; players drop what lies beyond.
    """
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if times and packets[-1].dts is not None:
        step = times[-1] - times[-2] if len(times) > 1 else 1
        packets[-1].duration = max(packets[-1].duration or 0, times[-1] + step - packets[-1].dts)
    return packets
