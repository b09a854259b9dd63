"""Copies a video file to Matroska without decoding it, and adds a subtitle track."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.rational import AVRational
from av.stream import Disposition, Stream

from polypstream.errors import OutputError
from polypstream.files import atomic_path, write_error
from polypstream.realtime.video.audio import AudioConverter
from polypstream.realtime.video.reader import StreamPacket, VideoInfo, VideoReader
from polypstream.realtime.video.streams import (
    MATROSKA,
    add_copy,
    add_cover,
    can_convert,
    can_hold,
    container_metadata,
    container_options,
    describe,
    is_cover,
    is_timecode,
)
from polypstream.realtime.video.timestamps import CopyClock

_MS = Fraction(1, 1000)


@dataclass(frozen=True, kw_only=True)
class SubtitleEvent:
    """One event of a subtitle track."""

    start_ms: int
    duration_ms: int
    text: str
    """ASS event in Matroska's form: "ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text"."""


def copy_with_subtitles(
    video: Path, target: Path, *, header: str, events: Iterable[SubtitleEvent], language: str, title: str
) -> list[str]:
    """Copy every packet of a video into a Matroska file, and add an ASS track that is on by default.

    Args:
        video: The source; opened a second time, not decoded.
        target: The `.mkv` file, written atomically.
        header: The ASS script up to its events.
        events: Events in order of `start_ms`, on the timeline of `VideoReader`.
        language: ISO 639-2 code of the track.
        title: Name of the track in a player's menu.

    Returns:
        Notices about streams that could not be copied.

    Raises:
        SourceError: If the video cannot be read.
        OutputError: If the file cannot be written.
    """
    with VideoReader(video, copies_video=True) as source, atomic_path(target) as unfinished:
        if target.exists() and target.samefile(video):
            raise OutputError(f"{target} is the video being read; write to another folder")
        try:
            return _Remuxer(source, unfinished, header=header, language=language, title=title).run(events)
        except (ValueError, av.FFmpegError) as error:
            raise write_error(target, error, otherwise="check the folder, or use --overlay burned") from error


