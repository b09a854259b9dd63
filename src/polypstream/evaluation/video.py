"""Scores of predictions on a video: per frame, per polyp, and false alarms."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from statistics import median

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Mask, Rgb
from polypstream.contract import MIN_AREA_SHARE
from polypstream.evaluation.imports.labels import Labels
from polypstream.metrics import Interval, Overlap, mean_with_interval
from polypstream.realtime.annotate.tracks import FrameScene, PolypTracker
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour

ALARM_AREA_SHARES = (0.0, 0.001, 0.005, 0.01, 0.05)
"""Minimum region sizes, as fractions of the frame, for which false alarms are counted."""
ALARM_RUNS = (1, 3, 5, 10, 25)
"""Minimum numbers of consecutive frames for which false alarms are counted."""
_STILL = FrameScene(np.zeros((8, 8, 3), np.uint8))
"""A scene too small for optical flow, with which labels are tracked by overlap alone."""
_SCENE_SIZE = (352, 352)


@dataclass(frozen=True, kw_only=True)
class Region:
    """One polyp in one frame, as labeled or as predicted."""

    mask: Mask
    """Bool (H, W)."""
    identity: str | None = None
    """Track id; None if there are no tracks."""


@dataclass(frozen=True, kw_only=True)
class FrameScore:
    """One labeled frame of a video. Two empty masks score 1."""

    frame: int
    pts_s: float
    """Presentation time in seconds."""
    dice: float
    iou: float
    polyp_pixels: int
    predicted_pixels: int
    common_pixels: int
    largest_share: float
    """Area of the largest predicted region, as a fraction of the frame."""


@dataclass(frozen=True, kw_only=True)
class PolypScore:
    """Scores of one labeled polyp; it is detected in a frame if a prediction overlaps it."""

    polyp: str
    first_frame: int
    last_frame: int
    frames: int
    """Number of frames in which it is labeled."""
    detected_frames: int
    sensitivity: float
    """Fraction of its frames in which it is detected."""
    dice: float
    """Mean Dice over its frames, with the union of all overlapping predicted regions; 0 where there is none."""
    iou: float
    first_detected_frame: int | None
    latency_frames: int | None
    """Number of frames from its first one to the first detection; None if it is never detected."""
    latency_s: float | None
    persistence: float | None
    """Fraction of its frames from the first detection on in which it is detected."""
    flicker_per_s: float
    """Changes between detected and missed in consecutive frames, per second of labeled video."""
    longest_miss_frames: int
    """Longest run of frames without a detection after the first detection."""
    predicted_tracks: int | None
    """Number of predicted tracks that overlap it, ideally one; None if predictions have no tracks."""


@dataclass(frozen=True, kw_only=True)
class AlarmBurden:
    """False alarms of a minimum size and duration on labeled frames without a polyp."""

    min_area_share: float
    """Minimum area of a region, as a fraction of the frame."""
    min_frames: int
    """Minimum number of consecutive frames."""
    frame_share: float
    """Fraction of clean frames in such runs."""
    alarms_per_minute: float
    """Number of such runs per minute of clean video."""


@dataclass(frozen=True, kw_only=True)
class VideoEvaluation:
    """Scores of predictions on a video at one threshold and minimum peak."""

    threshold: float
    min_peak: float
    frames: tuple[FrameScore, ...]
    polyps: tuple[PolypScore, ...]
    alarms: tuple[AlarmBurden, ...]
    """One entry per combination of `ALARM_AREA_SHARES` and `ALARM_RUNS`; empty if no frame is clean."""
    is_boxes: bool = False
    """Whether polyps are labeled with boxes, which are then compared with the bounding boxes of predictions."""
    notices: tuple[str, ...] = ()

    @property
    def polyp_frames(self) -> tuple[FrameScore, ...]:
        """Frames with a polyp."""
        return tuple(frame for frame in self.frames if frame.polyp_pixels)

    @property
    def clean_frames(self) -> tuple[FrameScore, ...]:
        """Frames without a polyp."""
        return tuple(frame for frame in self.frames if not frame.polyp_pixels)

    @property
    def dice(self) -> Interval | None:
        """Mean over the polyp frames, or None. The interval is too narrow, as consecutive frames are correlated."""
        return mean_with_interval([frame.dice for frame in self.polyp_frames]) if self.polyp_frames else None

    @property
    def iou(self) -> Interval | None:
        """Mean over the polyp frames, or None; see `dice`."""
        return mean_with_interval([frame.iou for frame in self.polyp_frames]) if self.polyp_frames else None

    @property
    def sensitivity(self) -> float | None:
        """Fraction of polyp frames in which a prediction overlaps the polyp; None if there are none."""
        return _share([frame.common_pixels > 0 for frame in self.polyp_frames])

    @property
    def polyp_sensitivity(self) -> float | None:
        """Fraction of polyps that are detected in any frame; None if there are none."""
        return _share([polyp.detected_frames > 0 for polyp in self.polyps])

    @property
    def false_alarm_rate(self) -> float | None:
        """Fraction of clean frames with any prediction; None if there are none."""
        return _share([frame.predicted_pixels > 0 for frame in self.clean_frames])


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A labeled polyp in one frame, and the predictions that overlap it."""

    frame: int
    pts_s: float
    overlap: Overlap
    tracks: frozenset[str]

    @property
    def is_detected(self) -> bool:
        return self.overlap.true_positive > 0


