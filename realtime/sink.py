"""Where annotated video goes: a file that keeps all of its source, or nowhere at all."""

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
from av.rational import AVRational
from av.stream import Stream
from av.video.frame import PictureType

from polypstream.errors import SinkError
from polypstream.realtime.disk import reason_and_mend
from polypstream.realtime.encoding import (
    Encoding,
    add_video_stream,
    format_notice,
    working_format,
)
from polypstream.realtime.fitting import Fitter
from polypstream.realtime.frame import Frame
from polypstream.realtime.null_sink import NullSink, Sink
from polypstream.realtime.source import FileSource, StreamPacket
from polypstream.realtime.streams import (
    MATROSKA,
    add_copy,
    add_cover,
    container_metadata,
    container_options,
    copy_metadata,
    describe,
    is_cover,
    keeps_aspect,
    plan_container,
)
from polypstream.realtime.timeline import CopyClock

if TYPE_CHECKING:
    from av.container import OutputContainer

__all__ = ["Encoding", "FileSink", "NullSink", "Sink"]


class FileSink:
    """A video file with everything that the source holds but for the pictures, which are encoded anew.

    While it is written its name is `<stem>.partial<suffix>`; `finish` gives it its final one. Left by an exception,
    or abandoned, it is closed such that what was written so far plays, and keeps the partial name. As a context
    manager it does the right one of both. Where the wanted container cannot hold a stream of the source, the file
    becomes a Matroska or QuickTime file, which `path` tells. Use it from one thread; construct it before iterating
    over the source.
    Raises `SinkError` where the file cannot be written, `ConfigError` where the encoder cannot take the pictures.
    """

    def __init__(self, path: Path | str, *, source: FileSource, encoding: Encoding) -> None:
        self._source, self._encoding = source, encoding
        self._own_notices: list[str] = []
        self._frames = 0
        self._last_pts: int | None = None
        self._is_open = self._is_flushed = False
        plan = plan_container(Path(path), source=source, encoder=encoding.encoder)
        self._final, self._left_out = plan.path, plan.left_out
        self._own_notices += plan.notices
        self._partial = self._final.with_name(f"{self._final.stem}.partial{self._final.suffix}")
        self._check_names()
        encoder, info = encoding.encoder, source.info
        pixel_format = working_format(info.pixel_format, encoder, info.width, info.height)
        if pixel_format != info.pixel_format:
            notice = format_notice(info.pixel_format, pixel_format, encoder, info.width, info.height)
            self._own_notices += [notice] if notice else []
        if not keeps_aspect(plan.format_name, encoder) and info.sample_aspect_ratio != 1:
            name, ratio = encoder.canonical_name.upper(), info.sample_aspect_ratio
            self._own_notices.append(
                f"players will miss the pixels' aspect of {ratio}: {name} states it in .mp4 files only"
            )
        if info.has_hdr_metadata:
            self._own_notices.append("the brightness of the mastering display (HDR metadata) is left out")
        self._fitter = Fitter(info, pixel_format)
        is_left_from_before = self._partial.exists()
        try:
            self._final.parent.mkdir(parents=True, exist_ok=True)
            self._open(plan.format_name, pixel_format)
        except (OSError, ValueError, av.FFmpegError) as error:
            if not is_left_from_before:
                self._discard()
            raise self._error(error) from error

    @property
    def path(self) -> Path:
        """The file's name once it is finished."""
        return self._final

    @property
    def partial_path(self) -> Path:
        """The file's name while it is written, and after it was abandoned."""
        return self._partial

    @property
    def notices(self) -> list[str]:
        """Facts for the user, one line each: what could not be kept as it was, and what was mended instead."""
        mended = [
            f"{clock.mended} packets of {name} had no usable decoding time; moved by the least possible"
            for name, clock in ((self._names[index], clock) for index, clock in self._clocks.items())
            if clock.mended
        ]
        return [*self._own_notices, *self._fitter.notices, *mended, *self._source.notices]

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
        """The frame's picture in the encoder's format and size, writable; hand it to `write_picture`.

        The very picture where it fits, with its memory its own from now on: whatever is drawn on it reaches neither
        the decoder nor other frames.
        """
        picture = self._fitter.fitted(frame.picture)
        if picture is frame.picture:
            picture.make_writable()
        return picture

    def write(self, item: Frame | StreamPacket) -> None:
        """Write a frame as it is, or a packet of a copied stream."""
        if isinstance(item, StreamPacket):
            self._write_packet(item.packet)
        else:
            self.write_picture(item.picture)

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Encode a picture, such as `prepared` returns, at its own presentation time."""
        self._require_open()
        picture = self._fitter.fitted(picture)
        picture.pict_type = PictureType.NONE  # else the encoder would repeat the source's choice of key frames
        pts = picture.pts
        if pts is None or (self._last_pts is not None and pts <= self._last_pts):
            pts = picture.pts = 0 if self._last_pts is None else self._last_pts + 1
        self._last_pts = pts
        self._note_rounding(pts)
        try:
            self._container.mux(self._video.encode(picture))
        except (OSError, av.FFmpegError) as error:
            raise self._error(error) from error
        self._frames += 1

    def finish(self) -> None:
        """Write what the encoder still holds and the file's index, and give the file its final name.

        Raises `SinkError`, and leaves no file, where that fails or no frame was written.
        """
        if not self._is_open:
            return
        try:
            if not self._frames:
                raise SinkError(f"no frame was written to {self._final}; the source gave none")
            self._close()
            self._partial.replace(self._final)
        except KeyboardInterrupt:
            self.abandon()
            raise
        except (OSError, av.FFmpegError) as error:
            self._discard()
            raise error if isinstance(error, SinkError) else self._error(error) from error

    def abandon(self) -> None:
        """Close the file under its partial name such that it plays; remove it where that fails or it is empty."""
        if not self._is_open:
            return
        try:
            if self._frames:
                self._close()
                return
        except (OSError, av.FFmpegError):
            pass
        except BaseException:
            self._discard()
            raise
        self._discard()

    def _check_names(self) -> None:
        if self._final.is_dir():
            raise SinkError(f"{self._final} is a folder; choose another name for the video")
        for path in (self._final, self._partial):
            if path.exists() and path.samefile(self._source.path):
                raise SinkError(f"{path} is the video being read; write to another folder")

    def _open(self, format_name: str, pixel_format: str) -> None:
        source, info = self._source, self._source.info
        self._names: dict[int, str] = {}
        self._clocks: dict[int, CopyClock] = {}
        self._copies: dict[int, Stream] = {}
        self._container: OutputContainer = av.open(
            f"file:{self._partial}",
            "w",
            format=format_name,
            metadata_errors="surrogateescape",
            container_options=container_options(format_name, source.streams, source.metadata),
        )
        for stream in source.streams:
            if stream.index == source.video.index:
                has_aspect = bool(source.video.sample_aspect_ratio)
                self._video = add_video_stream(
                    self._container, self._encoding, info, pixel_format, has_aspect=has_aspect
                )
                copy_metadata(stream, self._video)
                self._video.disposition = stream.disposition
            elif stream.index in self._left_out:
                continue
            elif format_name == MATROSKA and is_cover(stream):
                add_cover(self._container, stream, source.covers.get(stream.index, b""))
            else:
                self._names[stream.index] = describe(stream)
                self._copies[stream.index] = add_copy(self._container, stream)
                self._clocks[stream.index] = CopyClock()
        self._container.metadata.update(container_metadata(source.metadata.items()))
        self._container.set_chapters(source.chapters)
        self._container.start_encoding()
        self._is_open = True
        written = self._video.time_base
        assert written is not None
        self._ticks_per_tick: Fraction | None = info.time_base / written

    def _note_rounding(self, pts: int) -> None:
        if (
            self._ticks_per_tick is not None
            and (pts * self._ticks_per_tick.numerator) % self._ticks_per_tick.denominator
        ):
            self._ticks_per_tick = None
            step_ms = float((self._video.time_base or 0) * 1000)
            self._own_notices.append(
                f"times are rounded to {step_ms:g} ms: {self._final.suffix} files hold no finer ones"
            )

    def _write_packet(self, packet: "av.Packet[Stream]") -> None:
        self._require_open()
        index = packet.stream_index
        copy = self._copies.get(index)
        if copy is None:
            return
        assert copy.time_base is not None
        packet.stream = copy
        packet.rescale_ts(AVRational(copy.time_base))
        self._clocks[index].mend(packet)
        try:
            self._container.mux_one(packet)
        except OSError as error:
            raise self._error(error) from error
        except av.FFmpegError as error:
            notice = f"not every packet of {self._names[index]} could be written ({error.strerror})"
            if notice not in self._own_notices:
                self._own_notices.append(notice)

    def _close(self) -> None:
        if not self._is_flushed:
            self._is_flushed = True
            self._container.mux(self._video.encode(None))
        self._is_open = False
        self._container.close()

    def _discard(self) -> None:
        if container := getattr(self, "_container", None):
            with suppress(OSError, ValueError, av.FFmpegError):
                container.close()
        self._is_open = False
        with suppress(OSError):
            self._partial.unlink(missing_ok=True)

    def _require_open(self) -> None:
        if not self._is_open:
            raise SinkError(f"{self._final} is closed already; open a new sink to write more")

    def _error(self, error: Exception) -> SinkError:
        why = reason_and_mend(error, otherwise="check the folder, the codec and its preset")
        return SinkError(f"{self._partial} cannot be written {why}")
