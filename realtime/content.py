"""Where in the frame the endoscope's picture is: inside the dark surround, without text and insets.

What a network says of the surround is never meaningful, so it is set to zero there.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.frame import Probability, Rgb

DARK = 24
"""A pixel none of whose channels exceeds this may belong to the surround: black, with room for the codec's noise."""
ENOUGH = 192
"""A longer side is looked at in steps of so many pixels that no more than this many are left: the area's edge is then
known to within a step, and every frame costs a millisecond less."""
LEAST_SHARE = 0.1
"""A smaller picture than this share of the frame is not believed; then the whole frame counts."""


def content_area(rgb: Rgb) -> NDArray[np.bool_]:
    """The convex hull of the largest bright region: bool (H, W) for uint8 RGB (H, W, 3).

    Endoscopes show a circle, an octagon or a rectangle, all convex, so a dark lumen within stays inside. A frame with
    no such region, a black one say, counts as a whole.
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
    hull = cv2.convexHull(np.concatenate((ends, ends + step - 1)))  # a step's first pixel, and its last
    return cv2.fillConvexPoly(np.zeros(rgb.shape[:2], np.uint8), hull, 1).view(np.bool_)


def within_content(probability: Probability, rgb: Rgb) -> Probability:
    """The map with zero outside the content area of the picture it was made from; both of one size (H, W)."""
    within = np.zeros_like(probability)
    np.copyto(within, probability, where=content_area(rgb))  # half the time of np.where
    return within
