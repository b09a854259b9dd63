"""One picture of any size through the same steps as a frame of video."""

from typing import Protocol

import cv2
import numpy as np

from polypstream.realtime.content import within_content
from polypstream.realtime.frame import Probability, Rgb


class OfOneSize(Protocol):
    """What answers to pictures of one size: a `Segmenter`, or a network that is still being trained."""

    @property
    def height(self) -> int:
        """Rows of the picture it takes."""
        ...

    @property
    def width(self) -> int:
        """Columns of the picture it takes."""
        ...

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3)."""
        ...


def probability_of_still(segmenter: OfOneSize, rgb: Rgb) -> Probability:
    """Probability (height, width), at the network's size, of a uint8 RGB picture (H, W, 3) of any size."""
    size = (segmenter.width, segmenter.height)
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return within_content(segmenter.segment(small), small)
