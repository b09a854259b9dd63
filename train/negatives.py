"""Polyp-free images made from images with a polyp, by covering it with mucosa from elsewhere in the same image.

Images are uint8 RGB (H, W, 3), masks uint8 0 or 1 (H, W).
"""

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

LARGEST_SHARE = 0.15
"""Largest covered area, as a fraction of the image; beyond it too little mucosa is left to cover the polyp with."""
MARGIN = 0.15
"""Margin around the outline, as a fraction of the polyp's size, for shadows and inexact outlines."""
LEAST_MARGIN = 6
"""Smallest margin in pixels: seamless cloning in OpenCV keeps old gradients up to three pixels inside the outline."""
DARK = 40
"""Lower bound on the brightest channel of nearly every pixel of the mucosa used."""
PLACES = 64
"""Number of random positions tried."""


def without_polyp(rgb: Image, mask: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Return a copy with the polyp covered, or the pair unchanged if there is no polyp or no suitable mucosa."""
    if not mask.any() or mask.mean() > LARGEST_SHARE:
        return rgb, mask
    covered = _covered(mask)
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    place = _place(rgb, covered, bottom - top, right - left, rng)
    if place is None:
        return rgb, mask
    y, x = place
    patch = np.ascontiguousarray(rgb[y : y + bottom - top, x : x + right - left])
    shape = np.ascontiguousarray(covered[top:bottom, left:right]) * np.uint8(255)
    return _cloned(patch, rgb, shape, top=int(top), left=int(left)), np.zeros_like(mask)


def _covered(mask: Image) -> Image:
    reach = max(LEAST_MARGIN, round(MARGIN * float(np.sqrt(mask.sum()))))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(mask, kernel), np.uint8)


def _place(rgb: Image, covered: Image, height: int, width: int, rng: np.random.Generator) -> tuple[int, int] | None:
    """Upper left corner of the brightest polyp-free region of that size among the positions tried."""
    rows, columns = covered.shape[0] - height, covered.shape[1] - width
    if rows < 1 or columns < 1:
        return None
    dark = (rgb.max(axis=2) < DARK).astype(np.uint8)
    polyp_sums, dark_sums = (np.asarray(cv2.integral(each), np.int32) for each in (covered, dark))
    best, least = None, 0.05 * height * width
    for _ in range(PLACES):
        y, x = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
        if _sum(polyp_sums, y, x, height, width):
            continue
        darkness = _sum(dark_sums, y, x, height, width)
        if darkness == 0:
            return y, x
        if darkness < least:
            best, least = (y, x), darkness
    return best


def _sum(sums: NDArray[np.int32], y: int, x: int, height: int, width: int) -> int:
    return int(sums[y + height, x + width] - sums[y, x + width] - sums[y + height, x] + sums[y, x])


def _cloned(patch: Image, rgb: Image, shape: Image, *, top: int, left: int) -> Image:
    """The image with the detail of the patch inside `shape`, (h, w) 0 or 255, and its own colors along the seam."""
    edge = 2
    height, width = shape.shape
    filled = rgb.copy()  # at the image's edge, the seam has no surrounding colors to match
    filled[top : top + height, left : left + width][shape > 0] = patch[shape > 0]
    padded = cv2.copyMakeBorder(filled, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    detail = cv2.copyMakeBorder(patch, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
    within = cv2.copyMakeBorder(shape, edge, edge, edge, edge, cv2.BORDER_CONSTANT)
    height, width = within.shape
    center = left + width // 2, top + height // 2
    cloned = cv2.seamlessClone(detail, padded, within, center, cv2.NORMAL_CLONE)
    return np.ascontiguousarray(cloned[edge:-edge, edge:-edge], np.uint8)