class _Remuxer:
    """A single copy."""

    def __init__(self, source: VideoReader, path: Path, *, header: str, language: str, title: str) -> None:
        self._source, self._path = source, path
        self._notices: list[str] = []
        self._copies: dict[int, Stream] = {}
        self._converters: dict[int, AudioConverter] = {}
        self._clocks: dict[int, CopyClock] = {}
        streams = [stream for stream in source.streams if self._is_kept(stream)]
        self._container = av.open(
            str(path),
            "w",
            format=MATROSKA,
            metadata_errors="surrogateescape",
            container_options=container_options(MATROSKA, streams, source.metadata) | {"write_crc": "0"},
        )
        coded = source.video.codec_context.sample_aspect_ratio or Fraction(1)
        self._states_aspect = source.info.sample_aspect_ratio != coded
        for stream in streams:
            self._add(stream)
        with av.open(io.BytesIO(header.encode()), format="ass") as script:
            self._subtitles = add_copy(self._container, script.streams[0])
        self._subtitles.time_base = _MS
        self._subtitles.metadata.update({"language": language, "title": title})
        self._subtitles.disposition = Disposition.default
        self._container.metadata.update(container_metadata(source.metadata.items()))
        self._container.set_chapters(source.chapters)

    def run(self, events: Iterable[SubtitleEvent]) -> list[str]:
        """Copy everything; returns the notices."""
        self._container.start_encoding()
        waiting = iter(events)
        event = next(waiting, None)
        for item in self._source:
            if not isinstance(item, StreamPacket):
                continue
            packet = item.packet
            if packet.dts is not None and packet.time_base:
                now_ms = packet.dts * packet.time_base * 1000
                while event is not None and event.start_ms <= now_ms:
                    self._write_event(event)
                    event = next(waiting, None)
            self._write(packet)
        for left in (*([] if event is None else [event]), *waiting):
            self._write_event(left)
        for converter in self._converters.values():
            self._container.mux(converter.convert(None))
        self._container.close()
        if self._states_aspect and not _state_aspect(self._path, self._source.info):
            ratio = self._source.info.sample_aspect_ratio
            self._notices.append(f"the pixel aspect ratio of {ratio} is lost in the copy")
        self._notices += [
            f"{clock.fixed} packets of stream {index} had no usable decoding time; shifted by the least possible"
            for index, clock in self._clocks.items()
            if clock.fixed
        ]
        return self._notices

    def _is_kept(self, stream: Stream) -> bool:
        if is_timecode(stream):
            return False
        if can_hold(MATROSKA, stream) or can_convert(stream):
            return True
        if stream.index == self._source.video.index:
            raise OutputError(f"Matroska does not support {describe(stream)}; use --overlay burned")
        self._notices.append(f"{describe(stream)} is dropped: Matroska does not support it")
        return False

    def _add(self, stream: Stream) -> None:
        if is_cover(stream):
            add_cover(self._container, stream, self._source.covers.get(stream.index, b""))
        elif not can_hold(MATROSKA, stream) and isinstance(stream, AudioStream):
            self._converters[stream.index] = AudioConverter(self._container, stream)
            self._notices.append(f"{describe(stream)} is stored as PCM: Matroska does not support its format")
        else:
            copy = add_copy(self._container, stream)
            if stream.index == self._source.video.index and self._states_aspect:
                copy.metadata["stereo_mode"] = "left_right"
            if stream.type == "subtitle":
                copy.disposition = stream.disposition & ~Disposition.default
            self._copies[stream.index], self._clocks[stream.index] = copy, CopyClock()

    def _write(self, packet: "av.Packet[Any]") -> None:
        index = packet.stream_index
        if (copy := self._copies.get(index)) is None:
            if converter := self._converters.get(index):
                self._container.mux(converter.convert(packet))
            return
        if index == self._source.video.index and packet.pts is None:
            raise OutputError(
                f"{self._source.path.name} has no presentation times, which a copy requires; use --overlay burned"
            )
        assert copy.time_base is not None
        packet.stream = copy
        packet.rescale_ts(AVRational(copy.time_base))
        self._clocks[index].fix(packet)
        self._container.mux_one(packet)

    def _write_event(self, event: SubtitleEvent) -> None:
        packet: av.Packet[Any] = av.Packet(event.text.encode())
        packet.stream = self._subtitles
        packet.pts = packet.dts = event.start_ms
        packet.duration, packet.time_base = event.duration_ms, _MS
        self._container.mux_one(packet)


_STEREO_MODE, _DISPLAY_WIDTH, _DISPLAY_HEIGHT = b"\x53\xb8", b"\x54\xb0", b"\x54\xba"
"""Matroska element IDs."""
_VOID = b"\xec\x82\x00\x00"
"""A void element with the length of the stereo mode element."""
_HEADER_BYTES = 1 << 16


def _state_aspect(path: Path, info: VideoInfo) -> bool:
    """Write the pixel aspect ratio of the source's container into a Matroska file; returns whether that succeeded.

    PyAV cannot set the aspect ratio that the muxer writes. For stereoscopic video, however, the muxer writes a
    display size: the copy is declared stereoscopic, then that element is voided and the size overwritten.
    """
    with path.open("r+b") as file:
        header = file.read(_HEADER_BYTES)
        mode = header.find(_STEREO_MODE + b"\x81\x01")
        width, height = (header.find(name, mode) + 2 for name in (_DISPLAY_WIDTH, _DISPLAY_HEIGHT))
        if mode < 0 or width < 2 or height < 2:
            return False
        lengths = [header[at] & 0x7F for at in (width, height)]
        size = _display_size(info, *(256**length - 1 for length in lengths))
        file.seek(mode)
        file.write(_VOID)
        for at, length, value in zip((width, height), lengths, size, strict=True):
            file.seek(at + 1)
            file.write(value.to_bytes(length, "big"))
    return True


def _display_size(info: VideoInfo, most_across: int, most_down: int) -> tuple[int, int]:
    """Width and height in the display aspect ratio of a frame, within the limits of the elements."""
    across, down = info.width * info.sample_aspect_ratio, Fraction(info.height)
    if across.denominator == 1 and across <= most_across and down <= most_down:
        return int(across), int(down)
    shape = across / down
    limit = most_down
    while (near := shape.limit_denominator(limit)).numerator > most_across:
        limit = max(limit * most_across // near.numerator, 1)
    return near.numerator, near.denominator
