"""Accuracy benchmark: all accuracy figures of the model card, on real data.

Run with `python -m benchmarks.accuracy --data FOLDER`. Dice and IoU are computed per image, in source pixels, at the
model's threshold; means have 95% bootstrap intervals over images. The `grouped` split keeps neighboring frames of one
polyp together and is the main result; `random` is the split used in the literature.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from benchmarks.report import RESULTS, write_report
from polypstream.contract import OperatingPoint
from polypstream.evaluation.evaluate import ImageScore, Predict, evaluate_pairs, evaluate_video
from polypstream.metrics import mean_with_interval
from polypstream.models import default_model
from polypstream.realtime.inference.model_input import probability_of_still
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.train.data import Pair, pairs_from_folders
from polypstream.train.splits import split_pairs, splits_from_csv

TEST_SETS = ("kvasir-seg", "cvc-clinicdb")
SIZES = ((0.05, "under 5% of the image"), (0.15, "5 to 15%"), (1.01, "over 15%"))
"""Upper limits of the polyp's share of the image, and names of the rows."""


def still_rows(data: Path, predict: Predict, point: OperatingPoint) -> list[dict[str, object]]:
    """Evaluate the test splits of the public data sets, split both ways, and PolypGen's validation frames."""
    rows: list[dict[str, object]] = []
    columns: tuple[Literal["grouped", "random"], ...] = ("grouped", "random")
    for column in columns:
        splits = splits_from_csv(data / "splits.csv", column)
        pairs = split_pairs(pairs_from_folders([data / name for name in TEST_SETS]), splits, "test")
        result = evaluate_pairs(predict, pairs, point.threshold, min_peak=point.min_peak)
        rows += [{"split": f"{column} test", **asdict(row)} for row in result.datasets]
        if column == "grouped":
            rows += size_rows(result.images, pairs)
    splits = splits_from_csv(data / "splits.csv", "grouped")
    pairs = split_pairs(pairs_from_folders([data / "polypgen"]), splits, "val")
    result = evaluate_pairs(predict, pairs, point.threshold, min_peak=point.min_peak)
    with_polyp = [score for score in result.images if score.polyp_pixels]
    clean = [score for score in result.images if not score.polyp_pixels]
    rows.append(
        {
            "split": "grouped val",
            **asdict(result.datasets[0]),
            "dice_with_polyp": asdict(mean_with_interval([score.dice for score in with_polyp])),
            "sensitivity": float(np.mean([score.recall > 0 for score in with_polyp])),
            "clean_frames": len(clean),
            "false_alarm_rate": float(np.mean([score.dice < 1 for score in clean])) if clean else None,
        }
    )
    return rows


def size_rows(scores: Sequence[ImageScore], pairs: Sequence[Pair]) -> list[dict[str, object]]:
    """Compute the Dice score of the grouped test images by the polyp's share of the image."""
    shapes = [cv2.imread(str(pair.mask), cv2.IMREAD_GRAYSCALE) for pair in pairs]
    shares = [score.polyp_pixels / mask.size for score, mask in zip(scores, shapes, strict=True) if mask is not None]
    rows: list[dict[str, object]] = []
    low = 0.0
    for high, name in SIZES:
        dice = [score.dice for score, share in zip(scores, shares, strict=True) if low <= share < high]
        if dice:
            rows.append(
                {"split": "grouped test", "dataset": f"polyps {name}", "dice": asdict(mean_with_interval(dice))}
            )
        low = high
    return rows


def clip_row(data: Path, predict: Predict, point: OperatingPoint) -> dict[str, object]:
    """Evaluate the real clip frame by frame."""
    clip, masks = data / "video" / "apparent.mp4", data / "video" / "apparent_masks"
    result = evaluate_video(predict, clip, masks, point.threshold, min_peak=point.min_peak)
    return {
        "polyp_frames": len(result.polyp_frames),
        "clean_frames": len(result.clean_frames),
        "dice": asdict(result.dice) if result.dice else None,
        "sensitivity": result.sensitivity,
        "false_alarm_rate": result.false_alarm_rate,
    }


def markdown(report: dict[str, Any]) -> str:
    """Format the model card's table from a written report."""
    lines = ["| data | images | Dice [95% interval] | IoU |", "|---|---|---|---|"]
    for row in report["images"]:
        dice, iou = row["dice"], row.get("iou")
        interval = f"{dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]"
        lines.append(f"| {row['dataset']}, {row['split']} | {dice['count']} | {interval} | {_mean(iou)} |")
    clip, polypgen = report["clip"], next(row for row in report["images"] if "clean_frames" in row)
    dice = clip["dice"]
    interval = f"{dice['mean']:.3f} [{dice['low']:.3f}, {dice['high']:.3f}]"
    lines.append(f"| real clip, frames with a polyp | {clip['polyp_frames']} | {interval} | |")
    lines += ["", "| data | frames with a polyp found | clean frames with a false alarm |", "|---|---|---|"]
    for name, row in (("polypgen, grouped val", polypgen), ("real clip", clip)):
        alarms = f"{row['false_alarm_rate']:.1%} of {row['clean_frames']}"
        lines.append(f"| {name} | {row['sensitivity']:.1%} | {alarms} |")
    return "\n".join(lines)


def _mean(interval: dict[str, float] | None) -> str:
    return f"{interval['mean']:.3f}" if interval else ""


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    with segmenter_from_onnx(options.model or default_model(), backend="onnxruntime") as segmenter:
        predict, contract = partial(probability_of_still, segmenter, crop=segmenter.contract.crop), segmenter.contract
        rows = still_rows(options.data, predict, contract.recording_point())
        clip = clip_row(options.data, predict, contract.recording_point())
    path = write_report(
        "accuracy", {"contract": asdict(contract), "images": rows, "clip": clip}, folder=options.results
    )
    print(markdown(json.loads(path.read_text(encoding="utf-8"))))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
