"""Calibration of probabilities: whether a fraction p of the pixels with probability p is polyp."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability

BINS = 10
LARGEST_LOGIT, LOGIT_BINS = 12.0, 480
TEMPERATURES = np.round(np.arange(0.4, 4.001, 0.02), 2)
"""Candidate temperatures."""


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The pixels with probabilities in [low, high); the last bin includes its upper end."""

    low: float
    high: float
    pixel_share: float
    """Fraction of all pixels, with equal weight for every frame regardless of its size."""
    mean_probability: float | None
    polyp_share: float | None
    """Fraction of these pixels that are polyp; None if there are none."""


class Reliability:
    """Accumulates pixels over frames, in source pixels."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))
        self._logits = np.zeros((2, LOGIT_BINS))
        self._frames = 0

    def add(self, probability: Probability, truth: NDArray[np.bool_]) -> None:
        """Add one frame: a map of any size, scaled bilinearly to its true mask, bool (H, W)."""
        height, width = truth.shape
        scaled = np.asarray(cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)
        index = np.minimum((scaled * BINS).astype(np.intp), BINS - 1).ravel()
        weights = (None, scaled.ravel(), truth.ravel().astype(np.float64))
        self._sums += [np.bincount(index, weights=each, minlength=BINS) / truth.size for each in weights]
        edge = 1 / (1 + np.exp(LARGEST_LOGIT))
        limited = np.clip(scaled.ravel(), edge, 1 - edge)
        place = (np.log(limited / (1 - limited)) / LARGEST_LOGIT + 1) / 2 * LOGIT_BINS
        place = np.clip(place.astype(np.intp), 0, LOGIT_BINS - 1)
        of_polyp = np.bincount(place, weights=weights[2], minlength=LOGIT_BINS)
        self._logits += np.stack([np.bincount(place, minlength=LOGIT_BINS) - of_polyp, of_polyp]) / truth.size
        self._frames += 1

    def temperature(self) -> float:
        """Find the temperature: the divisor of the logits that maximizes the likelihood of the pixels.

        Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
        """
        middles = (np.arange(LOGIT_BINS) + 0.5) / LOGIT_BINS * 2 * LARGEST_LOGIT - LARGEST_LOGIT
        scaled = middles / TEMPERATURES[:, None]
        losses = np.logaddexp(0, scaled) @ self._logits[0] + np.logaddexp(0, -scaled) @ self._logits[1]
        return float(TEMPERATURES[np.argmin(losses)])

    @property
    def bins(self) -> list[Bin]:
        """Return the reliability table."""
        rows = []
        for number, (pixels, probability, polyp) in enumerate(self._sums.T.tolist()):
            rows.append(
                Bin(
                    low=number / BINS,
                    high=(number + 1) / BINS,
                    pixel_share=pixels / max(1, self._frames),
                    mean_probability=probability / pixels if pixels else None,
                    polyp_share=polyp / pixels if pixels else None,
                )
            )
        return rows

    def expected_error(self, *, least: float = 0.0) -> float:
        """Compute the expected calibration error: mean |probability − polyp share| of the bins from `least` up."""
        first = round(least * BINS)
        pixels, probability, polyp = self._sums[:, first:]
        return float(np.abs(probability - polyp).sum() / pixels.sum()) if pixels.any() else 0.0
