"""Polyp tracks measured with TrackEval: `python -m benchmarks.tracks [--data FOLDER]`.

IDF1 and HOTA of track ids, on masks: on the synthetic clip with detections of the network, perfect detections, and
perfect detections with missed frames; on constructed sequences (crossing polyps, leaving and returning, missed frames,
fast motion); and on the real clip. The ground truth has an id for each polyp: the renderer's number on the synthetic
clip, and a single polyp on the real clip. All are measured with and without the temporal filter.
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, write_report
from polypstream.arrays import Mask, Rgb
from polypstream.evaluation.imports.video import upright_frames
from polypstream.metrics import Overlap
from polypstream.models import default_model
from polypstream.realtime.annotate.temporal import FilteredFrame, TemporalFilter
from polypstream.realtime.annotate.tracks import FrameScene
from polypstream.realtime.inference.model_input import probability_of_still
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.outlines.contours import (
    Polyp,
    mask_from_polyps,
    polyp_from_contour,
    polyps_from_probability,
)
from polypstream.synthetic import SyntheticClip, frames_of
from polypstream.train.image_files import read_mask

SIDE = 256
"""Side of the scaled frames that the tracker receives."""
SMALLEST = 0.001
"""Minimum visible area of a polyp, as a fraction of the frame; smaller ones are ignored."""
MATCH = 0.5
"""Intersection over union from which a detection matches a polyp."""
RATE = 25


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of a sequence: image, ground truth and detections."""

    pts_s: float
    rgb: Rgb
    truth: Mapping[int, Mask]
    """By identity."""
    detections: tuple[Polyp, ...]


