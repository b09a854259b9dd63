"""What a synthetic clip is, and its frames: each can be made on its own, and the same clip gives the same bytes."""

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

SMALLEST_SIDE = 64
LARGEST_SIDE = 8192


@dataclass(frozen=True, kw_only=True)
class SyntheticClip:
    """A colonoscopy that exists only as numbers: sizes in pixels, fps in frames per second."""

    width: int = 640
    height: int = 480
    fps: int = 25
    seconds: float = 10.0
    seed: int = 0
    """Which colon, and how the endoscope moves through it."""
    polyps: bool = True
    """Without them the same colon is filmed in the same way, and every mask is empty."""
    counter: bool = False
    """Draws the frame's number as a bar code along the bottom, for `counter_from_rgb` to read."""

    def __post_init__(self) -> None:
        for name, side in (("width", self.width), ("height", self.height)):
            if side % 2 or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
                allowed = f"an even number from {SMALLEST_SIDE} to {LARGEST_SIDE}"
                raise ConfigError(f"synthetic clip {name} is {side}; use {allowed}")
        if not 1 <= self.fps <= 1000:
            raise ConfigError(f"synthetic clip fps is {self.fps}; use 1 to 1000 frames per second")
        if not 0 < self.seconds <= 86400 or self.frame_count < 1:
            raise ConfigError(f"synthetic clip seconds is {self.seconds}; use one frame (1 / fps) to a day (86400)")
        if self.seed < 0:
            raise ConfigError(f"synthetic clip seed is {self.seed}; use 0 or more")
        if self.counter and self.frame_count > 1 << COUNTER_BITS:
            limit = 1 << COUNTER_BITS
            raise ConfigError(
                f"synthetic clip has {self.frame_count} frames; its counter ends at {limit}, so shorten it"
            )

    @property
    def frame_count(self) -> int:
        """How many frames the clip has."""
        return round(self.seconds * self.fps)


@dataclass(frozen=True, kw_only=True)
class SyntheticFrame:
    """One frame and the truth about it."""

    index: int
    rgb: NDArray[np.uint8]
    """(H, W, 3)."""
    mask: NDArray[np.bool_]
    """(H, W), true on every visible pixel of a polyp."""


def frames_of(clip: SyntheticClip) -> Iterator[SyntheticFrame]:
    """All frames in order."""
    return (frame_at(clip, index) for index in range(clip.frame_count))


def frame_at(clip: SyntheticClip, index: int) -> SyntheticFrame:
    """One frame; ConfigError where the clip has none of that number."""
    if not 0 <= index < clip.frame_count:
        raise ConfigError(f"synthetic frame {index} does not exist; this clip has frames 0 to {clip.frame_count - 1}")
    scene = _scene(clip.width, clip.height, clip.seed, clip.polyps)
    rgb, mask = scene.frame(index, index / clip.fps)
    if clip.counter:
        draw_counter(rgb, index)
        mask[round(clip.height * (1 - COUNTER_SHARE)) :] = False
    return SyntheticFrame(index=index, rgb=rgb, mask=mask)


@lru_cache(maxsize=4)
def _scene(width: int, height: int, seed: int, polyps: bool) -> "Scene":
    from polypstream.synthetic.render import Scene

    return Scene(width, height, seed, polyps=polyps)
