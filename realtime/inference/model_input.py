"""The network's input: the whole frame or a crop to its content area, and placing the result back into the frame.

The frame is scaled once, to the size at which the crop has exactly the size of the network's input. The crop is thus
not rescaled, and its probability map is copied pixel by pixel into a map of the scaled frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from polypstream.arrays import Mask, Probability, Rgb, Size
from polypstream.content import Crop, CropRule, content_area, crop_of_area
from polypstream.realtime.outlines.content_area import ModelInput, within_content

TOLERANCE = 0.02
"""Tolerance for equal edges, as a fraction of the frame."""
GROW_AFTER = 3
"""Number of consecutive frames with a larger area before the crop grows."""
SHRINK_AFTER = 50
"""Number of consecutive frames with a smaller area before it shrinks: unlike the border, dark mucosa at the edge is
transient."""
LEAST_SIDE = 0.25
"""Smallest side of the crop, as a fraction of the frame; limits the size that frames are scaled to."""


class FixedSizeModel(Protocol):
    """A model with a fixed input size: a `Segmenter`, or a network during training."""

    @property
    def height(self) -> int:
        """Height of its input in pixels."""
        ...

    @property
    def width(self) -> int:
        """Width of its input in pixels."""
        ...

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        ...


def segment_input(segmenter: FixedSizeModel, image: ModelInput) -> Probability:
    """Run inference on the crop of a frame, and place the result back.

    Returns:
        Float32 (H, W) as `image.rgb`; zero outside the crop.

    Raises:
        BackendError: Inference failed.
    """
    height, width = image.rgb.shape[:2]
    probability = segment_part(segmenter, image)
    if probability.shape == (height, width):
        return probability
    return image.shown.placed(probability, height=height, width=width)


def segment_part(segmenter: FixedSizeModel, image: ModelInput) -> Probability:
    """Run inference on the crop of a frame.

    Returns:
        Float32 (h, w) of the crop `image.shown`.

    Raises:
        BackendError: Inference failed.
    """
    return segmenter.segment(np.ascontiguousarray(image.shown.of(image.rgb)))


@dataclass(frozen=True, kw_only=True)
class _Edges:
    """A rectangle in relative coordinates of the frame."""

    top: float
    bottom: float
    left: float
    right: float

    @property
    def values(self) -> tuple[float, float, float, float]:
        return self.top, self.bottom, self.left, self.right

    def is_like(self, other: "_Edges") -> bool:
        return all(abs(a - b) <= TOLERANCE for a, b in zip(self.values, other.values, strict=True))

    def shows_more_than(self, other: "_Edges") -> bool:
        return (
            min(self.top - other.top, self.left - other.left) < -TOLERANCE
            or max(self.bottom - other.bottom, self.right - other.right) > TOLERANCE
        )


_WHOLE = _Edges(top=0, bottom=1, left=0, right=1)


class SteadyEdges:
    """The content area's bounding box over time: that of the first frame, until another one persists."""

    def __init__(self) -> None:
        self._used: _Edges | None = None
        self._other: _Edges | None = None
        self._lasted = 0

    @property
    def is_known(self) -> bool:
        """Whether a frame has been added."""
        return self._used is not None

    @property
    def used(self) -> tuple[float, float, float, float]:
        """Top, bottom, left and right in relative coordinates; the whole frame before the first one."""
        return (self._used or _WHOLE).values

    def see(self, area: Mask) -> None:
        """Add a frame, given as its content area, bool (H, W) of any size."""
        seen = _edges_of(area)
        if self._used is None:
            self._used = seen
            return
        if seen.is_like(self._used):
            self._other, self._lasted = None, 0
            return
        if self._other is None or not seen.is_like(self._other):
            self._other, self._lasted = seen, 0
        self._lasted += 1
        if self._lasted >= (GROW_AFTER if seen.shows_more_than(self._used) else SHRINK_AFTER):
            self._used, self._other, self._lasted = seen, None, 0


def _edges_of(area: Mask) -> _Edges:
    height, width = area.shape
    box = crop_of_area(area)
    top, bottom = _at_least(box.top / height, box.bottom / height)
    left, right = _at_least(box.left / width, box.right / width)
    edges = _Edges(top=top, bottom=bottom, left=left, right=right)
    return _WHOLE if edges.is_like(_WHOLE) else edges


def _at_least(low: float, high: float) -> tuple[float, float]:
    """Widen an interval within [0, 1] to at least `LEAST_SIDE`."""
    missing = max(0.0, LEAST_SIDE - (high - low))
    low = min(max(0.0, low - missing / 2), 1 - LEAST_SIDE) if missing else low
    return low, max(high, low + LEAST_SIDE) if missing else high


class ModelInputs:
    """Creates the network's inputs from the frames of one video, in order. Not thread-safe."""

    def __init__(self, *, height: int, width: int, crop: CropRule) -> None:
        self._height, self._width, self._crop = height, width, crop
        self._edges = SteadyEdges()

    def see(self, rgb: Rgb) -> None:
        """Find the content area of the first frame, given as uint8 RGB (H, W, 3) of any size."""
        if self._crop != "none":
            self._edges.see(content_area(rgb))

    def of(self, scale: Callable[[Size], Rgb]) -> ModelInput:
        """Create the input for one frame.

        Args:
            scale: Returns the whole frame, scaled to a width and height in pixels, as uint8 RGB (H, W, 3).
        """
        if self._crop == "none":
            rgb = scale((self._width, self._height))
            return ModelInput(rgb)
        if not self._edges.is_known:
            self._edges.see(content_area(scale((self._width, self._height))))
        top, bottom, left, right = self._edges.used
        height, width = round(self._height / (bottom - top)), round(self._width / (right - left))
        y = min(round(top * height), height - self._height)
        x = min(round(left * width), width - self._width)
        image = ModelInput(scale((width, height)), Crop(top=y, bottom=y + self._height, left=x, right=x + self._width))
        self._edges.see(image.content)
        return image


def probability_of_still(segmenter: FixedSizeModel, rgb: Rgb, *, crop: CropRule) -> Probability:
    """Probability of a single image, treated as the first frame of a video.

    Args:
        segmenter: The network.
        rgb: uint8 RGB (H, W, 3) of any size.
        crop: Part of the image that the network receives.

    Returns:
        Float32 (h, w), zero outside the content area: the network's size without a crop; with one, the size at which
        the crop has the network's size.
    """
    inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=crop)
    inputs.see(rgb)
    made = inputs.of(lambda size: np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8))
    return within_content(segment_input(segmenter, made), made.content)
