"""What a video file says of its pictures."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Stream
from av.video.stream import VideoStream

_HDR = frozenset({SideDataType.MASTERING_DISPLAY_METADATA, SideDataType.CONTENT_LIGHT_LEVEL})


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
    has_hdr_metadata: bool
    """Whether the stream says how bright the display was on which it was graded."""


def video_info(path: Path, container: InputContainer, stream: VideoStream, picture: av.VideoFrame) -> VideoInfo:
    """What the container, the stream and its first decoded picture say together."""
    assert stream.time_base is not None
    duration = stream.duration * stream.time_base if stream.duration else None
    if duration is None and container.duration:
        duration = Fraction(container.duration, av.time_base)
    return VideoInfo(
        path=path,
        codec=stream.codec_context.codec.canonical_name,
        width=picture.width,
        height=picture.height,
        pixel_format=picture.format.name,
        time_base=stream.time_base,
        average_rate=stream.average_rate or stream.guessed_rate or None,
        frame_count=stream.frames or _tagged_count(stream),
        duration_s=None if duration is None else float(duration),
        sample_aspect_ratio=stream.sample_aspect_ratio or Fraction(1),
        rotation=picture.rotation,
        display_matrix=display_matrix_of(picture),
        is_interlaced=picture.interlaced_frame,
        color_range=int(picture.color_range),
        colorspace=int(picture.colorspace),
        color_primaries=int(picture.color_primaries),
        color_trc=int(picture.color_trc),
        has_hdr_metadata=bool(_HDR.intersection(_side_data(picture))),
    )


def display_matrix_of(picture: av.VideoFrame) -> tuple[int, ...] | None:
    """FFmpeg's matrix of nine, row by row, by which players turn a decoded picture; None where it stays as it is."""
    matrix = _side_data(picture).get(SideDataType.DISPLAYMATRIX)
    return None if matrix is None else struct.unpack("=9i", matrix)


def tagged_duration_s(stream: Stream) -> Fraction | None:
    """Seconds by Matroska's statistics tag, such as "00:00:10.040000000"; None without one."""
    try:
        hours, minutes, seconds = _tag(stream, "DURATION").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except ValueError:
        return None


def _tagged_count(stream: Stream) -> int | None:
    count = _tag(stream, "NUMBER_OF_FRAMES")
    return int(count) if count.isdecimal() else None


def _tag(stream: Stream, name: str) -> str:
    """A statistics tag, whose name may carry a language, as in "DURATION-eng"; empty without one."""
    return next((value for key, value in stream.metadata.items() if key.partition("-")[0] == name), "")


def _side_data(picture: av.VideoFrame) -> dict[SideDataType, bytes]:
    """Read past `picture.side_data`, which the picture keeps and which keeps the picture: none would be freed at once.

    Empty where PyAV cannot list it: it does not know every kind that FFmpeg has.
    """
    container: Any = SideDataContainer  # PyAV's stub has it as a dictionary
    try:
        return {data.type: bytes(data) for data in container(picture)}
    except ValueError:
        return {}
