"""Segmentation metrics: per-image Dice and IoU, and their means with bootstrap intervals.

Masks are bool (H, W). If mask and prediction are both empty, the score is 1; if only one is, it is 0. The main result
is the mean over images. The class-mean IoU averages polyp and background, as publications around 2019 did.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from polypstream.arrays import Mask


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Pixel counts of one image, from which all scores are computed."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, truth: Mask, prediction: Mask) -> "Overlap":
        """Compare two masks.

        Args:
            truth: The annotated mask, bool (H, W).
            prediction: The predicted mask, bool (H, W).

        Returns:
            The pixel counts.

        Raises:
            ValueError: The shapes differ.
            TypeError: A mask is not bool.
        """
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
        """|A ∩ B| / |A ∪ B| of the polyp."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)

    @property
    def class_mean_iou(self) -> float:
        """Mean of the IoU of the polyp and that of the background."""
        background = _ratio(self.true_negative, self.true_negative + self.false_positive + self.false_negative)
        return (self.iou + background) / 2

    @property
    def precision(self) -> float:
        """Share of the predicted pixels that are polyp; if none were predicted, 1 if there is no polyp, else 0."""
        empty = self.true_positive + self.false_positive == 0
        return (
            float(self.false_negative == 0)
            if empty
            else _ratio(self.true_positive, self.true_positive + self.false_positive)
        )

    @property
    def recall(self) -> float:
        """Share of the polyp's pixels that were predicted; 1 if there is no polyp."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Mean over images with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def mean_with_interval(values: ArrayLike, *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Compute the mean of per-image scores and its percentile bootstrap interval over images.

    Args:
        values: One score per image, at least one.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.

    Returns:
        The mean with its 95% interval.

    Raises:
        ValueError: `values` is empty or not one-dimensional.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or scores.size == 0:
        raise ValueError(f"received scores of shape {scores.shape}; give a list of one number per image")
    rng = np.random.default_rng(seed)
    means = scores[rng.integers(0, scores.size, size=(resamples, scores.size))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean=float(scores.mean()), low=float(low), high=float(high), count=int(scores.size))


def mean_dice(truths: Sequence[Mask], predictions: Sequence[Mask]) -> float:
    """Compute the mean per-image Dice of two equally long sequences of bool masks (H, W)."""
    return float(np.mean([Overlap.of(t, p).dice for t, p in zip(truths, predictions, strict=True)]))
