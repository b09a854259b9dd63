"""Records what is shown: the pictures with their markers, or without, encoded anew in a thread of its own."""

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

from polypstream.realtime.encoding import Encoding, add_video_stream, working_format
from polypstream.realtime.fitting import Fitter
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.drawing import copied, draw_on
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import OnStopped, recording_error
from polypstream.realtime.live.recording.part import Part, PartNames
from polypstream.realtime.live.shown import LiveFrame
from polypstream.realtime.overlay import MarkerStyle
from polypstream.realtime.video import VideoInfo

MILLISECOND = Fraction(1, 1000)
KEY_FRAME_EVERY_MS = 1000
_WAITING = 8
"""Frames that may wait for a slow encoder."""


@dataclass(frozen=True, kw_only=True)
class OverlayConfig:
    """How shown pictures are recorded."""

    style: MarkerStyle | None = field(default_factory=MarkerStyle)
    """None leaves the markers out: the feed itself, where a source has no packets to record."""
    encoding: Encoding = field(default_factory=lambda: Encoding(quality=20, preset="ultrafast"))
    rate: Fraction | None = None
    """Frames a second as the source states them; a hint for players, since every frame has its own time."""


class OverlayRecorder(Background[LiveFrame]):
    """Writes frames to `path`, at the times they were captured, and after each change of size to `…-2.mkv`.

    Pictures are written as they were coded: a file says how players are to turn them, as the source did. Frames that a
    slow encoder leaves no time for are dropped and counted. A context manager. Nothing raises in the caller's thread:
    where the recording cannot go on, `on_stopped` is told why, once, and what was written plays.
    """

    def __init__(self, path: Path, config: OverlayConfig | None = None, *, on_stopped: OnStopped) -> None:
        self._names, self._config = PartNames(path), config or OverlayConfig()
        self.written = 0
        """Frames."""
        super().__init__("record-overlay", capacity=_WAITING, on_stopped=on_stopped)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files written so far, in order."""
        return tuple(self._names.used)

    def show(self, item: LiveFrame) -> None:
        """Hand one frame to the encoder."""
        self._give(item)

    def _work(self, items: Iterator[LiveFrame]) -> None:
        with ExitStack() as open_part:
            film: _Film | None = None
            for item in items:
                if film is None or not film.takes(item.frame):
                    open_part.close()
                    film = open_part.enter_context(_Film(self._names, item, self._config))
                film.write(item)
                self.written += 1


class _Film:
    """The pictures of one size, turned one way, in one file."""

    def __init__(self, names: PartNames, first: LiveFrame, config: OverlayConfig) -> None:
        self._style, self._part = config.style, Part(names)
        self._began_at = first.frame.captured_at
        self._last_ms, self._key_ms = -1, -KEY_FRAME_EVERY_MS
        picture = first.frame.picture
        self._shape = _shape_of(first.frame)
        pixel_format = working_format(
            picture.format.name, config.encoding.encoder, width=picture.width, height=picture.height
        )
        info = _info_of(first.frame, config.rate)
        self._fitter = Fitter(info, pixel_format)
        self._stream = add_video_stream(self._part.container, config.encoding, info, pixel_format, has_aspect=True)
        # A crash loses what an encoder holds back: none of it with slices, a frame for each thread without.
        self._stream.codec_context.thread_type = ThreadType.SLICE
        if config.encoding.encoder.name == "libx264":
            self._stream.codec_context.options |= {"tune": "zerolatency"}

    def takes(self, frame: Frame) -> bool:
        return self._shape == _shape_of(frame)

    def write(self, item: LiveFrame) -> None:
        picture = self._fitter.fitted(item.frame.picture)
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
            raise recording_error(self._part.path, error) from error
        for packet in packets:
            self._part.mux(packet)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._part:
            if error is None:
                self._mux(None)


def _shape_of(frame: Frame) -> tuple[object, ...]:
    """What all the frames of one file share."""
    return frame.picture.width, frame.picture.height, frame.picture.format.name, frame.display_matrix


def _info_of(frame: Frame, rate: Fraction | None) -> VideoInfo:
    """What one frame says of its stream."""
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
