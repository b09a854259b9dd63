"""The TRUE-Colon protocol on a video: false alarms at a matched operating point, AFROC, time to detection.

Needs the package `true-colon` (extra `[evaluation]`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from polypstream.arrays import Mask, Probability
from polypstream.errors import MissingExtraError
from polypstream.evaluation.video import Region

TARGET_FPR = 0.045
"""Fraction of clean frames with an alarm at which the protocol compares detectors."""
LEVELS = (0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05, 0.02, 0.01, 0.001)
"""Thresholds at which regions are searched; the protocol also needs weak detections."""

_Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class TrueColon:
    """Measures of the protocol. Any overlap of boxes counts as a detection."""

    target_fpr: float
    matched_threshold: float
    """Lowest score at which the fraction of clean frames with an alarm is at most the target."""
    matched_fpr: float
    matched_tpr: float
    """Fraction of polyp frames that are detected at that score."""
    is_feasible: bool
    """Whether a score exists that comes close to the target."""
    detected_polyps: int
    polyps: int
    mean_latency_frames: float | None
    """Time from a polyp's first frame to its first detection, at the matched score."""
    afroc_area: float | None
    """Area under the curve of localized sensitivity against the false alarm rate; None without clean frames."""
    afroc: tuple[tuple[float, float, float], ...]
    """Points of the curve: score, fraction of clean frames with an alarm, fraction of polyps localized."""


class Collector:
    """Collects boxes, frame by frame."""

    def __init__(self) -> None:
        try:
            import true_colon  # noqa: F401 - fails here rather than after hours of inference
        except ModuleNotFoundError as error:
            raise MissingExtraError("the TRUE-Colon protocol", "evaluation") from error
        self._images: list[dict[str, Any]] = []
        self._truth: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, index: int, truth: Sequence[Region], found: Sequence[tuple[_Box, float]], *, video: str) -> None:
        """Add a labeled frame: its polyps, and boxes (left, top, width, height) with scores."""
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": f"{video}_{index:06d}.png"})
        for each in truth:
            left, top, width, height = box_of(each.mask)
            self._truth.append(
                {
                    "id": len(self._truth) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                    "unique_id": str(each.identity),
                }
            )
        self._found += [
            {"image_id": number, "category_id": 1, "bbox": list(box), "score": score} for box, score in found
        ]

    def result(self, *, fps: float, target_fpr: float = TARGET_FPR) -> TrueColon:
        """Evaluate all frames."""
        from true_colon import LesionConfig, create_evaluator

        data = {
            "images": self._images,
            "annotations": self._truth,
            "categories": [{"id": 1, "name": "polyp"}],
        }
        evaluator = create_evaluator(
            canonicalizer="stem_int_suffix",
            id_source="gt_integer",
            tiers=frozenset({"frame", "afroc", *(["lesion"] if self._truth else [])}),
            lesion=LesionConfig(fps=fps),
        )
        matched = evaluator.match_operating_point(data, self._found, target_fpr=target_fpr)
        at_matched = replace(evaluator, config=replace(evaluator.config, conf=matched.threshold))
        result = at_matched.evaluate(data, self._found)
        curve, lesions = result.afroc, None if result.lesion is None else result.lesion.summary
        assert curve is not None
        points = tuple(zip(curve.conf_thresholds, curve.fpf, curve.tpr_loc, strict=True))
        return TrueColon(
            target_fpr=target_fpr,
            matched_threshold=matched.threshold,
            matched_fpr=matched.achieved_fpr,
            matched_tpr=matched.achieved_tpr,
            is_feasible=matched.feasible,
            detected_polyps=0 if lesions is None else lesions.detected_any,
            polyps=0 if lesions is None else lesions.n_lesions,
            mean_latency_frames=None if lesions is None else lesions.mean_latency_frames,
            afroc_area=_area([(fpf, tpr) for _, fpf, tpr in points]) if curve.n_neg_images else None,
            afroc=points,
        )


def scored_boxes(probability: Probability, shape: tuple[int, ...]) -> list[tuple[_Box, float]]:
    """Boxes of regions in a frame of `shape` (H, W), with their peak probability, at all of `LEVELS`.

    A region at a lower level is added only if it contains no region of a higher level.
    """
    rows, columns = probability.shape
    scale = np.array([shape[1] / columns, shape[0] / rows] * 2)
    taken = np.zeros(probability.shape, np.bool_)
    found: list[tuple[_Box, float]] = []
    for level in LEVELS:
        mask = probability >= level
        if not mask.any():
            continue
        count, numbers, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
        known = set(np.unique(numbers[taken]).tolist())
        for number in range(1, count):
            if number not in known:
                left, top, width, height = (statistics[number, :4] * scale).tolist()
                found.append(((left, top, width, height), float(probability[numbers == number].max())))
        taken |= mask
    return found


def box_of(mask: Mask) -> _Box:
    """Left, top, width and height of a nonempty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )


def _area(points: Sequence[tuple[float, float]]) -> float:
    """Area under a curve from (0, 0) to (1, its last value)."""
    x, y = np.array(sorted([(0.0, 0.0), *points])).T
    return float(np.trapezoid([*y, y.max()], [*x, 1.0]))
