"""Content area: the part of the frame with the endoscope's image, without the dark border, text and insets.

Network outputs outside of it are meaningless, and an image that fills a small part of the frame loses detail when the
frame is scaled down to the network's input. The network may therefore receive only the bounding box of the content
area; its output is then placed back at the position of the box.
"""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Mask, Probability, Rgb

CropRule = Literal["none", "content"]
"""The part of an image that a network receives: all of it, or the bounding box of its content area."""

DARK = 24
"""Maximum level of all channels for a pixel of the border: black, with tolerance for compression noise."""
ENOUGH = 192
"""Larger sides are subsampled in integer steps to at most this many pixels: the edge of the area is then accurate to
one step, and each frame takes a millisecond less."""
LEAST_SHARE = 0.1
"""Minimum share of the frame; if the detected area is smaller, the whole frame is used."""


@dataclass(frozen=True, kw_only=True)
class Crop:
    """A rectangle of an image, in pixels: rows `top` to `bottom` and columns `left` to `right`, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int

    def __post_init__(self) -> None:
        if not (0 <= self.top < self.bottom and 0 <= self.left < self.right):
            raise ValueError(f"{self} is not a part of an image")

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return this part of an image or a mask, (H, W) or (H, W, C), as a view."""
        return image[self.top : self.bottom, self.left : self.right]

    def placed(self, probability: Probability, *, height: int, width: int) -> Probability:
        """Scale a map of this part, (h, w) of any size, bilinearly and place it in zeros of (height, width)."""
        if self.bottom > height or self.right > width:
            raise ValueError(f"{self} exceeds an image of {width}x{height}")
        if probability.shape != (self.height, self.width):
            size = (self.width, self.height)
            probability = np.asarray(cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR), np.float32)
        whole = np.zeros((height, width), np.float32)
        self.of(whole)[:] = probability
        return whole


def whole_image(*, height: int, width: int) -> Crop:
    """Return the rectangle of the whole image."""
    return Crop(top=0, bottom=height, left=0, right=width)


def crop_of(rgb: Rgb, rule: CropRule) -> Crop:
    """Return the part of an image, uint8 RGB (H, W, 3), that a network with this rule receives."""
    if rule == "none":
        return whole_image(height=rgb.shape[0], width=rgb.shape[1])
    return crop_of_area(content_area(rgb))


def crop_of_area(area: Mask) -> Crop:
    """Return the bounding box of a content area, bool (H, W); the whole image if the area is empty."""
    left, top, width, height = cv2.boundingRect(area.view(np.uint8))
    if not width:
        return whole_image(height=area.shape[0], width=area.shape[1])
    return Crop(top=top, bottom=top + height, left=left, right=left + width)


def content_area(rgb: Rgb) -> Mask:
    """Find the content area: the convex hull of the largest bright region.

    Endoscopes show a circle, an octagon or a rectangle, all convex, so a dark lumen inside is part of the area. If
    there is no such region, as on a black frame, the whole frame is used.

    Args:
        rgb: uint8 RGB (H, W, 3).

    Returns:
        The content area, bool (H, W).
    """
    step = max(1, -(-max(rgb.shape[:2]) // ENOUGH))
    red, green, blue = (rgb[::step, ::step, channel] for channel in range(3))
    bright = (np.maximum(np.maximum(red, green), blue) > DARK).view(np.uint8)
    outlines, hierarchy = cv2.findContours(bright, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    area = np.ones(rgb.shape[:2], np.bool_)
    if not outlines:
        return area
    sizes, around = np.array([cv2.contourArea(each) for each in outlines]), np.asarray(hierarchy, np.intp)[0, :, 3]
    is_hole = around >= 0
    np.subtract.at(sizes, around[is_hole], sizes[is_hole])
    sizes[is_hole] = 0
    if sizes.max() < LEAST_SHARE * bright.size:
        return area
    ends = step * cv2.convexHull(outlines[int(sizes.argmax())])
    hull = cv2.convexHull(np.concatenate((ends, ends + step - 1)))  # the first and last pixel of each step
    return cv2.fillConvexPoly(np.zeros(rgb.shape[:2], np.uint8), hull, 1).view(np.bool_)
