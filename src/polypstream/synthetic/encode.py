"""Writes a synthetic clip as an H.264 MP4, under its final name only when it is complete."""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from polypstream.errors import SinkError
from polypstream.synthetic.clip import SyntheticClip, frames_of


def write_clip(path: Path, clip: SyntheticClip, *, on_frame: Callable[[int], None] | None = None) -> None:
    """Renders and encodes all frames: yuv420p, BT.709, limited range, hardly any loss.

    `on_frame` is told the number of frames written so far, after each. SinkError when the file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _encode(partial, clip, on_frame)
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SinkError(
            f"cannot write {path}: {reason}; choose a folder that exists, is writable and has room"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _encode(path: Path, clip: SyntheticClip, on_frame: Callable[[int], None] | None) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=clip.fps, options={"crf": "16", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        stream.time_base = Fraction(1, clip.fps)
        stream.color_range = ColorRange.MPEG
        stream.colorspace = Colorspace.ITU709
        stream.color_primaries = ColorPrimaries.BT709
        stream.color_trc = ColorTrc.BT709
        for frame in frames_of(clip):
            picture = _picture(frame.rgb)
            picture.pts, picture.time_base = frame.index, Fraction(1, clip.fps)
            container.mux(stream.encode(picture))
            if on_frame is not None:
                on_frame(frame.index + 1)
        container.mux(stream.encode(None))


def _picture(rgb: NDArray[np.uint8]) -> VideoFrame:
    """An RGB picture as yuv420p of the matrix and range that the stream declares."""
    return VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
    )
