"""Reads the upright frames of a labeled video, and their times, by which exports are matched."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polypstream.arrays import Rgb
from polypstream.realtime.annotate.formats.recording import rotation_by
from polypstream.realtime.annotate.summary import is_constant_rate
from polypstream.realtime.video.reader import VideoReader


@dataclass(frozen=True, kw_only=True)
class VideoFrames:
    """Properties of a video that are needed to match labels to its frames."""

    path: Path
    size: tuple[int, int]
    """Width and height of an upright frame in pixels."""
    times_s: tuple[float, ...]
    """Presentation time of each frame in seconds."""
    is_constant_rate: bool

    @classmethod
    def of(cls, path: Path) -> "VideoFrames":
        """Decode a video once to count its frames. Raises `SourceError` if it cannot be read."""
        with VideoReader(path) as reader:
            frames = [(frame.pts, frame.pts_s) for frame in reader.frames()]
            rotation = rotation_by(reader.info.rotation)
            return cls(
                path=path,
                size=rotation.size(reader.info.width, reader.info.height),
                times_s=tuple(at for _, at in frames),
                is_constant_rate=is_constant_rate([pts for pts, _ in frames]),
            )


def upright_frames(path: Path) -> Iterator[tuple[int, Rgb]]:
    """Yield index and image of every frame, uint8 RGB (H, W, 3), with the display rotation applied."""
    with VideoReader(path) as reader:
        rotation = rotation_by(reader.info.rotation)
        for frame in reader.frames():
            yield frame.index, np.ascontiguousarray(rotation.image(frame.image))
