"""Evaluation of a model on image-mask pairs and on labeled videos, and of records against labels.

All measures are in source pixels, independent of the input size of the network: the probability map is scaled
bilinearly to the mask's size before the threshold is applied; regions that never reach `min_peak` are removed before
that. Needs neither TensorFlow nor Keras.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.errors import ConfigError, DatasetError
from polypstream.evaluation.imports.folders import check_masks
from polypstream.evaluation.imports.read import LabelOptions
from polypstream.evaluation.imports.video import VideoFrames, upright_frames
from polypstream.evaluation.true_colon import Collector, scored_boxes
from polypstream.evaluation.video import Region, VideoEvaluation, VideoScorer, regions_of
from polypstream.metrics import Interval, Overlap, mean_with_interval
from polypstream.realtime.annotate.formats.recording import open_recording
from polypstream.realtime.outlines.contours import mask_from_polyps, without_weak_regions
from polypstream.train.data import Pair, PairReader

Predict = Callable[[Rgb], Probability]
"""From uint8 RGB (H, W, 3) of any size to float32 probability of polyp (h, w), of any size."""
ProgressCallback = Callable[[int, int], None]
"""Called with the number of images done and the number of all images."""


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
    """Area of the true mask in pixels."""


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """Means over a data set's images, with 95% bootstrap intervals over images."""

    dataset: str
    with_polyp: int
    """Number of images with a polyp. Images without one score 1 if nothing is predicted, else 0."""
    dice: Interval
    iou: Interval
    class_mean_iou: Interval
    precision: Interval
    recall: Interval


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The scores of every image at one threshold and minimum peak."""

    threshold: float
    min_peak: float
    images: tuple[ImageScore, ...]

    @property
    def datasets(self) -> tuple[DatasetScore, ...]:
        """One row per data set, in the given order."""
        names = dict.fromkeys(score.dataset for score in self.images)
        return tuple(_dataset_score(name, [s for s in self.images if s.dataset == name]) for name in names)


def evaluate_pairs(
    predict: Predict,
    pairs: Sequence[Pair],
    threshold: float,
    *,
    min_peak: float = 0.0,
    advance: ProgressCallback | None = None,
) -> Evaluation:
    """Score a model on image-mask pairs, in source pixels.

    Args:
        predict: The model.
        pairs: Image-mask pairs, as `pairs_from_folders` finds them.
        threshold: Probability from which a pixel is polyp, between 0 and 1.
        min_peak: Probability that a region must reach somewhere.
        advance: Called after each pair.

    Returns:
        The scores of every image.

    Raises:
        ConfigError: The threshold or `min_peak` is out of range.
        DatasetError: There are no pairs, or some cannot be read; the message lists all of them. Prediction
            stops at the first.
    """
    _check_threshold(threshold, min_peak)
    if not pairs:
        raise DatasetError("there are no images to evaluate; check the data folders and the split")
    scores, problems, reader = [], [], PairReader()
    for done, pair in enumerate(pairs, start=1):
        try:
            rgb, truth = reader.read(pair)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if not problems:
            scores.append(_image_score(pair, truth, mask_at(truth.shape, predict(rgb), threshold, min_peak)))
        if advance is not None:
            advance(done, len(pairs))
    if problems:
        raise DatasetError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {'; '.join(problems)}")
    if reader.problems:
        raise DatasetError("; ".join(reader.problems))
    return Evaluation(threshold=threshold, min_peak=min_peak, images=tuple(scores))


def evaluate_video(
    predict: Predict,
    clip: Path,
    labels: Path,
    threshold: float,
    *,
    min_peak: float = 0.0,
    options: LabelOptions | None = None,
    advance: ProgressCallback | None = None,
    true_colon: Collector | None = None,
) -> VideoEvaluation:
    """Score a model on the labeled frames of a video, in source pixels.

    Args:
        predict: The model.
        clip: Video file. Frames are rotated as players show them.
        labels: A folder of masks, `00000.png` for the first frame, or an export that `LabelOptions.open` reads.
        threshold: Probability from which a pixel is polyp, between 0 and 1.
        min_peak: Probability that a region must reach somewhere.
        options: How the labels are read.
        advance: Called after each frame.
        true_colon: Collects boxes for the TRUE-Colon protocol.

    Returns:
        The scores of every labeled frame and polyp, and the burden of false alarms.

    Raises:
        ConfigError: The threshold or `min_peak` is out of range.
        SourceError: The clip cannot be read.
        DatasetError: Frames and labels do not match, or a label cannot be read.
    """
    _check_threshold(threshold, min_peak)
    options = options or LabelOptions()
    frames = VideoFrames.of(clip)
    if options.are_complete:
        check_masks(labels, frames=len(frames.times_s), size=frames.size, mask_values=options.mask_values)
    with options.open(labels, video=clip.name, size=frames.size, times_s=frames.times_s) as truth:
        scorer = VideoScorer(truth, frames.size)
        for index, rgb in upright_frames(clip):
            if truth.is_labeled(index):
                at_s = frames.times_s[index]
                probability = predict(rgb)
                actual = scorer.truth(index, at_s, rgb)
                mask = mask_at(rgb.shape[:2], probability, threshold, min_peak)
                scorer.add(index, at_s, actual, regions_of(mask))
                if true_colon is not None:
                    true_colon.add(index, actual, scored_boxes(probability, rgb.shape[:2]), video=clip.stem)
            if advance is not None:
                advance(index + 1, len(frames.times_s))
        return scorer.result(threshold, min_peak)


def evaluate_records(
    records: Path,
    labels: Path,
    *,
    options: LabelOptions | None = None,
    advance: ProgressCallback | None = None,
) -> VideoEvaluation:
    """Score the records of an annotated video against labels, such as their own corrected export.

    Args:
        records: `<name>_polyps.jsonl`, with its summary next to it.
        labels: A folder of masks, or an export that `LabelOptions.open` reads.
        options: How the labels are read.
        advance: Called after each frame.

    Returns:
        The scores of every labeled frame and polyp, and the burden of false alarms.

    Raises:
        DatasetError: The records cannot be read, or the labels belong to another video.
    """
    recording, options = open_recording(records), options or LabelOptions()
    width, height = recording.size
    times_s = recording.times_s.tolist()
    video = recording.summary.video.name
    with options.open(labels, video=video, size=(width, height), times_s=times_s) as truth:
        scorer = VideoScorer(truth, (width, height))
        for frame in recording.frames():
            if truth.is_labeled(frame.index):
                predicted = [
                    Region(
                        mask=mask_from_polyps([each.polyp], width=width, height=height),
                        identity=None if each.track is None else str(each.track),
                    )
                    for each in frame.polyps
                ]
                actual = scorer.truth(frame.index, frame.pts_s)
                scorer.add(frame.index, frame.pts_s, actual, predicted)
            if advance is not None:
                advance(frame.index + 1, len(times_s))
        return scorer.result(recording.summary.threshold, recording.summary.min_peak)


def mask_at(
    shape: tuple[int, ...], probability: Probability, threshold: float, min_peak: float = 0.0
) -> NDArray[np.bool_]:
    """Remove weak regions, scale the probability map bilinearly to `shape` (H, W), and apply the threshold."""
    probability = without_weak_regions(probability, threshold=threshold, min_peak=min_peak)
    if probability.shape != shape:
        height, width = shape
        probability = np.asarray(cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return np.asarray(probability >= threshold)


def _check_threshold(threshold: float, min_peak: float) -> None:
    if not 0 < threshold < 1:
        raise ConfigError(f"the threshold is {threshold}; it must be between 0 and 1")
    if not 0 <= min_peak < 1:
        raise ConfigError(f"min_peak is {min_peak}; it must be from 0 to below 1")


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
        with_polyp=sum(score.polyp_pixels > 0 for score in scores),
        dice=mean_with_interval([score.dice for score in scores]),
        iou=mean_with_interval([score.iou for score in scores]),
        class_mean_iou=mean_with_interval([score.class_mean_iou for score in scores]),
        precision=mean_with_interval([score.precision for score in scores]),
        recall=mean_with_interval([score.recall for score in scores]),
    )
