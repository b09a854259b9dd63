"""Operating points: detection, false alarms and calibration of a model.

Run with `python -m benchmarks.operating_points --data FOLDER`. An operating point consists of a threshold and a minimum
area, as a share of the image. Sensitivity is the share of polyp frames on which a drawn region overlaps the polyp, the
false alarm rate is the share of polyp-free frames with any drawn region, and stray regions are those on polyp frames
that overlap no polyp.

Two points are chosen, using only the validation split. `sensitive` has the fewest false alarms of all points with a
sensitivity of at least 95%, `specific` of those with at least 80%. Ties are common, as there are few polyp-free frames.
For `sensitive`, they are resolved by higher sensitivity, then by fewer stray regions; for `specific`, by the highest
threshold, then the largest minimum area, which can only reduce false alarms on other frames. The minimum area is at
most `LARGEST_LEFT_OUT`, so that small polyps are not excluded. If no point is sensitive enough, those within
`LARGEST_SHORTFALL` of the most sensitive one are compared. Both points are then reported on the real clip, which is not
used for the choice, and on PolypGen's polyp-free training frames; the model was trained on these, so the results on
them say little about new frames. Intervals are Wilson's; those of the clip are too narrow, as neighboring frames are
similar.
"""

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.calibration import Reliability
from benchmarks.detection import (
    MIN_AREA_SHARES,
    THRESHOLDS,
    Detection,
    FrameRegions,
    counted,
    regions_of_frame,
    wilson_interval,
)
from benchmarks.report import RESULTS, write_report, write_table
from polypstream.arrays import Mask, Rgb
from polypstream.evaluation.evaluate import Predict
from polypstream.evaluation.imports.video import upright_frames
from polypstream.models import default_model
from polypstream.realtime.inference.model_input import probability_of_still
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.train.data import Pair, pairs_from_folders, read_pair
from polypstream.train.image_files import read_mask
from polypstream.train.splits import split_pairs, splits_from_csv

