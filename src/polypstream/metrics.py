"""Segmentation metrics: per-image Dice and IoU, and their means with bootstrap intervals.

Masks are bool, (H, W). An image whose mask and prediction are both empty scores 1; one empty and one not scores 0.
The mean over images is the headline. The class-mean IoU averages polyp and background, as the 2019 literature did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Pixel counts of one image from which every score follows."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, truth: Mask, prediction: Mask) -> "Overlap":
        """Compare two bool masks of the same shape (H, W)."""
        if truth.shape != prediction.shape:
            raise ValueError(f"the masks differ in shape: truth {truth.shape}, prediction {prediction.shape}")
        if truth.dtype != np.bool_ or prediction.dtype != np.bool_:
            raise TypeError(f"masks must be bool: truth is {truth.dtype}, prediction {prediction.dtype}")
        both = int(np.count_nonzero(truth & prediction))
        predicted, actual = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
        return cls(
            true_positive=both,
            false_positive=predicted - both,
            false_negative=actual - both,
            true_negative=truth.size - predicted - actual + both,
        )

    @property
    def dice(self) -> float:
        """2 |A ∩ B| / (|A| + |B|)."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """|A ∩ B| / |A ∪ B|, of the polyp."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def class_mean_iou(self) -> float:
        """Mean of the polyp's IoU and the background's."""
        background = _ratio(self.true_negative, self.true_negative + self.false_positive + self.false_negative)
        return (self.iou + background) / 2

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that are polyp; with none predicted, 1 if there was nothing to find."""
        empty = self.true_positive + self.false_positive == 0
        return (
            float(self.false_negative == 0)
            if empty
            else _ratio(self.true_positive, self.true_positive + self.false_positive)
        )

    @property
    def recall(self) -> float:
        """Share of the polyp's pixels that were predicted."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over images with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_with_interval(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean of a sequence of per-image scores and the percentile bootstrap interval over images."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"received scores of shape {scores.shape}; give one number per image, at least one")
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, scores.size, size=(resamples, scores.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean=float(scores.mean()), low=float(low), high=float(high), count=int(scores.size))


def mean_dice(truths: Sequence[Mask], predictions: Sequence[Mask]) -> float:
    """Mean per-image Dice of two equally long sequences of bool masks."""
    return float(np.mean([Overlap.of(t, p).dice for t, p in zip(truths, predictions, strict=True)]))
