"""Overlay recording: encodes the displayed frames, with or without markers, in a separate thread."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.codec.context import ThreadType
from av.video.frame import PictureType

from polypstream.files import OnStopped, recording_error
from polypstream.realtime.live.display_frame import DisplayFrame, copied, draw_on
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.segment import Segment, SegmentNames
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.container import VideoInfo
from polypstream.realtime.video.encoding import Encoding, FrameConverter, add_video_stream, working_format
from polypstream.realtime.video.frame import Frame
from polypstream.scheduling import ordinary_scheduling

MILLISECOND = Fraction(1, 1000)
KEY_FRAME_EVERY_MS = 1000
_WAITING = 8
"""Frames that may be buffered for a slow encoder."""


@dataclass(frozen=True, kw_only=True)
class OverlayConfig:
    """Settings of an overlay recording."""

    style: MarkerStyle | None = field(default_factory=MarkerStyle)
    """Marker style; None records the frames without markers, for sources without packets."""
    encoding: Encoding = field(default_factory=lambda: Encoding(quality=20, preset="ultrafast"))
    rate: Fraction | None = None
    """Nominal frame rate of the source; only a hint for players, as every frame has its own time."""


class OverlayRecorder(Background[DisplayFrame]):
    """Encodes frames to `path` with their capture times, and after each change of size to `…-2.mkv` and so on.

    Images are written in coded orientation, with the rotation of the source as metadata. If the encoder is too slow,
    frames are dropped and counted. Nothing raises in the caller's thread: if recording fails, `on_stopped` is called
    once with the reason, and the part written so far is playable. Use as a context manager.

    Args:
        path: First file to write, ending in .mkv.
        config: Settings; None uses the defaults.
        on_stopped: Called with the reason, from any thread.
    """

    def __init__(self, path: Path, config: OverlayConfig | None = None, *, on_stopped: OnStopped) -> None:
        self._names, self._config = SegmentNames(path), config or OverlayConfig()
        self.written = 0
        """Frames."""
        super().__init__("record-overlay", capacity=_WAITING, on_stopped=on_stopped)

    @property
    def files(self) -> tuple[Path, ...]:
        """Files written so far, in order."""
        return tuple(self._names.used)

    def show(self, item: DisplayFrame) -> None:
        """Pass a frame to the encoder."""
        self._give(item)

    def _work(self, items: Iterator[DisplayFrame]) -> None:
        with ExitStack() as open_segment:
            film: _Film | None = None
            for item in items:
                if film is None or not film.takes(item.frame):
                    open_segment.close()
                    film = open_segment.enter_context(_Film(self._names, item, self._config))
                film.write(item)
                self.written += 1


class _Film:
    """One file, with frames of the same size and rotation."""

    def __init__(self, names: SegmentNames, first: DisplayFrame, config: OverlayConfig) -> None:
        self._style, self._segment = config.style, Segment(names)
        self._began_at = first.frame.captured_at
        self._last_ms, self._key_ms = -1, -KEY_FRAME_EVERY_MS
        picture = first.frame.picture
        self._shape = _shape_of(first.frame)
        pixel_format = working_format(
            picture.format.name, config.encoding.encoder, width=picture.width, height=picture.height
        )
        info = _info_of(first.frame, config.rate)
        self._converter = FrameConverter(info, pixel_format)
        self._stream = add_video_stream(self._segment.container, config.encoding, info, pixel_format, has_aspect=True)
        # A crash loses the frames buffered in the encoder: none with slice threads, one per thread without.
        self._stream.codec_context.thread_type = ThreadType.SLICE
        if config.encoding.encoder.name == "libx264":
            self._stream.codec_context.options |= {"tune": "zerolatency"}
        with ordinary_scheduling():
            self._stream.codec_context.open(strict=False)

    def takes(self, frame: Frame) -> bool:
        return self._shape == _shape_of(frame)

    def write(self, item: DisplayFrame) -> None:
        picture = self._converter.convert(item.frame.picture)
        if picture is item.frame.picture:
            picture = copied(picture)
        if self._style is not None:
            draw_on(picture, item.markers, self._style)
        passed_ms = round((item.frame.captured_at - self._began_at) * 1000)
        self._last_ms = max(passed_ms, self._last_ms + 1)
        picture.pts, picture.time_base = self._last_ms, MILLISECOND
        is_key = self._last_ms - self._key_ms >= KEY_FRAME_EVERY_MS
        picture.pict_type = PictureType.I if is_key else PictureType.NONE
        self._key_ms = self._last_ms if is_key else self._key_ms
        self._mux(picture)

    def _mux(self, picture: av.VideoFrame | None) -> None:
        try:
            packets = self._stream.encode(picture)
        except av.FFmpegError as error:
            raise recording_error(self._segment.path, error) from error
        for packet in packets:
            self._segment.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._segment:
            if error is None:
                self._mux(None)


def _shape_of(frame: Frame) -> tuple[object, ...]:
    """Properties that all frames of a file share."""
    return frame.picture.width, frame.picture.height, frame.picture.format.name, frame.display_matrix


def _info_of(frame: Frame, rate: Fraction | None) -> VideoInfo:
    """Video properties derived from a single frame."""
    picture = frame.picture
    return VideoInfo(
        path=Path(),
        codec="",
        width=picture.width,
        height=picture.height,
        pixel_format=picture.format.name,
        time_base=MILLISECOND,
        average_rate=rate,
        frame_count=None,
        duration_s=None,
        sample_aspect_ratio=frame.sample_aspect_ratio,
        rotation=picture.rotation,
        display_matrix=frame.display_matrix,
        is_interlaced=False,
        color_range=int(picture.color_range),
        colorspace=int(picture.colorspace),
        color_primaries=int(picture.color_primaries),
        color_trc=int(picture.color_trc),
        has_hdr_metadata=False,
    )