class VideoScorer:
    """Collects the frames of a video, in order, and computes their scores.

    Args:
        labels: The truth.
        size: Width and height of the frames in pixels.
    """

    def __init__(self, labels: Labels, size: tuple[int, int]) -> None:
        self._labels, self._size = labels, size
        self._tracker = PolypTracker()
        self._frames: list[FrameScore] = []
        self._seen: dict[str, list[_Seen]] = {}
        self._is_boxes = self._has_tracks = False

    def truth(self, index: int, pts_s: float, rgb: Rgb | None = None) -> list[Region]:
        """The labeled polyps of a frame, each with a track id. Call it once per frame, in order.

        Args:
            index: Frame index.
            pts_s: Presentation time of the frame in seconds.
            rgb: The frame, uint8 RGB (H, W, 3); labels without track ids are then also tracked by optical flow.
        """
        width, height = self._size
        found = self._labels.masks(index, width=width, height=height)
        self._is_boxes |= any(shape.is_box for shape, _ in found)
        merged: dict[str, Mask] = {}
        loose: list[Mask] = []
        for shape, mask in found:
            if shape.track is None:
                loose += _components(mask)
            else:
                merged[shape.track] = merged.get(shape.track, np.zeros_like(mask)) | mask
        scene = _STILL if rgb is None else FrameScene(np.asarray(cv2.resize(rgb, _SCENE_SIZE), np.uint8))
        outlines = [_outline(mask) for mask in loose]
        ids = self._tracker.update(pts_s=pts_s, polyps=outlines, size=self._size, scene=scene)
        named = [*merged.items(), *((f"polyp {number}", mask) for mask, number in zip(loose, ids, strict=True))]
        return [Region(mask=mask, identity=name) for name, mask in named]

    def add(self, index: int, pts_s: float, truth: Sequence[Region], predicted: Sequence[Region]) -> None:
        """Score a labeled frame.

        Args:
            index: Frame index.
            pts_s: Presentation time of the frame in seconds.
            truth: Result of `truth` for the frame.
            predicted: The predicted polyps.
        """
        if self._is_boxes:
            predicted = [Region(mask=_filled_box(each.mask), identity=each.identity) for each in predicted]
        empty = np.zeros(self._size[::-1], np.bool_)
        actual = np.logical_or.reduce([empty, *(each.mask for each in truth)])
        found = np.logical_or.reduce([empty, *(each.mask for each in predicted)])
        overlap = Overlap.of(actual, found)
        largest = max((int(np.count_nonzero(each.mask)) for each in predicted), default=0)
        self._frames.append(
            FrameScore(
                frame=index,
                pts_s=pts_s,
                dice=overlap.dice,
                iou=overlap.iou,
                polyp_pixels=int(np.count_nonzero(actual)),
                predicted_pixels=int(np.count_nonzero(found)),
                common_pixels=overlap.true_positive,
                largest_share=largest / actual.size,
            )
        )
        self._has_tracks |= any(each.identity is not None for each in predicted)
        for each in truth:
            touching = [other for other in predicted if (other.mask & each.mask).any()]
            own = np.logical_or.reduce([empty, *(other.mask for other in touching)])
            seen = _Seen(
                frame=index,
                pts_s=pts_s,
                overlap=Overlap.of(each.mask, own),
                tracks=frozenset(other.identity for other in touching if other.identity is not None),
            )
            self._seen.setdefault(str(each.identity), []).append(seen)

    def result(self, threshold: float, min_peak: float = 0.0) -> VideoEvaluation:
        """The scores of all frames."""
        times_s = [frame.pts_s for frame in self._frames]
        step_s = median(after - before for before, after in pairwise(times_s)) if len(times_s) > 1 else 0.0
        clean = [frame for frame in self._frames if not frame.polyp_pixels]
        return VideoEvaluation(
            threshold=threshold,
            min_peak=min_peak,
            frames=tuple(self._frames),
            polyps=tuple(_polyp_score(name, seen, step_s, self._has_tracks) for name, seen in self._seen.items()),
            alarms=tuple(
                _burden(clean, area, run, step_s) for area in ALARM_AREA_SHARES for run in ALARM_RUNS if clean
            ),
            is_boxes=self._is_boxes,
            notices=self._labels.notices,
        )