DATASETS = ("kvasir-seg", "cvc-clinicdb", "polypgen")
LEAST_SENSITIVITY = {"sensitive": 0.95, "specific": 0.80}
LARGEST_SHORTFALL = 0.015
"""If no point is sensitive enough, points this close to the most sensitive one are considered: the last few frames can
require a threshold at which outlines are far too wide."""
LARGEST_LEFT_OUT = 0.001
"""The smallest polyp of CVC-ClinicDB covers 0.0017 of its image; smaller regions may be excluded."""
VALIDATION, CLIP = "validation", "real clip"
SEEN = "polypgen clean frames seen in training"
CONFIDENT = 0.1
"""Minimum probability for the second calibration error, which excludes the easy background."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """An operating point: indices into `THRESHOLDS` and `MIN_AREA_SHARES`."""

    row: int
    column: int

    @property
    def values(self) -> dict[str, float]:
        """Threshold and minimum area."""
        return {"threshold": THRESHOLDS[self.row], "min_area_share": MIN_AREA_SHARES[self.column]}


def chosen_point(validation: Detection, name: str) -> Point:
    """Choose the operating point of this name by the rule in the module docstring."""
    least_sensitivity = LEAST_SENSITIVITY[name]
    sensitivity = validation.sensitivity
    columns = np.array(MIN_AREA_SHARES) <= LARGEST_LEFT_OUT
    most = sensitivity[:, columns].max()
    reached = least_sensitivity if most >= least_sensitivity else most - LARGEST_SHORTFALL
    allowed = [
        Point(row=int(row), column=int(column)) for row, column in np.argwhere((sensitivity >= reached) & columns)
    ]

    def cost(point: Point) -> tuple[float, float, float]:
        at = point.row, point.column
        if name == "specific":
            return validation.false_alarm_rate[at], -point.row, -point.column
        return validation.false_alarm_rate[at], -sensitivity[at], validation.stray_regions[at]

    return min(allowed, key=cost)


def evaluated_frames(
    predict: Predict, frames: Iterable[tuple[Rgb, Mask]], reliability: Reliability | None = None
) -> list[FrameRegions]:
    """Find the regions drawn on each frame; adds its pixels to `reliability`."""
    results = []
    for rgb, truth in frames:
        probability = predict(rgb)
        results.append(regions_of_frame(probability, truth))
        if reliability is not None:
            reliability.add(probability, truth)
    return results


def clean_frames(pairs: Iterable[Pair]) -> Iterator[tuple[Rgb, Mask]]:
    """Select the pairs whose mask is empty."""
    return ((rgb, truth) for rgb, truth in map(read_pair, pairs) if not truth.any())


def clip_frames(data: Path) -> Iterator[tuple[Rgb, Mask]]:
    """Every frame of the real clip and its mask."""
    masks = data / "video" / "apparent_masks"
    for index, rgb in upright_frames(data / "video" / "apparent.mp4"):
        yield rgb, read_mask(masks / f"{index:05d}.png")


def measure(data: Path, predict: Predict) -> dict[str, Any]:
    """Compute everything that is reported, as plain values."""
    splits = splits_from_csv(data / "splits.csv", "grouped")
    reliabilities = {VALIDATION: Reliability(), CLIP: Reliability()}
    frames: dict[str, list[FrameRegions]] = {}
    for name in DATASETS:
        pairs = split_pairs(pairs_from_folders([data / name]), splits, "val")
        frames[f"{name} val"] = evaluated_frames(predict, map(read_pair, pairs), reliabilities[VALIDATION])
    frames[VALIDATION] = [frame for some in list(frames.values()) for frame in some]
    frames[CLIP] = evaluated_frames(predict, clip_frames(data), reliabilities[CLIP])
    seen = split_pairs(pairs_from_folders([data / "polypgen"]), splits, "train")
    frames[SEEN] = evaluated_frames(predict, clean_frames(seen))
    sets = {name: counted(some) for name, some in frames.items()}
    points = {name: chosen_point(sets[VALIDATION], name) for name in LEAST_SENSITIVITY}
    return {
        "least_sensitivity": LEAST_SENSITIVITY,
        "points": {name: {**point.values, "on": _on_every_set(point, sets)} for name, point in points.items()},
        "thresholds": THRESHOLDS,
        "min_area_shares": MIN_AREA_SHARES,
        "grids": {name: _plain(detection) for name, detection in sets.items()},
        "calibration": {name: _calibration(reliability) for name, reliability in reliabilities.items()},
    }


def _on_every_set(point: Point, sets: Mapping[str, Detection]) -> dict[str, dict[str, object]]:
    at = point.row, point.column
    rows: dict[str, dict[str, object]] = {}
    for name, detection in sets.items():
        row: dict[str, object] = {"polyp_frames": detection.polyp_frames, "clean_frames": detection.clean_frames}
        if detection.polyp_frames:
            row["sensitivity"] = _share(detection.found[at], detection.polyp_frames)
            row["stray_regions_per_polyp_frame"] = float(detection.stray_regions[at])
        if detection.clean_frames:
            row["false_alarm_rate"] = _share(detection.alarming[at], detection.clean_frames)
        rows[name] = row
    return rows


def _share(hits: float, count: int) -> dict[str, float]:
    low, high = wilson_interval(hits, count)
    return {"mean": float(hits / count), "low": low, "high": high}


def _plain(detection: Detection) -> dict[str, object]:
    grids = {
        name: getattr(detection, name).round(4).tolist()
        for name in ("sensitivity", "false_alarm_rate", "stray_regions")
    }
    return {"polyp_frames": detection.polyp_frames, "clean_frames": detection.clean_frames, **grids}


def _calibration(reliability: Reliability) -> dict[str, object]:
    return {
        "temperature": reliability.temperature(),
        "expected_calibration_error": reliability.expected_error(),
        f"expected_calibration_error_from_{CONFIDENT:g}": reliability.expected_error(least=CONFIDENT),
        "bins": [asdict(each) for each in reliability.bins],
    }


def points_table(report: Mapping[str, Any]) -> str:
    """Format the two points on every data set from a written report."""
    lines = [
        "| operating point | threshold | smallest region | frames | sensitivity [95%] | false alarms [95%] | stray |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, point in report["points"].items():
        for frames, row in point["on"].items():
            counts = f"{frames} ({row['polyp_frames']} polyp, {row['clean_frames']} clean)"
            figures = f"{_percent(row.get('sensitivity'))} | {_percent(row.get('false_alarm_rate'))}"
            stray = row.get("stray_regions_per_polyp_frame")
            setting = f"{point['threshold']:.2f} | {point['min_area_share']:.2%}"
            lines.append(f"| {name} | {setting} | {counts} | {figures} | {'' if stray is None else f'{stray:.2f}'} |")
    return "\n".join(lines)


def markdown(report: Mapping[str, Any]) -> str:
    """Format all tables."""
    least = MIN_AREA_SHARES[0]
    lines = [points_table(report)]
    lines += ["", f"Sensitivity / false alarms by threshold; smallest region {least:.2%} of the image:", ""]
    names = (VALIDATION, CLIP, SEEN)
    lines += [f"| threshold | {' | '.join(names)} |", "|---|---|---|---|"]
    for row, threshold in enumerate(report["thresholds"]):
        cells = [_cell(report["grids"][name], row) for name in names]
        lines.append(f"| {threshold:.2f} | {' | '.join(cells)} |")
    for name, calibration in report["calibration"].items():
        errors = [value for key, value in calibration.items() if key.startswith("expected")]
        summary = f"expected error {errors[0]:.4f} over all pixels, {errors[1]:.4f} from probability {CONFIDENT:g} up"
        lines += ["", f"Calibration, {name}: {summary}", ""]
        lines += ["| probability | share of pixels | mean probability | polyp among them |", "|---|---|---|---|"]
        for each in calibration["bins"]:
            means = " | ".join(
                "" if each[key] is None else f"{each[key]:.3f}" for key in ("mean_probability", "polyp_share")
            )
            lines.append(f"| {each['low']:.1f} to {each['high']:.1f} | {each['pixel_share']:.4%} | {means} |")
    return "\n".join(lines)


def _percent(share: Mapping[str, float] | None) -> str:
    return "" if share is None else f"{share['mean']:.1%} [{share['low']:.1%}, {share['high']:.1%}]"


def _cell(grid: Mapping[str, Any], row: int) -> str:
    sensitivity = f"{grid['sensitivity'][row][0]:.1%}" if grid["polyp_frames"] else ""
    alarms = f"{grid['false_alarm_rate'][row][0]:.1%}" if grid["clean_frames"] else ""
    return f"{sensitivity} / {alarms}"


def main() -> None:
    """Measure, print and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with segmenter_from_onnx(options.model or default_model(), backend="onnxruntime") as segmenter:
        results = measure(options.data, partial(probability_of_still, segmenter, crop=segmenter.contract.crop))
        results = {"contract": asdict(segmenter.contract), **results}
    path = write_report("operating_points", results, folder=options.results)
    table = markdown(json.loads(path.read_text(encoding="utf-8")))
    print(table)
    print(f"written to {path} and {write_table(path, table)}")


if __name__ == "__main__":
    main()
