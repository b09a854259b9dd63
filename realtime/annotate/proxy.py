"""Proxy: a constant-rate, seekable copy of a video for annotation tools, with the frame numbers of the records."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import PictureType

from polypstream.files import atomic_path, write_error
from polypstream.realtime.video.encoding import Encoding, FrameConverter, add_video_stream, working_format
from polypstream.realtime.video.reader import VideoReader

KEYFRAME_INTERVAL = 12
"""Distance of key frames, short enough for fast seeking."""
_ENCODING = Encoding(codec="h264", quality=18, preset="veryfast")


def proxy_rate(rate: Fraction, *, is_constant_rate: bool) -> Fraction:
    """Frame rate of a proxy: that of the video, or the nearest integer if it varies."""
    return rate if is_constant_rate else Fraction(max(round(rate), 1))


def write_proxy(video: Path, path: Path, *, rate: Fraction, on_frame: Callable[[int], None] | None = None) -> None:
    """Write every decodable frame, in order, at a constant rate from 0 s, without sound.

    H.264 in MP4 without B-frames, with a key frame every `KEYFRAME_INTERVAL` frames and the index at the start.
    Size, rotation and sample aspect ratio are those of the video.

    Args:
        video: The video that was annotated.
        path: File to write, `.mp4`.
        rate: Frames per second.
        on_frame: Called with the number of frames written.

    Raises:
        SourceError: The video cannot be read.
        OutputError: The proxy cannot be written.
    """
    with VideoReader(video) as source, atomic_path(path) as unfinished:
        info = replace(source.info, average_rate=rate, time_base=1 / rate, is_interlaced=False)
        encoder = _ENCODING.encoder
        pixel_format = working_format("yuv420p", encoder, info.width, info.height)
        converter = FrameConverter(info, pixel_format)
        try:
            with av.open(str(unfinished), "w", container_options={"movflags": "+faststart"}) as container:
                stream = add_video_stream(container, _ENCODING, info, pixel_format, has_aspect=True)
                stream.codec_context.gop_size, stream.codec_context.max_b_frames = KEYFRAME_INTERVAL, 0
                for frame in source.frames():
                    picture = converter.convert(frame.picture)
                    picture.pts, picture.time_base, picture.duration = frame.index, 1 / rate, 1
                    picture.pict_type = PictureType.NONE  # otherwise the encoder would copy the source's key frames
                    container.mux(stream.encode(picture))
                    if on_frame is not None:
                        on_frame(frame.index + 1)
                container.mux(stream.encode(None))
        except av.FFmpegError as error:
            raise write_error(path, error) from error
