"""Opens video files, and reads the properties of the video from the container and its streams."""

import struct
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from polypstream.errors import PolypstreamError, SourceError
from polypstream.realtime.video.device import pixel_format_of
from polypstream.realtime.video.dicom import DicomVideo, read_dicom
from polypstream.realtime.video.timelines import WRAP_S, WRAPPING_FORMATS

_SUPPORTED = "MP4, MOV, MKV, AVI, MPG, TS or another format that FFmpeg reads"
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "idf", "adf"})
"""FFmpeg demuxers that render text files as ANSI art."""
_FILE_HEADERS = {
    "flv": b"FLV\x01",
    "asf": bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    "matroska": bytes.fromhex("1a45dfa3"),
}
"""Signatures at the start of files, for formats in which FFmpeg ignores an appended file."""
_BLOCK_BYTES = 1 << 20
_DICOM_BUFFER_BYTES = 1 << 18


def open_video(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    """Open a file for reading.

    Args:
        path: An existing video file, or a DICOM object with video; never interpreted as a URL.
        hardware: What decodes it, as far as it can; not for DICOM objects.

    Returns:
        The open container, which the caller closes.

    Raises:
        SourceError: The file is missing, empty, unreadable, or not a video.
        MissingExtraError: The file is a DICOM object, and pydicom is not installed.
    """
    if path.is_dir():
        raise SourceError(f"{path} is a folder, not a video; name the video files inside it")
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path} is empty (0 bytes); copy the recording again from its source")
        if (dicom := read_dicom(path)) is not None:
            return _open_dicom(dicom)
        container = _opened(path, hardware)
    except PolypstreamError:
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
        raise SourceError(f"{path} is a text file, not a video; give {_SUPPORTED}")
    return container


def _opened(path: Path, hardware: HWAccel | None) -> InputContainer:
    """Open a file, without hardware where that fails."""
    try:
        # without "file:", a colon in a name would be parsed as a protocol; metadata may have any encoding
        return av.open(f"file:{path}", "r", metadata_errors="surrogateescape", hwaccel=hardware)
    except av.FFmpegError:
        if hardware is None:
            raise
        return _opened(path, None)


def stated_length_s(path: Path) -> float | None:
    """Duration in seconds that a file states, without decoding; None where it states none. Raises as `open_video`."""
    with open_video(path) as container:
        if container.duration:
            return container.duration / av.time_base
    dicom = read_dicom(path)
    return float(dicom.frames / dicom.rate) if dicom and dicom.frames and dicom.rate else None


def _open_dicom(dicom: DicomVideo) -> InputContainer:
    """The stream in a DICOM object; where it states no times, its frames follow each other at the header's rate."""
    options = {} if dicom.rate is None else {"framerate": str(dicom.rate)}
    try:
        return av.open(
            dicom.open(),
            "r",
            format=dicom.format,
            metadata_errors="surrogateescape",
            container_options=options,
            buffer_size=_DICOM_BUFFER_BYTES,
        )
    except av.FFmpegError as error:
        reason = "it is cut off" if dicom.is_cut_off else error.strerror
        raise SourceError(
            f"the video in {dicom.path} cannot be read ({reason}); export it again from the archive"
        ) from None


def _unreadable(path: Path, error: av.FFmpegError) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free"}:
        return (
            f"{path} is an MP4 or MOV file without a usable index: recording or copying was interrupted; "
            "copy it again, or repair it, for example with untrunc"
        )
    return f"{path} is not a video ({error.strerror}); give {_SUPPORTED}"


def main_video(container: InputContainer, path: Path) -> VideoStream:
    """Return the stream to decode: a video, not the cover image of an audio file.

    Raises:
        SourceError: There is no video, or FFmpeg has no decoder for it.
    """
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        found = ", ".join(sorted({s.type for s in container.streams})) or "no"
        raise SourceError(f"{path} contains no video ({found} streams only); give a file with a video stream")
    if not (decodable := [stream for stream in videos if stream.codec_context is not None]):
        raise SourceError(f"the video in {path} has a codec that FFmpeg cannot decode; convert it to H.264 first")
    best = container.streams.best("video")
    return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])


def appended_file_at(path: Path, format_name: str, *, after: int) -> int | None:
    """Byte position, from `after` on, of an appended file of the same format, which FFmpeg ignores; else None."""
    header = next((header for name, header in _FILE_HEADERS.items() if name in format_name), None)
    if header is None:
        return None
    with path.open("rb") as file:
        file.seek(after)
        position, kept = after, b""
        while block := file.read(_BLOCK_BYTES):
            if (at := (kept + block).find(header)) >= 0:
                return position - len(kept) + at
            position, kept = position + len(block), block[-len(header) + 1 :]
    return None


def is_chapter_text(stream: Stream) -> bool:
    """Whether a stream only contains chapter titles, which are read as chapters."""
    return stream.type == "data" and stream.discard == Discard.all


