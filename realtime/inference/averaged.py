"""Accurate mode: each image is inferred several times, mirrored and scaled, and the probabilities are averaged."""

from collections.abc import Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.realtime.inference.base import ContractSize, checked_image

if TYPE_CHECKING:
    from polypstream.realtime.inference.segmenter import Segmenter

SCALES = (1.0, 0.75)
"""Sizes at which the network sees the image, relative to its input. Smaller ones are surrounded by a reflection."""
INFERENCES = 2 * len(SCALES)
"""Inferences per image: each scale, and its mirror image."""


class AveragedSegmenter(ContractSize):
    """A segmenter whose probability is the mean over `SCALES`, each with its mirror image: slower, more accurate.

    It offers no batches (`BatchSegmenter`), also where its segmenter does.

    Args:
        segmenter: The segmenter that infers; entered and left with this one.
    """

    def __init__(self, segmenter: "Segmenter") -> None:
        self.contract, self._segmenter = segmenter.contract, segmenter

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._segmenter.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Those of the segmenter."""
        return self._segmenter.notices

    def __enter__(self) -> Self:
        self._segmenter.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._segmenter.__exit__(kind, error, trace)

    def segment(self, rgb: Rgb) -> Probability:
        """Mean probability, float32 (height, width), of a uint8 RGB image (height, width, 3)."""
        image = checked_image(rgb, self.contract)
        total = np.zeros(image.shape[:2], np.float32)
        for scale in SCALES:
            view = _reduced(image, scale)
            mirrored = self._segmenter.segment(np.ascontiguousarray(view[:, ::-1]))
            both = self._segmenter.segment(view) + mirrored[:, ::-1]
            total += _restored(both, scale)
        return np.asarray(total / np.float32(INFERENCES), np.float32)

    def in_parallel(self) -> "Sequence[AveragedSegmenter]":
        """One for each segmenter that the backend runs side by side, the same each time."""
        return self._lanes

    @cached_property
    def _lanes(self) -> "Sequence[AveragedSegmenter]":
        several = self._segmenter.in_parallel()
        return (self,) if len(several) == 1 else [AveragedSegmenter(each) for each in several]


def _inner(shape: tuple[int, ...], scale: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of the reduced image, in the middle of one of the original size."""
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


def _reduced(image: Rgb, scale: float) -> Rgb:
    if scale == 1:
        return image
    top, left, height, width = _inner(image.shape, scale)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    bottom, right = image.shape[0] - height - top, image.shape[1] - width - left
    return np.asarray(cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_REFLECT_101), np.uint8)


def _restored(probability: Probability, scale: float) -> Probability:
    if scale == 1:
        return probability
    top, left, height, width = _inner(probability.shape, scale)
    part = probability[top : top + height, left : left + width]
    size = probability.shape[1], probability.shape[0]
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR), np.float32)
