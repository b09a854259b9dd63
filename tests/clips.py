"""Small video files of many kinds, written with PyAV, and a simple reader for comparing files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition

from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.writer import Encoding, VideoWriter

LOSSLESS_OPTIONS = {"libx264": {"qp": "0", "preset": "ultrafast"}, "libx265": {"x265-params": "log-level=none"}}


def picture(index: int, *, width: int, height: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    """An image with detail that moves with its index; all samples are within the range of the format."""
    frame = av.VideoFrame(width, height, pixel_format)
    bits = max(component.bits for component in frame.format.components)
    planes: Any = frame.planes
    for number, plane in enumerate(planes):
        wide = bits > 8 and not frame.format.is_rgb
        samples = np.frombuffer(plane, dtype=np.uint16 if wide else np.uint8).reshape(plane.height, -1)
        y, x = np.indices(samples.shape)
        pattern = (x * 3 + y * 5 + index * 7 + number * 40 + (x * y) % 13) % 220 + 16
        samples[:] = pattern << (bits - 8) if wide else pattern
    return frame


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Options of `make_clip`."""

    frames: int = 12
    width: int = 64
    height: int = 48
    pixel_format: str = "yuv420p"
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    time_base: Fraction = Fraction(1, 25)
    rate: int = 25
    pts: Sequence[int] | None = None
    last_duration: int | None = None
    sample_aspect_ratio: Fraction | None = None
    rotation: int = 0
    colors: tuple[int, int, int, int] = (0, 2, 2, 2)
    """Range, matrix, primaries, transfer."""
    is_interlaced: bool = False
    audio: str | None = None
    audio_start: int = 0
    """First audio sample's time in samples of 48 kHz."""
    subtitles: str | None = None
    second_video: bool = False
    cover: bool = False
    attachment: bool = False
    metadata: dict[str, str] = field(default_factory=dict)
    chapters: bool = False


def make_clip(path: Path, clip: Clip | None = None, **changes: Any) -> Path:
    """Write a clip; `changes` are fields of `Clip`."""
    clip = clip or Clip(**changes)
    container = av.open(str(path), "w", container_options=clip.container_options)
    video = _add_video(container, clip)
    audio = _add_audio(container, clip)
    subtitles = container.add_mux_stream(clip.subtitles) if clip.subtitles else None
    second = _add_video(container, Clip(options={"bf": "2"}, width=32, height=32)) if clip.second_video else None
    cover = container.add_stream("mjpeg", width=16, height=16, time_base=Fraction(1, 25)) if clip.cover else None
    if cover is not None:
        cover.pix_fmt = "yuvj420p"
        cover.disposition = Disposition.attached_pic
    if subtitles is not None:
        subtitles.time_base = Fraction(1, 1000)
        subtitles.metadata["language"] = "deu"
    if clip.attachment:
        container.add_attachment("note.txt", "text/plain", b"a note")
    container.metadata.update(clip.metadata)
    if clip.chapters:
        container.set_chapters(
            [
                {
                    "id": i,
                    "start": i * 200,
                    "end": i * 200 + 200,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": t},
                }
                for i, t in enumerate(("caecum", "rectum"))
            ]
        )
    container.start_encoding()
    if cover is not None:
        container.mux(cover.encode(_timed(picture(0, width=16, height=16, pixel_format="yuvj420p"), 0, clip)))
    if subtitles is not None:
        for i in range(3):
            packet = av.Packet(f"words {i}".encode())
            packet.pts = packet.dts = 100 * i
            packet.duration, packet.time_base, packet.stream = 80, Fraction(1, 1000), subtitles
            container.mux(packet)
    if audio is not None:
        container.mux([*_encoded_audio(audio, clip), *audio.encode(None)])
    times = clip.pts if clip.pts is not None else range(clip.frames)
    for index, pts in enumerate(times):
        made = picture(index, width=clip.width, height=clip.height, pixel_format=clip.pixel_format)
        following = times[index + 1] - pts if index + 1 < len(times) else clip.last_duration
        made.duration = following or 0
        container.mux(video.encode(_timed(made, pts, clip)))
        if second is not None:
            container.mux(second.encode(_timed(picture(index, width=32, height=32), pts, clip)))
    container.mux(video.encode(None))
    if second is not None:
        container.mux(second.encode(None))
    container.close()
    return path


