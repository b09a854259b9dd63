"""The decoded frame, which passes through every pipeline."""

from dataclasses import dataclass, field
from fractions import Fraction
from time import monotonic

import av
import numpy as np

from polypstream.arrays import Rgb
from polypstream.realtime.video.resize import ScreenScaler


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame, unchanged from the decoder."""

    index: int
    """Index: number of frames delivered before this one."""
    picture: av.VideoFrame
    """Coded pixels, not rotated; the decoder may still reference it: make it writable before drawing."""
    time_base: Fraction
    """Seconds per tick."""
    captured_at: float = field(default_factory=monotonic)
    """Time at which the frame left the source, in seconds on the monotonic clock."""
    sample_aspect_ratio: Fraction = Fraction(1)
    """Width over height of a displayed pixel; may change between frames."""
    display_matrix: tuple[int, ...] | None = None
    """Display matrix of a live source: FFmpeg's 3x3 values, row by row."""

    @property
    def image(self) -> Rgb:
        """The coded frame as a new uint8 RGB array (H, W, 3), full range, converted by its matrix and range."""
        scaler = ScreenScaler(pixel_format="rgb24")
        picture = scaler.scale(self.picture, (self.picture.width, self.picture.height))
        return np.asarray(picture.to_ndarray(), dtype=np.uint8)

    @property
    def pts(self) -> int:
        """Presentation time in units of `time_base`."""
        pts = self.picture.pts
        assert pts is not None  # every source sets it
        return pts

    @property
    def pts_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height of the frame scaled to square pixels, with the height unchanged."""
        return max(1, round(self.picture.width * self.sample_aspect_ratio)), self.picture.height
