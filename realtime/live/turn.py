"""How a picture is laid down to be upright, and its markers with it, by the display matrix that its source states."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.contours import Polyp, polyp_from_contour
from polypstream.realtime.frame import Frame

_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}
"""OpenCV's codes, by whether left and right are swapped and whether up and down are."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One of the eight ways to lay a picture down: columns may become rows, then left and right, up and down swap.

    Pictures travel as they were coded, and markers in coded pixels; whoever shows them to a person turns both.
    """

    swaps_axes: bool = False
    swaps_left_right: bool = False
    swaps_up_down: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Upright width and height of what is `width` × `height` as coded, or the other way round."""
        return (height, width) if self.swaps_axes else (width, height)

    def image(self, image: NDArray[Any]) -> NDArray[np.uint8]:
        """A coded picture, uint8 (H, W, 3), upright."""
        turned = cv2.transpose(image) if self.swaps_axes else image
        flip = _FLIPS.get((self.swaps_left_right, self.swaps_up_down))
        return np.asarray(turned if flip is None else cv2.flip(turned, flip), dtype=np.uint8)

    def contour(self, contour: NDArray[np.float32], *, width: int, height: int) -> NDArray[np.float32]:
        """A contour (n, 2) on a coded picture of `width` × `height`, on the upright one."""
        points = contour[:, ::-1] if self.swaps_axes else contour
        opposite = np.array(self.size(width, height), dtype=np.float32) - points
        return np.where((self.swaps_left_right, self.swaps_up_down), opposite, points)

    def polyp(self, polyp: Polyp, *, width: int, height: int) -> Polyp:
        """A polyp on a coded picture of `width` × `height`, on the upright one."""
        contour = self.contour(polyp.contour, width=width, height=height)
        return polyp_from_contour(contour, mean_probability=polyp.mean_probability)


def turn_of(frame: Frame) -> Turn:
    """How a frame is laid down; an angle in between is taken for the nearest quarter turn, as FFmpeg's matrix has it.

    The matrix takes column x, row y to column a·x + c·y, row b·x + d·y.
    """
    if frame.display_matrix is None:
        return Turn()
    a, b, _, c, d, *_ = frame.display_matrix
    swaps_axes = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swaps_axes else (a, d)
    return Turn(swaps_axes=swaps_axes, swaps_left_right=across < 0, swaps_up_down=down < 0)
