"""Generalization to a hospital that was not trained on: recipes compared by leaving one source out.

Run with `python -m benchmarks.left_out_sources --data FOLDER --runs FOLDER [--encoder FILE]`. For each recipe and each
group of images (Kvasir-SEG, CVC-ClinicDB, center C4 of PolypGen), a network is trained on the training part of all
other images, in the same number of epochs at the same size, and its best epoch on their validation part is kept. The
score is the mean Dice over all images of the group, in source pixels at threshold 0.5; intervals are 95%, over images.
A difference between recipes is computed per image.

The recipe `0.5.0` is that of the model of this version, and starts from the ONNX file of a ResNet-50 of half width
(`--encoder`). Each training is a run folder under `--runs`; an interrupted comparison is resumed by the same command.
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import keras

from benchmarks.network_runs import Run, train_all
from benchmarks.report import RESULTS, write_report, write_table
from polypstream.evaluation.evaluate import evaluate_pairs
from polypstream.evaluation.predictor import KerasSegmenter
from polypstream.metrics import mean_with_interval
from polypstream.realtime.inference.model_input import probability_of_still
from polypstream.train.augment import PRESETS
from polypstream.train.config import TrainConfig
from polypstream.train.data import Pair, load_splits, pairs_from_folders
from polypstream.train.run_folder import RunFolder
from polypstream.train.splits import split_pairs, splits_from_csv

DATASETS = ("kvasir-seg", "cvc-clinicdb", "polypgen")
CENTER = "C4"
GROUPS = ("kvasir-seg", "cvc-clinicdb", f"polypgen {CENTER}")
THRESHOLD = 0.5
_WITH_IMAGENET = TrainConfig(
    model="resunetpp-lite0",
    batch_size=16,
    learning_rate=8e-4,
    average_momentum=0.99,
    augmentation=replace(PRESETS["hospitals"], lighting=0),
    clean_share=0.1,
    crop="content",
    loss="structure",
    frozen_stages=2,
)
RECIPES: Mapping[str, TrainConfig] = {
    "0.5.0": TrainConfig(
        model="resunetpp-r50",
        batch_size=16,
        learning_rate=5e-4,
        average_momentum=0.99,
        augmentation=PRESETS["strong"],
        clean_share=0.15,
    ),
    "0.6.0": _WITH_IMAGENET,
    "0.7.0": replace(_WITH_IMAGENET, model="resunetpp-lite2", augmentation=PRESETS["hospitals"], clean_share=0.12),
}
REFERENCE = "0.5.0"


def groups(data: Path) -> dict[str, Callable[[Pair], bool]]:
    """Membership of an image, by the name of each group that is left out once."""
    with (data / "polypgen" / "centres.csv").open(newline="", encoding="utf-8") as lines:
        center = {Path(row["image"]).stem: row["centre"] for row in csv.DictReader(lines)}
    conditions: tuple[Callable[[Pair], bool], ...] = (
        lambda pair: pair.dataset == "kvasir-seg",
        lambda pair: pair.dataset == "cvc-clinicdb",
        lambda pair: pair.dataset == "polypgen" and center[pair.image.stem] == CENTER,
    )
    return dict(zip(GROUPS, conditions, strict=True))


def dice_on_left_out(
    run: Run, left_out: Sequence[Pair], rest: Sequence[Pair], options: argparse.Namespace
) -> list[float]:
    """Train on `rest` unless that is done; the Dice of each left-out image."""
    splits = splits_from_csv(options.data / "splits.csv", "grouped")
    if not run.is_finished:
        parts = {"training": split_pairs(rest, splits, "train"), "validation": split_pairs(rest, splits, "val")}
        config = run.config
        samples = load_splits(
            parts, height=config.height, width=config.width, crop=config.crop, workers=options.workers
        )
        train_all([run], **samples, workers=options.workers)
    network = keras.saving.load_model(run.folder.best, compile=False)
    predict = partial(probability_of_still, KerasSegmenter(network), crop=run.config.crop)
    return [image.dice for image in evaluate_pairs(predict, left_out, THRESHOLD).images]


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure every recipe without every group."""
    pairs = pairs_from_folders([options.data / name for name in DATASETS])
    rows = []
    members = groups(options.data)
    for group in options.left_out:
        is_member = members[group]
        left_out, rest = [p for p in pairs if is_member(p)], [p for p in pairs if not is_member(p)]
        scores: dict[str, list[float]] = {}
        for name in options.recipes:
            config = replace(
                RECIPES[name],
                width=options.size,
                height=options.size,
                epochs=options.epochs,
                precision=options.precision,
            )
            run = Run(
                config=config,
                folder=RunFolder(options.runs / f"{name}-without-{group.replace(' ', '-')}"),
                encoder=options.encoder if name == REFERENCE else None,
                pretrained=name != REFERENCE,
            )
            scores[name] = dice_on_left_out(run, left_out, rest, options)
            row = {
                "recipe": name,
                "left_out": group,
                "dice": asdict(mean_with_interval(scores[name])),
                "training_s": sum(epoch["seconds"] for epoch in run.epochs),
            }
            if REFERENCE in scores:
                changes = [new - old for new, old in zip(scores[name], scores[REFERENCE], strict=True)]
                row["gain"] = asdict(mean_with_interval(changes))
            print(json.dumps(row), flush=True)
            rows.append(row)
    return {
        "keras": {"version": keras.__version__, "backend": keras.backend.backend()},
        "size": options.size,
        "epochs": options.epochs,
        "threshold": THRESHOLD,
        "recipes": {name: asdict(RECIPES[name]) for name in options.recipes},
        "rows": rows,
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Format the table of a written report: a row per recipe, a column per left-out group."""
    rows = {(row["recipe"], row["left_out"]): row for row in report["rows"]}
    recipes, left_out = dict.fromkeys(recipe for recipe, _ in rows), dict.fromkeys(group for _, group in rows)
    lines = [
        f"Dice on images of a source that was left out of the training; {report['epochs']} epochs at "
        f"{report['size']}x{report['size']} for each.",
        "",
        f"| recipe | {' | '.join(left_out)} | mean | training, min |",
        f"|---|{'---|' * len(left_out)}---|---|",
    ]
    for recipe in recipes:
        of_recipe = [rows[recipe, group] for group in left_out]
        cells = [f"{d['mean']:.3f} [{d['low']:.3f}, {d['high']:.3f}]" for d in (row["dice"] for row in of_recipe)]
        mean = fmean(row["dice"]["mean"] for row in of_recipe)
        minutes = sum(row["training_s"] for row in of_recipe) / 60
        lines.append(f"| {recipe} | {' | '.join(cells)} | {mean:.3f} | {minutes:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Train, measure, print and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--left-out", nargs="+", default=GROUPS, choices=GROUPS)
    parser.add_argument("--encoder", type=Path, help="ONNX file of the ResNet-50 that the recipe 0.5.0 starts from")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--precision", default="mixed_bfloat16")
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare batches")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    path = write_report("left_out_sources", compare(options), folder=options.results)
    table = markdown(json.loads(path.read_text(encoding="utf-8")))
    print(table)
    print(f"written to {path} and {write_table(path, table)}")


if __name__ == "__main__":
    main()
