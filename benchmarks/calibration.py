"""Whether a probability means what it says: of the pixels given p, the share p should be polyp."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.frame import Probability

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The pixels whose probability lies in [low, high), the last bin's upper end included."""

    low: float
    high: float
    pixel_share: float
    """Of all pixels; every frame weighs the same, whatever its size."""
    mean_probability: float | None
    polyp_share: float | None
    """How many of them are polyp; None where there are none."""


class Reliability:
    """Gathers pixels over frames, in source pixels."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, BINS))
        self._frames = 0

    def add(self, probability: Probability, truth: NDArray[np.bool_]) -> None:
        """One frame: a map of any size, scaled bilinearly to its true mask, bool (H, W)."""
        height, width = truth.shape
        scaled = np.asarray(cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR), np.float64)
        index = np.minimum((scaled * BINS).astype(np.intp), BINS - 1).ravel()
        weights = (None, scaled.ravel(), truth.ravel().astype(np.float64))
        self._sums += [np.bincount(index, weights=each, minlength=BINS) / truth.size for each in weights]
        self._frames += 1

    @property
    def bins(self) -> list[Bin]:
        """The table of reliability."""
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
        """Expected calibration error: mean |probability − polyp share| of the bins from `least` up, by pixels."""
        first = round(least * BINS)
        pixels, probability, polyp = self._sums[:, first:]
        return float(np.abs(probability - polyp).sum() / pixels.sum()) if pixels.any() else 0.0
