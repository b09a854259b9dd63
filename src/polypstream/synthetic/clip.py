"""Synthetic clips: deterministic frames with known masks, and their encoding as an H.264 MP4."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.synthetic.counter import COUNTER_BITS, COUNTER_SHARE, draw_counter

if TYPE_CHECKING:
    from polypstream.synthetic.render import Scene
import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from polypstream.errors import OutputError

SMALLEST_SIDE = 64
LARGEST_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class SyntheticClip:
    """A synthetic colonoscopy, rendered on demand: sizes in pixels, fps in frames per second.

    Raises:
        ConfigError: A value is out of range.
    """

    width: int = 640
    height: int = 480
    fps: int = 25
    seconds: float = 10.0
    seed: int = 0
    """Selects the colon and the movement of the endoscope."""
    polyps: bool = True
    """False renders the same colon and movement without polyps; all masks are empty."""
    counter: bool = False
    """Draw the frame number as a bar code along the bottom, for `counter_from_rgb`."""

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side % 2 or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                allowed = f"an even number from {SMALLEST_SIDE} to {LARGEST_SIDE}"
                raise ConfigError(f"synthetic clip {name} is {side}; use {allowed}")
        if not 1 <= self.fps <= 1000:
            raise ConfigError(f"synthetic clip fps is {self.fps}; use 1 to 1000 frames per second")
        if not 0 < self.seconds <= 86400 or self.frame_count < 1:
            raise ConfigError(f"synthetic clip seconds is {self.seconds}; use one frame (1 / fps) to one day (86400)")
        if self.seed < 0:
            raise ConfigError(f"synthetic clip seed is {self.seed}; use 0 or more")
        if self.counter and self.frame_count > 1 << COUNTER_BITS:
            limit = 1 << COUNTER_BITS
            raise ConfigError(
                f"synthetic clip has {self.frame_count} frames, but its counter ends at {limit}; use a shorter clip"
            )

    @property
    def frame_count(self) -> int:
        """Number of frames of the clip."""
        return round(self.seconds * self.fps)


@dataclass(frozen=True, kw_only=True)
class SyntheticFrame:
    """One frame and its ground truth."""

    index: int
    rgb: NDArray[np.uint8]
    """uint8 RGB (H, W, 3)."""
    mask: NDArray[np.bool_]
    """bool (H, W), True on every visible pixel of a polyp."""
    identities: NDArray[np.uint8]
    """uint8 (H, W), which polyp it is, from 1, the same in every frame; 0 where there is none."""


def frames_of(clip: SyntheticClip) -> Iterator[SyntheticFrame]:
    """Render all frames in order."""
    return (frame_at(clip, index) for index in range(clip.frame_count))


def frame_at(clip: SyntheticClip, index: int) -> SyntheticFrame:
    """Render one frame; raises `ConfigError` if the clip has no frame of that index."""
    if not 0 <= index < clip.frame_count:
        raise ConfigError(f"synthetic frame {index} does not exist; this clip has frames 0 to {clip.frame_count - 1}")
    scene = _scene(clip.width, clip.height, clip.seed, clip.polyps)
    rgb, mask, identities = scene.frame(index, index / clip.fps)
    if clip.counter:
        draw_counter(rgb, index)
        mask[round(clip.height * (1 - COUNTER_SHARE)) :] = False
    return SyntheticFrame(index=index, rgb=rgb, mask=mask, identities=identities * mask)


@lru_cache(maxsize=4)
def _scene(width: int, height: int, seed: int, polyps: bool) -> "Scene":
    from polypstream.synthetic.render import Scene

    return Scene(width, height, seed, polyps=polyps)


def write_clip(path: Path, clip: SyntheticClip, *, on_frame: Callable[[int], None] | None = None) -> None:
    """Render all frames and encode them with almost no loss: H.264, yuv420p, BT.709, limited range.

    Args:
        path: MP4 file to write.
        clip: The clip.
        on_frame: Called after each frame with the number of frames written.

    Raises:
        OutputError: The file cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        _encode(partial, clip, on_frame)
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot write {path}: {reason}; choose an existing, writable folder with enough free space"
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
            image = _image(frame.rgb)
            image.pts, image.time_base = frame.index, Fraction(1, clip.fps)
            container.mux(stream.encode(image))
            if on_frame is not None:
                on_frame(frame.index + 1)
        container.mux(stream.encode(None))


def _image(rgb: NDArray[np.uint8]) -> VideoFrame:
    """Convert an RGB image to yuv420p with the matrix and range that the stream declares."""
    return VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
    )