def polyp_of(mask: Mask, *, score: float = 0.9) -> Polyp:
    """Outline the largest region of a mask."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(contours, key=cv2.contourArea)
    return polyp_from_contour(np.asarray(largest, np.float32).reshape(-1, 2) + 0.5, score=score)


def synthetic(clip: SyntheticClip, segmenter: Segmenter | None = None, *, missed: float = 0.0) -> Iterator[Frame]:
    """Yield the synthetic clip with detections of the network, or perfect ones of which a fraction is missed."""
    rng = np.random.default_rng(0)
    for each in frames_of(clip):
        truth = _visible(
            {number: each.identities == number for number in np.unique(each.identities).tolist() if number}
        )
        detections: Iterable[Polyp] = [polyp_of(mask) for mask in truth.values() if rng.random() >= missed]
        if segmenter is not None:
            detections = detected(segmenter, each.rgb)
        yield Frame(pts_s=each.index / clip.fps, rgb=each.rgb, truth=truth, detections=tuple(detections))


def real_clip(data: Path, segmenter: Segmenter | None = None) -> Iterator[Frame]:
    """Yield the real clip, which shows one polyp, with detections of the network or perfect ones."""
    for index, rgb in upright_frames(data / "video" / "apparent.mp4"):
        truth = _visible({1: read_mask(data / "video" / "apparent_masks" / f"{index:05d}.png")})
        perfect = (polyp_of(mask) for mask in truth.values())
        detections = perfect if segmenter is None else detected(segmenter, rgb)
        yield Frame(pts_s=index / RATE, rgb=rgb, truth=truth, detections=tuple(detections))


def detected(segmenter: Segmenter, rgb: Rgb) -> list[Polyp]:
    """Detect polyps in a frame with the network."""
    height, width = rgb.shape[:2]
    probability = probability_of_still(segmenter, rgb, crop=segmenter.contract.crop)
    point = segmenter.contract.recording_point()
    return polyps_from_probability(
        probability, threshold=point.threshold, min_peak=point.min_peak, width=width, height=height
    )


def _visible(masks: Mapping[int, Mask]) -> dict[int, Mask]:
    return {number: mask for number, mask in masks.items() if mask.mean() >= SMALLEST}


Place = tuple[float, float, float] | None
"""Center and radius in pixels of a 640x480 frame; None if the polyp is not visible."""


def constructed(places: Sequence[Sequence[Place]], camera: Sequence[tuple[float, float]]) -> Iterator[Frame]:
    """Yield a sequence of discs on textured tissue; `camera` is the displacement of the tissue in pixels, by frame."""
    rng = np.random.default_rng(3)
    speckle = cv2.GaussianBlur(rng.normal(0, 1, (960, 1280, 1)).astype(np.float32), (0, 0), 8)
    tissue = np.clip(np.array([170, 95, 70]) + (40 * speckle / speckle.std())[..., np.newaxis], 30, 255).astype(
        np.uint8
    )
    for index, (shown, (x, y)) in enumerate(zip(places, camera, strict=True)):
        shift = np.array([[1, 0, x], [0, 1, y]], np.float64)
        rgb = np.asarray(cv2.warpAffine(tissue, shift, (640, 480), borderMode=cv2.BORDER_REFLECT_101), np.uint8)
        truth = {number: _disc(place) for number, place in enumerate(shown, start=1) if place is not None}
        truth = _visible(truth)
        for mask in truth.values():
            rgb[mask] = np.clip(rgb[mask] + np.array([20, 45, 35], np.int16), 0, 255).astype(np.uint8)
        yield Frame(
            pts_s=index / RATE, rgb=rgb, truth=truth, detections=tuple(polyp_of(mask) for mask in truth.values())
        )


def _disc(place: tuple[float, float, float]) -> Mask:
    y, x = np.mgrid[:480, :640]
    left, top, radius = place
    return np.asarray((x - left) ** 2 + (y - top) ** 2 <= radius**2)


def missing(frames: Iterable[Frame], misses: Iterable[int]) -> Iterator[Frame]:
    """Remove the detections from some frames."""
    skipped = frozenset(misses)
    for index, frame in enumerate(frames):
        kept = () if index in skipped else frame.detections
        yield Frame(pts_s=frame.pts_s, rgb=frame.rgb, truth=frame.truth, detections=kept)


def sequences() -> dict[str, Iterator[Frame]]:
    """Create sequences with perfect detections, some of them missed."""
    still, count = [(0.0, 0.0)] * 100, 100
    pan = [(3.0 * index, 0.0) for index in range(count)]
    fast = [(60 * np.sin(index / 3), 40 * np.cos(index / 4)) for index in range(count)]
    crossing = [[(120 + 4 * i, 200, 40), (520 - 4 * i, 260, 40)] for i in range(count)]
    leaving = [[(320 + 12 * min(i, 90 - i), 240, 40) if i < 90 else (320, 240, 40)] for i in range(count)]
    moving = [[(160 + 3 * i, 240, 35), (60 + 3 * i, 120, 30)] for i in range(count)]
    shaken = [[(320 + x, 240 + y, 35), (160 + x, 330 + y, 25)] for x, y in fast]
    return {
        "two polyps pass each other": constructed(crossing, still),
        "leaves the frame and returns": constructed(
            leaving, [(12.0 * min(i, max(90 - i, 0)), 0.0) for i in range(100)]
        ),
        "every third frame detected, camera moves": missing(
            constructed(moving, pan), (index for index in range(count) if index % 3)
        ),
        "missed for 1.2 s, camera moves": missing(constructed(moving, pan), range(30, 60)),
        "fast, shaken camera": constructed(shaken, fast),
        "fast, shaken camera, every second frame detected": missing(constructed(shaken, fast), range(1, count, 2)),
    }


def figures(frames: Iterable[Frame], *, temporal: bool) -> dict[str, float]:
    """Compute IDF1, HOTA and counts of one sequence."""
    tracker: TemporalFilter[Frame] = TemporalFilter(is_on=temporal)
    out: list[FilteredFrame[Frame]] = []
    for index, frame in enumerate(frames):
        height, width = frame.rgb.shape[:2]
        scene = FrameScene(np.asarray(cv2.resize(frame.rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8))
        out += tracker.push(
            frame,
            index=index,
            pts_s=frame.pts_s,
            polyps=frame.detections,
            size=(width, height),
            scene=scene,
        )
    out += tracker.flush()
    return scores_of([(each.item.truth, dict(zip(each.tracks, each.polyps, strict=True))) for each in out])


def scores_of(frames: Sequence[tuple[Mapping[int, Mask], Mapping[int, Polyp]]]) -> dict[str, float]:
    """Compute TrackEval's scores of tracked polyps against ground-truth masks, matched by intersection over union.

    `idf1_of_found` only includes detections that match a polyp: it measures the assignment of ids rather than
    detection.
    """
    all_of_them = _scores(frames)
    matched = []
    for truth, found in frames:
        pairs = np.argwhere(_similarity(truth, found) >= MATCH)
        rows, columns = set(pairs[:, 0].tolist()), set(pairs[:, 1].tolist())
        matched.append(
            (
                {number: mask for row, (number, mask) in enumerate(truth.items()) if row in rows},
                {number: polyp for column, (number, polyp) in enumerate(found.items()) if column in columns},
            )
        )
    return {**all_of_them, "idf1_of_found": _scores(matched)["idf1"]}


def _scores(frames: Sequence[tuple[Mapping[int, Mask], Mapping[int, Polyp]]]) -> dict[str, float]:
    from trackeval.metrics import HOTA, Identity

    true_ids = {number: place for place, number in enumerate(sorted({n for truth, _ in frames for n in truth}))}
    found_ids = {number: place for place, number in enumerate(sorted({n for _, found in frames for n in found}))}
    data: dict[str, Any] = {
        "num_timesteps": len(frames),
        "num_gt_ids": len(true_ids),
        "num_tracker_ids": len(found_ids),
        "num_gt_dets": sum(len(truth) for truth, _ in frames),
        "num_tracker_dets": sum(len(found) for _, found in frames),
        "gt_ids": [np.array([true_ids[n] for n in truth], np.intp) for truth, _ in frames],
        "tracker_ids": [np.array([found_ids[n] for n in found], np.intp) for _, found in frames],
        "similarity_scores": [_similarity(truth, found) for truth, found in frames],
    }
    identity = Identity({"THRESHOLD": MATCH, "PRINT_CONFIG": False}).eval_sequence(data)
    hota = HOTA().eval_sequence(data)
    return {
        "idf1": float(identity["IDF1"]),
        "hota": float(np.mean(hota["HOTA"])),
        "association": float(np.mean(hota["AssA"])),
        "polyps": len(true_ids),
        "tracks": len(found_ids),
        "labeled": data["num_gt_dets"],
        "found": data["num_tracker_dets"],
    }


def _similarity(truth: Mapping[int, Mask], found: Mapping[int, Polyp]) -> NDArray[np.float64]:
    scores = np.zeros((len(truth), len(found)))
    for column, polyp in enumerate(found.values()):
        for row, mask in enumerate(truth.values()):
            other = mask_from_polyps([polyp], width=mask.shape[1], height=mask.shape[0])
            scores[row, column] = Overlap.of(mask, other).iou
    return scores


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the sequences as a table."""
    lines = ["| sequence | filter | IDF1 | IDF1 of found | HOTA | polyps | tracks |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {row['sequence']} | {row['filter']} | {row['idf1']:.3f} | {row['idf1_of_found']:.3f} | {row['hota']:.3f} "
        f"| {row['polyps']} | {row['tracks']} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of the real data sets; without it, the real clip is omitted")
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    clip = SyntheticClip()
    rows: list[dict[str, object]] = []
    with segmenter_from_onnx(options.model or default_model(), backend="onnxruntime") as segmenter:
        measured: dict[str, list[Frame]] = {
            "synthetic clip, detections of the network": list(synthetic(clip, segmenter)),
            "synthetic clip, perfect detections": list(synthetic(clip)),
            "synthetic clip, 30% of perfect detections missed": list(synthetic(clip, missed=0.3)),
            **{name: list(frames) for name, frames in sequences().items()},
        }
        if options.data is not None:
            measured["real clip, detections of the network"] = list(real_clip(options.data, segmenter))
            measured["real clip, perfect detections"] = list(real_clip(options.data))
        model = f"{segmenter.contract.name} {segmenter.contract.version}"
    for name, frames in measured.items():
        for is_on in (True, False):
            rows.append({"sequence": name, "filter": "on" if is_on else "off", **figures(frames, temporal=is_on)})
    path = write_report("tracks", {"model": model, "sequences": rows}, folder=options.results)
    print(markdown(rows))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
