"""The content area of a frame: probabilities outside it, in the dark border, text and insets, are set to zero.

This module is separate because inference, annotation and live feeds share it."""

from threading import Lock

import cv2
import numpy as np

from polypstream.arrays import Mask, Probability, Rgb
from polypstream.content import Crop, content_area, whole_image


def within_content(probability: Probability, content: Mask) -> Probability:
    """Return the probability map with zeros outside the content area; both (H, W)."""
    within = cv2.copyTo(probability, content.view(np.uint8))  # takes a quarter of the time of np.where
    return np.asarray(within, np.float32)


class ModelInput:
    """A scaled frame, the crop that the network receives, and its content area.

    The area is computed once, by the first thread that needs it.
    """

    def __init__(self, rgb: Rgb, shown: Crop | None = None) -> None:
        self.rgb = rgb
        """The whole scaled frame, uint8 RGB (height, width, 3)."""
        self.shown = shown or whole_image(height=rgb.shape[0], width=rgb.shape[1])
        """The crop, of the network's size; by default the whole frame."""
        self._lock = Lock()
        self._content: Mask | None = None

    @property
    def content(self) -> Mask:
        """Content area: bool (height, width)."""
        with self._lock:
            if self._content is None:
                self._content = content_area(self.rgb)
            return self._content
