"""Judging a model: per-image scores on image–mask pairs, and detection on a clip whose frames have masks.

Whatever size the network works at, everything here is measured in source pixels: the probability map is scaled
bilinearly to the mask's size and only then held against the threshold. Needs neither TensorFlow nor Keras.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError, DatasetError
from polypstream.metrics import Interval, Overlap, mean_with_interval
from polypstream.train.clip import Rgb, labelled_frames, mask_files
from polypstream.train.data import Pair, read_pair

Probability = NDArray[np.float32]
Predict = Callable[[Rgb], Probability]
"""From uint8 RGB (H, W, 3) of any size to float32 probability of polyp (h, w), at that size or any other."""
Advance = Callable[[int, int], None]
"""Is told how many pictures of how many are done."""


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """One image's scores, all in [0, 1]."""

    dataset: str
    image: str
    dice: float
    iou: float
    class_mean_iou: float
    precision: float
    recall: float
    polyp_pixels: int
    """Of the true mask."""


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """Means over a data set's images, with 95% bootstrap intervals over images."""

    dataset: str
    dice: Interval
    iou: Interval
    class_mean_iou: Interval
    precision: Interval
    recall: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of every image at one threshold."""

    threshold: float
    images: tuple[ImageScore, ...]

    @property
    def datasets(self) -> tuple[DatasetScore, ...]:
        """One row per data set, in the order in which they were given."""
        names = dict.fromkeys(score.dataset for score in self.images)
        return tuple(_dataset_score(name, [s for s in self.images if s.dataset == name]) for name in names)


@dataclass(frozen=True, kw_only=True)
class FrameScore:
    """One frame of a clip. Two empty masks score 1."""

    frame: int
    dice: float
    polyp_pixels: int
    predicted_pixels: int
    common_pixels: int


@dataclass(frozen=True, kw_only=True)
class VideoEvaluation:
    """How a model does on a clip, at one threshold."""

    threshold: float
    frames: tuple[FrameScore, ...]

    @property
    def polyp_frames(self) -> tuple[FrameScore, ...]:
        """Those whose mask shows a polyp."""
        return tuple(frame for frame in self.frames if frame.polyp_pixels)

    @property
    def clean_frames(self) -> tuple[FrameScore, ...]:
        """Those whose mask is empty."""
        return tuple(frame for frame in self.frames if not frame.polyp_pixels)

    @property
    def dice(self) -> Interval | None:
        """Mean over the polyp frames; None where there are none. Neighbours are alike: the interval is too narrow."""
        return mean_with_interval([frame.dice for frame in self.polyp_frames]) if self.polyp_frames else None

    @property
    def sensitivity(self) -> float | None:
        """Share of the polyp frames in which the prediction touches the polyp; None where there are none."""
        return _share([frame.common_pixels > 0 for frame in self.polyp_frames])

    @property
    def false_alarm_rate(self) -> float | None:
        """Share of the clean frames in which anything is predicted; None where there are none."""
        return _share([frame.predicted_pixels > 0 for frame in self.clean_frames])


def evaluate_pairs(
    predict: Predict, pairs: Sequence[Pair], threshold: float, *, advance: Advance | None = None
) -> Evaluation:
    """Score every pair, in source pixels. A pixel whose probability reaches `threshold` is polyp.

    Raises `DatasetError` listing every pair that cannot be read; from the first such pair on nothing is predicted.
    """
    _check_threshold(threshold)
    if not pairs:
        raise DatasetError("there are no images to evaluate; check the data folders and the split")
    scores, problems = [], []
    for done, pair in enumerate(pairs, start=1):
        try:
            rgb, truth = read_pair(pair)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if not problems:
            scores.append(_image_score(pair, truth, mask_at(truth.shape, predict(rgb), threshold)))
        if advance is not None:
            advance(done, len(pairs))
    if problems:
        raise DatasetError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {'; '.join(problems)}")
    return Evaluation(threshold=threshold, images=tuple(scores))


def evaluate_video(
    predict: Predict, clip: Path, masks: Path, threshold: float, *, advance: Advance | None = None
) -> VideoEvaluation:
    """Score every frame of a clip against its mask; which that is, and what is raised: see `labelled_frames`."""
    _check_threshold(threshold)
    count = len(mask_files(masks))
    scores = []
    for index, (rgb, truth) in enumerate(labelled_frames(clip, masks)):
        scores.append(_frame_score(index, truth, mask_at(truth.shape, predict(rgb), threshold)))
        if advance is not None:
            advance(index + 1, count)
    return VideoEvaluation(threshold=threshold, frames=tuple(scores))


def mask_at(shape: tuple[int, ...], probability: Probability, threshold: float) -> NDArray[np.bool_]:
    """Scale a probability map bilinearly to `shape` (H, W), then hold it against the threshold."""
    if probability.shape != shape:
        height, width = shape
        probability = np.asarray(cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray(probability >= threshold)


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ConfigError(f"the threshold is {threshold}; it must lie between 0 and 1")


def _image_score(pair: Pair, truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> ImageScore:
    overlap = Overlap.of(truth, prediction)
    return ImageScore(
        dataset=pair.dataset,
        image=pair.image.name,
        dice=overlap.dice,
        iou=overlap.iou,
        class_mean_iou=overlap.class_mean_iou,
        precision=overlap.precision,
        recall=overlap.recall,
        polyp_pixels=int(np.count_nonzero(truth)),
    )


def _dataset_score(name: str, scores: Sequence[ImageScore]) -> DatasetScore:
    return DatasetScore(
        dataset=name,
        dice=mean_with_interval([score.dice for score in scores]),
        iou=mean_with_interval([score.iou for score in scores]),
        class_mean_iou=mean_with_interval([score.class_mean_iou for score in scores]),
        precision=mean_with_interval([score.precision for score in scores]),
        recall=mean_with_interval([score.recall for score in scores]),
    )


def _frame_score(index: int, truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> FrameScore:
    overlap = Overlap.of(truth, prediction)
    return FrameScore(
        frame=index,
        dice=overlap.dice,
        polyp_pixels=int(np.count_nonzero(truth)),
        predicted_pixels=int(np.count_nonzero(prediction)),
        common_pixels=overlap.true_positive,
    )


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