def regions_of(mask: Mask) -> list[Region]:
    """The connected regions of a predicted mask."""
    count, numbers = cv2.connectedComponents(mask.astype(np.uint8))
    return [Region(mask=np.asarray(numbers == number)) for number in range(1, count)]


def _components(mask: Mask) -> list[Mask]:
    """The connected regions of a label without track ids; specks are joined with the largest one."""
    parts = sorted((region.mask for region in regions_of(mask)), key=np.count_nonzero, reverse=True)
    large = [part for part in parts[1:] if np.count_nonzero(part) >= MIN_AREA_SHARE * mask.size]
    return [mask & ~np.logical_or.reduce([np.zeros_like(mask), *large]), *large] if parts else []


def _outline(mask: Mask) -> Polyp:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=len)
    return polyp_from_contour(np.asarray(largest, np.float32).reshape(-1, 2), score=1.0)


def _filled_box(mask: Mask) -> Mask:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    filled = np.zeros_like(mask)
    if len(rows):
        filled[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return filled


def _polyp_score(name: str, seen: Sequence[_Seen], step_s: float, has_tracks: bool) -> PolypScore:
    hits: NDArray[np.bool_] = np.array([each.is_detected for each in seen])
    first = int(hits.argmax()) if hits.any() else None
    after = hits[first:] if first is not None else hits[:0]
    return PolypScore(
        polyp=name,
        first_frame=seen[0].frame,
        last_frame=seen[-1].frame,
        frames=len(seen),
        detected_frames=int(hits.sum()),
        sensitivity=float(hits.mean()),
        dice=float(np.mean([each.overlap.dice for each in seen])),
        iou=float(np.mean([each.overlap.iou for each in seen])),
        first_detected_frame=None if first is None else seen[first].frame,
        latency_frames=None if first is None else seen[first].frame - seen[0].frame,
        latency_s=None if first is None else seen[first].pts_s - seen[0].pts_s,
        persistence=None if first is None else float(after.mean()),
        flicker_per_s=float(np.count_nonzero(np.diff(hits))) / (len(seen) * step_s) if step_s else 0.0,
        longest_miss_frames=max((_length(run) for hit, run in groupby(after) if not hit), default=0),
        predicted_tracks=len(frozenset[str]().union(*(each.tracks for each in seen))) if has_tracks else None,
    )


def _burden(clean: Sequence[FrameScore], min_area_share: float, min_frames: int, step_s: float) -> AlarmBurden:
    runs: list[int] = []
    before = None
    for frame in clean:
        if frame.predicted_pixels and frame.largest_share >= min_area_share:
            if before is not None and frame.frame == before + 1:
                runs[-1] += 1
            else:
                runs.append(1)
            before = frame.frame
    long = [run for run in runs if run >= min_frames]
    return AlarmBurden(
        min_area_share=min_area_share,
        min_frames=min_frames,
        frame_share=sum(long) / len(clean),
        alarms_per_minute=60 * len(long) / (len(clean) * step_s) if step_s else 0.0,
    )


def _length(items: Iterable[object]) -> int:
    return sum(1 for _ in items)


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None
