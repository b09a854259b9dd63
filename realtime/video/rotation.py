"""Rotation of frames and markers for display, by the display matrix of the source."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Bgr, Contour
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour
from polypstream.realtime.video.frame import Frame

_FLIPS = {(True, False): 1, (False, True): 0, (True, True): -1}
"""OpenCV's flip codes by (horizontal flip, vertical flip)."""


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """One of the eight orientations of a frame: an optional transposition, followed by flips.

    Frames are passed on as coded, and markers in coded pixels; every viewer rotates both.
    """

    swaps_axes: bool = False
    swaps_left_right: bool = False
    swaps_up_down: bool = False

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Upright width and height of a coded size; also the coded size of an upright one."""
        return (height, width) if self.swaps_axes else (width, height)

    def image(self, image: NDArray[Any]) -> Bgr:
        """Rotate a coded image, uint8 (H, W, 3), upright."""
        transposed = cv2.transpose(image) if self.swaps_axes else image
        flip = _FLIPS.get((self.swaps_left_right, self.swaps_up_down))
        return np.asarray(transposed if flip is None else cv2.flip(transposed, flip), dtype=np.uint8)

    def contour(self, contour: Contour, *, width: int, height: int) -> Contour:
        """Transform a contour on a coded frame of `width` × `height` pixels to the upright frame."""
        points = contour[:, ::-1] if self.swaps_axes else contour
        opposite = np.array(self.size(width, height), dtype=np.float32) - points
        return np.where((self.swaps_left_right, self.swaps_up_down), opposite, points)

    def polyp(self, polyp: Polyp, *, width: int, height: int) -> Polyp:
        """Transform a polyp on a coded frame of `width` × `height` pixels to the upright frame."""
        contour = self.contour(polyp.contour, width=width, height=height)
        return polyp_from_contour(contour, score=polyp.score)


def rotation_of(frame: Frame) -> Rotation:
    """The rotation for display of a frame, by its display matrix; see `rotation_of_matrix`."""
    return rotation_of_matrix(frame.display_matrix)


def rotation_of_matrix(matrix: tuple[int, ...] | None) -> Rotation:
    """The rotation for display by FFmpeg's 3x3 matrix, row by row; angles are rounded to quarter turns.

    The matrix maps column x, row y to column a·x + c·y, row b·x + d·y.
    """
    if matrix is None:
        return Rotation()
    a, b, _, c, d, *_ = matrix
    swaps_axes = abs(b) + abs(c) > abs(a) + abs(d)
    across, down = (c, b) if swaps_axes else (a, d)
    return Rotation(swaps_axes=swaps_axes, swaps_left_right=across < 0, swaps_up_down=down < 0)
