"""Alarms on the real clip as they would be live: `python -m benchmarks.alarms --data FOLDER`.

The clip is played against a stated clock: the network judges the newest frame at a stated rate, its answer comes a
stated time later, and every frame is shown with what is known by then. Measured are false alarms, the time until the
polyp is marked, and how well the outlines on each frame match the truth of that very frame; with and without
hysteresis, with and without motion, at both operating points. The same with the true masks in the network's place shows
what is lost on the way to the screen. Nothing here depends on how fast this machine is.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from itertools import product
from math import ceil, floor
from pathlib import Path
from statistics import mean
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, write_report
from polypstream.metrics import Overlap
from polypstream.models import default_model
from polypstream.realtime.contours import mask_from_polyps
from polypstream.realtime.frame import Probability, Rgb
from polypstream.realtime.live.alarm import OPERATING_POINTS
from polypstream.realtime.live.outlook import Glance, Outlook, glance_of
from polypstream.realtime.live.shown import Light
from polypstream.realtime.live.tracker import Following, Tracker, TrackerConfig, View
from polypstream.realtime.preprocess import SmallPicture
from polypstream.realtime.segmenter import Segmenter, segmenter_from_onnx
from polypstream.train.data import read_mask

TOUCH = 0.1
"""Intersection over union from which a polyp counts as marked."""


class Hysteresis(Enum):
    """Whether findings must last before they are shown, and are kept through gaps."""

    ON = "on"
    OFF = "off"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast the network is."""

    name: str
    interval_frames: float
    """Frames from one judgement to the next."""
    latency_frames: float
    """Frames shown from the judged one until its answer is there."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One frame of the clip, and all that is known of it."""

    rgb: Rgb
    """The network's small picture."""
    probability: Probability
    truth: NDArray[np.bool_]
    at_s: float
    glance: Glance

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frame."""
        return self.truth.shape[1], self.truth.shape[0]


def paces(fps: float) -> tuple[Pace, ...]:
    """The two that are reported: a network that keeps up, and a slow one."""
    return (
        Pace(name="every frame, one frame late", interval_frames=1, latency_frames=1),
        Pace(name="10 a second, 100 ms late", interval_frames=fps / 10, latency_frames=fps / 10),
    )


def shots_of(data: Path, segmenter: Segmenter) -> list[Shot]:
    """The real clip, every frame judged by the network."""
    small = SmallPicture(height=segmenter.height, width=segmenter.width)
    shots = []
    with av.open(str(data / "video" / "apparent.mp4")) as container, segmenter:
        for index, picture in enumerate(container.decode(video=0)):
            rgb = small.of(picture)
            shots.append(
                Shot(
                    rgb=rgb,
                    probability=segmenter.segment(rgb),
                    truth=read_mask(data / "video" / "apparent_masks" / f"{index:05d}.png"),
                    at_s=picture.time or 0.0,
                    glance=glance_of(picture),
                )
            )
    return shots


def views_of(shots: Sequence[Shot], tracker: Tracker, pace: Pace) -> list[View]:
    """What a viewer would see on each frame, the network being as fast as stated.

    As live, a frame is shown before its own motion is known: markers are those of the frame before, moved on.
    """
    judged = [floor(number * pace.interval_frames) for number in range(ceil(len(shots) / pace.interval_frames))]
    answers = {ceil(index + pace.latency_frames): shots[index] for index in judged if index < len(shots)}
    views, outlook, before = [], Outlook(), shots[0]
    for index, shot in enumerate(shots):
        if index in answers:
            known = answers[index]
            tracker.judge(known.probability, rgb=known.rgb, at_s=known.at_s, size=shot.size)
        view = tracker.view(rgb=before.rgb, at_s=before.at_s, size=shot.size)
        outlook.know(view, at_s=before.at_s, size=shot.size, glance=before.glance)
        views.append(outlook.on(at_s=shot.at_s, size=shot.size, glance=shot.glance))
        before = shot
    return views


def figures_of(shots: Sequence[Shot], views: Sequence[View]) -> dict[str, float | None]:
    """The figures of one run.

    False alarms are the markers, each counted once however long it stays, on the clean stretch before the first frame
    with a polyp. Dice is the mean over frames with a polyp, of which one without a marker counts 0.
    """
    overlaps = [_overlap(shot, view) for shot, view in zip(shots, views, strict=True)]
    present = [index for index, shot in enumerate(shots) if shot.truth.any()]
    first = present[0]
    marked = [index for index in present if overlaps[index].iou >= TOUCH]
    false = {marker.identity for view in views[:first] for marker in view.markers}
    shown = [overlaps[index].dice for index in present if views[index].markers]
    return {
        "false_alarms_per_minute": 60 * len(false) / (shots[first].at_s - shots[0].at_s),
        "clean_frames_marked": mean(bool(view.markers) for view in views[:first]),
        "first_marked_after_ms": 1000 * (shots[marked[0]].at_s - shots[first].at_s) if marked else None,
        "polyp_frames_marked": len(marked) / len(present),
        "dice": mean(overlaps[index].dice for index in present),
        "dice_where_shown": mean(shown) if shown else None,
        "frames_uncertain": mean(view.status.light is Light.UNCERTAIN for view in views),
    }


def _overlap(shot: Shot, view: View) -> Overlap:
    height, width = shot.truth.shape
    polyps = [marker.polyp for marker in view.markers]
    return Overlap.of(shot.truth, mask_from_polyps(polyps, width=width, height=height))


def with_truth(shots: Sequence[Shot]) -> list[Shot]:
    """The same frames, judged by a network that is always right."""
    return [replace(shot, probability=_soft(shot.truth, shot.probability.shape)) for shot in shots]


def _soft(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> Probability:
    share = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(np.clip(share, 0, 1), dtype=np.float32)


def runs_of(shots: Sequence[Shot], *, answers: str) -> list[dict[str, object]]:
    """Every pace, operating point, with and without hysteresis, with and without motion; `answers` says whose."""
    fps = (len(shots) - 1) / (shots[-1].at_s - shots[0].at_s)
    rows: list[dict[str, object]] = []
    for pace, point, hysteresis, following in product(paces(fps), OPERATING_POINTS.values(), Hysteresis, Following):
        used = replace(point, appear_ms=0, vanish_ms=0) if hysteresis is Hysteresis.OFF else point
        tracker = Tracker(TrackerConfig(operating_point=used, following=following))
        figures = figures_of(shots, views_of(shots, tracker, pace))
        setting = {"hysteresis": hysteresis.value, "motion": following.value}
        rows.append({"answers": answers, "pace": pace.name, "operating_point": point.name, **setting, **figures})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The runs as a table."""
    lines = [
        "| answers | pace | point | hysteresis | motion | false alarms a minute | first marked after | Dice shown |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        names = " | ".join(row[name] for name in ("answers", "pace", "operating_point", "hysteresis", "motion"))
        after = row["first_marked_after_ms"]
        first = "never" if after is None else f"{after:.0f} ms"
        lines.append(f"| {names} | {row['false_alarms_per_minute']:.0f} | {first} | {row['dice']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--model", type=Path, help="ONNX model; the one in the package where none is given")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    segmenter = segmenter_from_onnx(options.model or default_model(), backend="onnxruntime")
    shots = shots_of(options.data, segmenter)
    rows = runs_of(shots, answers="model") + runs_of(with_truth(shots), answers="truth")
    results = {
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "operating_points": [asdict(point) for point in OPERATING_POINTS.values()],
        "fade_ms": TrackerConfig().fade_ms,
        "clean_s": next(shot.at_s for shot in shots if shot.truth.any()),
        "runs": rows,
    }
    path = write_report("alarms", results, folder=options.results)
    print(markdown(rows))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
