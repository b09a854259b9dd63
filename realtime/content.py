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
    coarse = np.ascontiguousarray(rgb[::step, ::step])
    brightest = np.asarray(cv2.reduce(coarse.reshape(-1, 3), 1, cv2.REDUCE_MAX)).reshape(coarse.shape[:2])
    bright = (brightest > DARK).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
    areas = stats[1:, cv2.CC_STAT_AREA]
    if not len(areas) or areas.max() < LEAST_SHARE * bright.size:
        return np.ones(rgb.shape[:2], dtype=np.bool_)
    region = labels == 1 + int(areas.argmax())
    rows = np.flatnonzero(region.any(axis=1))
    left, right = region[rows].argmax(axis=1), region.shape[1] - 1 - region[rows, ::-1].argmax(axis=1)
    ends = np.column_stack((np.concatenate((left, right)), np.concatenate((rows, rows))))
    ends = np.concatenate((step * ends, step * ends + step - 1))  # a step's first pixel, and its last
    hull = cv2.convexHull(ends.astype(np.int32))  # of each row's ends: the hull of all of it
    return np.asarray(cv2.fillConvexPoly(np.zeros(rgb.shape[:2], np.uint8), hull, 1), dtype=np.bool_)


def within_content(probability: Probability, rgb: Rgb) -> Probability:
    """The map with zero outside the content area of the picture it was made from; both of one size (H, W)."""
    return np.where(content_area(rgb), probability, np.float32(0))
