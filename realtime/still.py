"""One picture of any size through the same steps as a frame of video."""

import cv2
import numpy as np

from polypstream.realtime.content import within_content
from polypstream.realtime.frame import Probability, Rgb
from polypstream.realtime.segmenter import Segmenter


def probability_of_still(segmenter: Segmenter, rgb: Rgb) -> Probability:
    """Probability (height, width), at the network's size, of a uint8 RGB picture (H, W, 3) of any size."""
    size = (segmenter.width, segmenter.height)
    small = np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return within_content(segmenter.segment(small), small)
