"""The units that travel through the pipeline: a decoded frame, and the arrays made from it."""

from dataclasses import dataclass, field
from fractions import Fraction
from time import monotonic

import av
import numpy as np
from numpy.typing import NDArray

Rgb = NDArray[np.uint8]
"""uint8 RGB, (H, W, 3)."""
Probability = NDArray[np.float32]
"""float32 in [0, 1], (H, W): how likely each pixel is polyp."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One decoded picture, exactly as the decoder made it."""

    index: int
    """Position among the frames that the source delivered, from 0."""
    picture: av.VideoFrame
    """May still be a reference of the decoder: make it writable before drawing."""
    time_base: Fraction
    captured_at: float = field(default_factory=monotonic)
    """Monotonic seconds at which the frame left the source."""
    sample_aspect_ratio: Fraction = Fraction(1)
    """Width of a pixel on display by its height, as a live source states it."""
    display_matrix: tuple[int, ...] | None = None
    """How the picture is turned on display, as a live source states it: FFmpeg's matrix of nine, row by row."""

    @property
    def pts(self) -> int:
        """Presentation time in units of `time_base`."""
        pts = self.picture.pts
        assert pts is not None  # every source gives its frames a time
        return pts

    @property
    def pts_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)

    @property
    def square_size(self) -> tuple[int, int]:
        """Width and height of the whole picture where pixels are square: as high as it is, as wide as it is shown."""
        return max(1, round(self.picture.width * self.sample_aspect_ratio)), self.picture.height
