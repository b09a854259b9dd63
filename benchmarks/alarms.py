"""Alarm benchmark: simulates live alarms on the real clip (`python -m benchmarks.alarms --data FOLDER`).

The clip is played against a simulated clock: inference runs on the newest frame at a given rate, its result is
available after a given latency, and every frame is displayed with the information available by then. The benchmark
measures false alarms, the time until the polyp is marked, alarms per polyp, markers outside the polyp, and how well the
outlines on each frame match the ground truth of that frame: with and without hysteresis, with and without motion, at
each operating point. For comparison it reports the Dice score of frame-by-frame outlines without delay, as in
`polypstream annotate`. Runs with the true masks instead of network outputs show how much is lost between inference and
display. The speed of the machine has no influence.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from functools import cached_property, partial
from itertools import product
from math import ceil, floor
from pathlib import Path
from statistics import mean
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.frame_alarms import frame_alarms, frame_alarms_table
from benchmarks.report import RESULTS, write_report
from polypstream.arrays import Probability, Rgb
from polypstream.contract import OperatingPoint
from polypstream.metrics import Overlap
from polypstream.models import default_model
from polypstream.realtime.inference.model_input import ModelInputs, segment_input
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.live.display_frame import Light
from polypstream.realtime.live.motion import Scene, scene_of
from polypstream.realtime.live.prediction import CutCounter, MarkerPredictor, Thumbnail, thumbnail_of
from polypstream.realtime.live.tracker import Propagation, Tracker, TrackerConfig, View
from polypstream.realtime.outlines.content_area import within_content
from polypstream.realtime.outlines.contours import Polyp, mask_from_polyps, polyps_from_probability
from polypstream.realtime.video.resize import ModelInputScaler
from polypstream.train.image_files import read_mask

TOUCH = 0.1
"""Intersection over union from which a polyp counts as marked."""
MISPLACED = 0.05
"""Intersection over union below which the markers on a frame with a polyp count as misplaced."""


class Hysteresis(Enum):
    """Whether detections must persist before they are displayed, and are kept through gaps."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Speed of the network."""

    name: str
    interval_frames: float
    """Frames from one inference to the next."""
    latency_frames: float
    """Frames displayed from the inferred one until its result is available."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One frame of the clip with all its data."""

    rgb: Rgb
    """The network's input."""
    probability: Probability
    truth: NDArray[np.bool_]
    at_s: float
    thumbnail: Thumbnail
    cuts: int = 0
    """Scene cuts up to this frame."""

    @cached_property
    def scene(self) -> Scene:
        """The frame, prepared for optical flow."""
        return scene_of(self.rgb)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame."""
        return self.truth.shape[1], self.truth.shape[0]


def paces(fps: float) -> tuple[Pace, ...]:
    """Return the two reported paces: a network that keeps up, and a slow one."""
    return (
        Pace(name="every frame, one frame late", interval_frames=1, latency_frames=1),
        Pace(name="10 a second, 100 ms late", interval_frames=fps / 10, latency_frames=fps / 10),
    )


def shots_of(data: Path, segmenter: Segmenter) -> list[Shot]:
    """Read the real clip, with inference on every frame."""
    scaler = ModelInputScaler()
    inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
    shots, cuts = [], CutCounter()
    with av.open(str(data / "video" / "apparent.mp4")) as container, segmenter:
        for index, picture in enumerate(container.decode(video=0)):
            image, thumbnail = inputs.of(partial(scaler.scale, picture)), thumbnail_of(picture)
            shots.append(
                Shot(
                    rgb=image.rgb,
                    probability=segment_input(segmenter, image),
                    truth=read_mask(data / "video" / "apparent_masks" / f"{index:05d}.png"),
                    at_s=picture.time or 0.0,
                    thumbnail=thumbnail,
                    cuts=cuts.count(thumbnail),
                )
            )
    return shots


def views_of(shots: Sequence[Shot], tracker: Tracker, pace: Pace) -> list[View]:
    """Simulate the display of each frame with inference at the given pace.

    As in live use, a frame is displayed before its own optical flow is known, so its markers are predicted.
    """
    inferred = [floor(number * pace.interval_frames) for number in range(ceil(len(shots) / pace.interval_frames))]
    available = {ceil(index + pace.latency_frames): shots[index] for index in inferred if index < len(shots)}
    views, predictor, before = [], MarkerPredictor(), shots[0]
    for index, shot in enumerate(shots):
        if index in available:
            known = available[index]
            tracker.update(known.probability, scene=known.scene, at_s=known.at_s, size=shot.size, cuts=known.cuts)
        view = tracker.view(scene=before.scene, at_s=before.at_s, size=shot.size)
        predictor.update(view, at_s=before.at_s, size=shot.size, thumbnail=before.thumbnail)
        views.append(predictor.predict(at_s=shot.at_s, size=shot.size, thumbnail=shot.thumbnail))
        before = shot
    return views


def figures_of(shots: Sequence[Shot], views: Sequence[View]) -> dict[str, float | None]:
    """Compute the figures of one run.

    False alarms are the markers on the polyp-free part before the first frame with a polyp, each counted once
    regardless of its duration. Dice is the mean over frames with a polyp; a frame without a marker counts as 0. Alarms
    are counted from the first frame with the polyp; the clip has one.
    """
    overlaps = [_overlap(shot, view) for shot, view in zip(shots, views, strict=True)]
    present = [index for index, shot in enumerate(shots) if shot.truth.any()]
    first = present[0]
    marked = [index for index in present if overlaps[index].iou >= TOUCH]
    misplaced = [index for index in present if views[index].markers and overlaps[index].iou < MISPLACED]
    alarms = {marker.identity for view in views[first:] for marker in view.markers}
    false = {marker.identity for view in views[:first] for marker in view.markers}
    shown = [overlaps[index].dice for index in present if views[index].markers]
    return {
        "false_alarms_per_minute": 60 * len(false) / (shots[first].at_s - shots[0].at_s),
        "clean_frames_marked": mean(bool(view.markers) for view in views[:first]),
        "first_marked_after_ms": 1000 * (shots[marked[0]].at_s - shots[first].at_s) if marked else None,
        "polyp_frames_marked": len(marked) / len(present),
        "alarms_per_polyp": len(alarms),
        "marked_polyp_frames_misplaced": len(misplaced) / len(shown) if shown else None,
        "dice": mean(overlaps[index].dice for index in present),
        "dice_where_shown": mean(shown) if shown else None,
        "frames_uncertain": mean(view.status.light is Light.UNCERTAIN for view in views),
    }


def dice_frame_by_frame(shots: Sequence[Shot], point: OperatingPoint) -> float:
    """Compute the mean Dice over frames with a polyp, each outlined on its own, without knowledge of other frames."""
    scores = []
    for shot in shots:
        if shot.truth.any():
            width, height = shot.size
            polyps = _polyps(shot, point)
            scores.append(Overlap.of(shot.truth, mask_from_polyps(polyps, width=width, height=height)).dice)
    return mean(scores)


def alarms_frame_by_frame(shots: Sequence[Shot], point: OperatingPoint) -> dict[str, Any]:
    """Count false alarms on frames without a polyp, each processed on its own, without knowledge of other frames."""
    largest = []
    for shot in shots:
        width, height = shot.size
        polyps = _polyps(shot, point)
        largest.append(max((polyp.area for polyp in polyps), default=0.0) / (width * height))
    return frame_alarms(largest, [bool(shot.truth.any()) for shot in shots])


def _polyps(shot: Shot, point: OperatingPoint) -> list[Polyp]:
    width, height = shot.size
    probability = within_content(shot.probability, shot.scene.area)
    return polyps_from_probability(
        probability, threshold=point.threshold, min_peak=point.min_peak, width=width, height=height
    )


def _overlap(shot: Shot, view: View) -> Overlap:
    height, width = shot.truth.shape
    polyps = [marker.polyp for marker in view.markers]
    return Overlap.of(shot.truth, mask_from_polyps(polyps, width=width, height=height))


def with_truth(shots: Sequence[Shot]) -> list[Shot]:
    """Return the same frames with the outputs of a perfect network."""
    return [replace(shot, probability=_soft(shot.truth, shot.probability.shape)) for shot in shots]


def _soft(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Probability:
    share = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def runs_of(shots: Sequence[Shot], points: Sequence[OperatingPoint], *, outputs: str) -> list[dict[str, object]]:
    """Run every pace and operating point, with and without hysteresis and motion; `outputs` names their source."""
    fps = (len(shots) - 1) / (shots[-1].at_s - shots[0].at_s)
    rows: list[dict[str, object]] = []
    for pace, point, hysteresis, propagation in product(paces(fps), points, Hysteresis, Propagation):
        used = replace(point, appear_ms=0, vanish_ms=0) if hysteresis is Hysteresis.OFF else point
        tracker = Tracker(TrackerConfig(operating_point=used, propagation=propagation))
        figures = figures_of(shots, views_of(shots, tracker, pace))
        setting = {"hysteresis": hysteresis.value, "motion": propagation.value}
        rows.append({"outputs": outputs, "pace": pace.name, "operating_point": point.name, **setting, **figures})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format the runs as a table."""
    lines = [
        "| outputs | pace | point | hysteresis | motion | false alarms a minute | first marked after "
        "| alarms per polyp | misplaced | Dice |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = " | ".join(row[name] for name in ("outputs", "pace", "operating_point", "hysteresis", "motion"))
        after = row["first_marked_after_ms"]
        first = "never" if after is None else f"{after:.0f} ms"
        misplaced = row["marked_polyp_frames_misplaced"]
        lines.append(
            f"| {names} | {row['false_alarms_per_minute']:.0f} | {first} | {row['alarms_per_polyp']} "
            f"| {'' if misplaced is None else f'{misplaced:.1%}'} | {row['dice']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    segmenter = segmenter_from_onnx(options.model or default_model(), backend="onnxruntime")
    shots = shots_of(options.data, segmenter)
    points, recordings = segmenter.contract.operating_points, segmenter.contract.recording_point()
    rows = runs_of(shots, points, outputs="model") + runs_of(with_truth(shots), points, outputs="truth")
    results: dict[str, Any] = {
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "operating_points": [asdict(point) for point in points],
        "fade_ms": TrackerConfig(operating_point=points[0]).fade_ms,
        "dice_frame_by_frame": dice_frame_by_frame(shots, recordings),
        "alarms_frame_by_frame": {
            f"{point.threshold:g}" + (f", minimum peak {point.min_peak:g}" if point.min_peak else ""): (
                alarms_frame_by_frame(shots, point)
            )
            for point in (recordings, *points)
        },
        "clean_s": next(shot.at_s for shot in shots if shot.truth.any()),
        "runs": rows,
    }
    path = write_report("alarms", results, folder=options.results)
    print(markdown(rows))
    print(frame_alarms_table(results["alarms_frame_by_frame"]))
    print(f"frame by frame: Dice {results['dice_frame_by_frame']:.3f}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