_HDR = frozenset({SideDataType.MASTERING_DISPLAY_METADATA, SideDataType.CONTENT_LIGHT_LEVEL})


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Properties of a video stream, as stated by the file and confirmed by the first decoded frame.

    The color tags are FFmpeg's numbers, see `color`.
    """

    path: Path
    codec: str
    width: int
    height: int
    pixel_format: str
    time_base: Fraction
    """Seconds per tick."""
    average_rate: Fraction | None
    """Frames per second."""
    frame_count: int | None
    """Number of frames stated by the container; None if it states none."""
    duration_s: float | None
    """Seconds from `start_offset_s`."""
    sample_aspect_ratio: Fraction
    """Width over height of a pixel; 1 if not stated."""
    rotation: int
    """Degrees by which players rotate the frames counterclockwise; frames are delivered as coded."""
    display_matrix: tuple[int, ...] | None
    """FFmpeg's 3x3 matrix, row by row, of which `rotation` is the angle."""
    is_interlaced: bool
    color_range: int
    colorspace: int
    color_primaries: int
    color_trc: int
    has_hdr_metadata: bool
    """Whether the stream has HDR metadata: mastering display or light levels."""
    start_offset_s: float = 0.0
    """Start time in seconds on the file's clock; it is subtracted from all times, so that they start at 0.

    0 for files whose times already start near 0.
    """


def video_info(
    path: Path,
    container: InputContainer,
    stream: VideoStream,
    frame: av.VideoFrame,
    *,
    start_s: Fraction,
    dicom: DicomVideo | None = None,
) -> VideoInfo:
    """Combine the properties of container, stream and first decoded frame; `start_s` is subtracted from times."""
    assert stream.time_base is not None
    duration = stream.duration * stream.time_base if stream.duration else None
    frame_count = stream.frames or _tagged_count(stream)
    if dicom is not None and dicom.frames and not frame_count:
        frame_count = dicom.frames
        duration = duration or (dicom.frames / dicom.rate if dicom.rate else None)
    if duration is None and container.duration:
        duration = Fraction(container.duration, av.time_base)
    if duration is not None and duration > start_s > 0 and states_end(container):
        duration -= start_s
    offset_s = start_s
    if offset_s < 0 and WRAPPING_FORMATS.intersection(container.format.name.split(",")):
        offset_s += WRAP_S  # FFmpeg unwraps the clock such that times before the wrap are negative
    return VideoInfo(
        path=path,
        codec=stream.codec_context.codec.canonical_name,
        width=frame.width,
        height=frame.height,
        pixel_format=pixel_format_of(frame),
        time_base=stream.time_base,
        average_rate=stated_rate(container, stream),
        frame_count=frame_count,
        duration_s=None if duration is None else float(duration),
        sample_aspect_ratio=aspect_ratio_of(stream, dicom),
        rotation=frame.rotation,
        display_matrix=display_matrix_of(frame),
        is_interlaced=frame.interlaced_frame,
        color_range=int(frame.color_range),
        colorspace=int(frame.colorspace),
        color_primaries=int(frame.color_primaries),
        color_trc=int(frame.color_trc),
        has_hdr_metadata=bool(_HDR.intersection(_side_data(frame))),
        start_offset_s=float(offset_s),
    )


def stated_rate(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Frames per second; FFmpeg does not take them from the header of MPEG-2 video that is in no container."""
    coded = stream.codec_context.framerate if container.format.name == "mpegvideo" else None
    return coded or stream.average_rate or stream.guessed_rate or None


def aspect_ratio_of(stream: VideoStream, dicom: DicomVideo | None) -> Fraction:
    """Width over height of a pixel: as the stream states it, else as a DICOM header does; 1 where neither does."""
    stated = dicom.sample_aspect_ratio if dicom is not None else None
    return stream.sample_aspect_ratio or stated or Fraction(1)


def states_end(container: InputContainer) -> bool:
    """Whether the stated duration of a container is its end time, even if it starts late."""
    return any(name in container.format.name for name in ("matroska", "asf", "nut"))


def display_matrix_of(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Display matrix of a decoded frame, FFmpeg's 3x3 values row by row; None if there is none."""
    matrix = _side_data(frame).get(SideDataType.DISPLAYMATRIX)
    return None if matrix is None else struct.unpack("=9i", matrix)


def tagged_duration_s(stream: Stream) -> Fraction | None:
    """End in seconds according to Matroska's statistics tag, such as "00:00:10.040000000"; None without one."""
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


def _side_data(frame: av.VideoFrame) -> dict[SideDataType, bytes]:
    """A frame's side data; empty if PyAV does not know a type in it.

    `frame.side_data` is avoided: its reference cycle would keep each frame until the next garbage collection.
    """
    container: Any = SideDataContainer  # a dictionary according to PyAV's stub
    try:
        return {data.type: bytes(data) for data in container(frame)}
    except ValueError:
        return {}