def _timed(frame: av.VideoFrame, pts: int, clip: Clip) -> av.VideoFrame:
    frame.pts, frame.time_base = pts, clip.time_base
    return frame


def _add_video(container: Any, clip: Clip) -> Any:
    options = {**LOSSLESS_OPTIONS.get(clip.codec, {}), **clip.options}
    stream = container.add_stream(clip.codec, rate=clip.rate, options=options, time_base=clip.time_base)
    stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pixel_format
    context = stream.codec_context
    context.flags |= Flags.frame_duration
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = clip.colors
    if clip.sample_aspect_ratio is not None:
        context.sample_aspect_ratio = clip.sample_aspect_ratio
    if clip.is_interlaced:
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    if clip.rotation:
        stream.set_display_rotation(clip.rotation)
    stream.metadata["language"] = "und"
    return stream


def _add_audio(container: Any, clip: Clip) -> Any:
    if clip.audio is None:
        return None
    stream = container.add_stream(clip.audio, rate=48_000, layout="mono")
    stream.metadata.update({"language": "fra", "title": "theatre"})
    stream.disposition = Disposition.default
    return stream


def _encoded_audio(stream: Any, clip: Clip) -> list[Any]:
    packets: list[Any] = []
    sample_format = stream.codec_context.format.name
    for start in range(0, 24_000, 960):
        tone = np.sin(np.arange(start, start + 960) / 20)
        scaled = tone.astype(np.float32) if sample_format.startswith("flt") else (tone * 9000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(scaled[None], format=sample_format, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, start + clip.audio_start, Fraction(1, 48_000)
        packets += stream.encode(frame)
    return packets


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One frame as PyAV decodes it."""

    time: Fraction
    """Seconds."""
    duration: Fraction
    pixel_format: str
    planes: tuple[bytes, ...]
    """Samples of each plane without padding."""
    is_interlaced: bool
    rotation: int


def plane_bytes(frame: av.VideoFrame) -> tuple[bytes, ...]:
    """The samples of each plane, row by row, without padding."""
    planes = []
    depth = 2 if max(component.bits for component in frame.format.components) > 8 else 1
    interleaved = 2 if frame.format.name.startswith("nv") else 1
    memories: Any = frame.planes
    for number, plane in enumerate(memories):
        rows = np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, -1)
        planes.append(rows[:, : plane.width * depth * (interleaved if number else 1)].tobytes())
    return tuple(planes)


def read_video(path: Path) -> list[Shown]:
    """All frames of the first video stream."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        time_base = stream.time_base or Fraction(0)
        return [
            Shown(
                time=(frame.pts or 0) * time_base,
                duration=frame.duration * time_base,
                pixel_format=frame.format.name,
                planes=plane_bytes(frame),
                is_interlaced=frame.interlaced_frame,
                rotation=frame.rotation,
            )
            for frame in container.decode(stream)
        ]


def times_of(path: Path) -> list[Fraction]:
    """Presentation times of all frames in seconds."""
    return [shown.time for shown in read_video(path)]


def read_packets(path: Path, stream_index: int) -> list[tuple[Fraction, bytes]]:
    """Time in seconds and payload of every packet of a stream."""
    with av.open(str(path)) as container:
        stream = container.streams[stream_index]
        return [((p.pts or 0) * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def rewritten(source: Path, target: Path, **encoding: Any) -> VideoWriter:
    """Pass a whole file through `VideoReader` and `VideoWriter`, undrawn; returns the finished writer."""
    encoding = {"preset": "ultrafast", "quality": "lossless"} | encoding
    with VideoReader(source) as opened, VideoWriter(target, source=opened, encoding=Encoding(**encoding)) as writer:
        for item in opened:
            writer.write(item)
    return writer
