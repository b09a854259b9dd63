"""Network comparison: U-Net, ResUNet and ResUNet++ trained with equal budgets, compared in accuracy and cost.

Run with `python -m benchmarks.compare_networks --data FOLDER --runs FOLDER`. Each network is trained by the code of
`polypstream train` on the training part of the grouped splits, once per seed, with the same recipe and number of
epochs; the epoch with the best validation Dice is kept. Scores are computed per image in source pixels at threshold 0.5
on the test part and first averaged over seeds; intervals are 95%, over images.

Each training is a run folder under `--runs`; an interrupted comparison is resumed by the same command. On a machine
used only for training, with Keras on JAX or PyTorch, `--train-only` skips the measurements and needs neither PyAV nor
ONNX Runtime. The same command without it then creates the table, on another machine if desired; it needs `config.json`,
`history.jsonl` and `best.keras` of each run folder. Milliseconds are measured in ONNX Runtime in one process that
alternates between the networks, on files from `polypstream export`. If that is impossible, for example without
TensorFlow, they are omitted, and can be added later by running the command elsewhere.

Networks may be trained one at a time, also on different machines: `--previous REPORT.json` keeps the rows of networks
that are not named this time. Their run folders are not needed; an untrained copy is timed, which costs the same.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import keras

from benchmarks.network_cost import frame_times, multiply_accumulates, onnx_file
from benchmarks.network_runs import Run, train_all
from benchmarks.report import RESULTS, write_report, write_table
from polypstream.errors import ConfigError
from polypstream.evaluation.evaluate import ImageScore, evaluate_pairs
from polypstream.evaluation.predictor import KerasSegmenter
from polypstream.metrics import mean_with_interval
from polypstream.train.augment import PRESETS
from polypstream.train.config import PRECISIONS, TrainConfig
from polypstream.train.data import Pair, load_splits, pairs_from_folders
from polypstream.train.image_files import read_rgb
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.run_folder import RunFolder
from polypstream.train.splits import split_pairs, splits_from_csv

DATASETS = ("kvasir-seg", "cvc-clinicdb")
THRESHOLD = 0.5
SCORES = ("dice", "iou", "precision", "recall")
TIMED_IMAGES = 10


def network_row(name: str, runs: Sequence[Run], pairs: Sequence[Pair]) -> dict[str, Any]:
    """Cost and scores of one network over all its seeds."""
    from polypstream.realtime.inference.model_input import probability_of_still

    networks = [keras.saving.load_model(run.folder.best, compile=False) for run in runs]
    predicts = [partial(probability_of_still, KerasSegmenter(network), crop="none") for network in networks]
    scores = [evaluate_pairs(predict, pairs, THRESHOLD).images for predict in predicts]
    datasets = dict.fromkeys(pair.dataset for pair in pairs)
    return {
        "network": name,
        "parameters": networks[0].count_params(),
        "gmac": multiply_accumulates(networks[0]) / 1e9,
        "runs": [
            {
                "seed": run.config.seed,
                "best_epoch": max(run.epochs, key=lambda epoch: epoch["mean_dice"])["epoch"],
                "validation_dice": max(epoch["mean_dice"] for epoch in run.epochs),
                "test_dice": fmean(score.dice for score in of_run),
                "training_s": sum(epoch["seconds"] for epoch in run.epochs),
            }
            for run, of_run in zip(runs, scores, strict=True)
        ],
        "test": {dataset: _means(scores, dataset) for dataset in datasets},
    }


def _means(scores: Sequence[Sequence[ImageScore]], dataset: str) -> dict[str, dict[str, float]]:
    images = [seeds for seeds in zip(*scores, strict=True) if seeds[0].dataset == dataset]
    return {
        name: asdict(mean_with_interval([fmean(getattr(score, name) for score in seeds) for seeds in images]))
        for name in SCORES
    }


def markdown(report: Mapping[str, Any]) -> str:
    """Format the tables from a written report."""
    recipe = report["recipe"]
    lines = [
        f"{recipe['epochs']} epochs at {recipe['width']}x{recipe['height']}, batches of {recipe['batch_size']}, "
        f"seeds {', '.join(map(str, report['seeds']))}, peak rate {recipe['learning_rate']:g}; grouped split.",
        "",
        "| network | parameters | GMAC | ms per frame | best epochs | validation Dice | training, min |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in report["networks"]:
        runs = row["runs"]
        speed = f"{row['frame_time']['median_ms']:.1f}" if row["frame_time"] else ""
        best = ", ".join(str(run["best_epoch"]) for run in runs)
        dice, minutes = (fmean(run[key] for run in runs) for key in ("validation_dice", "training_s"))
        cost = f"{row['parameters']:,} | {row['gmac']:.2f} | {speed}"
        lines.append(f"| {row['network']} | {cost} | {best} | {dice:.3f} | {minutes / 60:.0f} |")
    lines += ["", "| test set | network | images | Dice | IoU | precision | recall |", "|---|---|---|---|---|---|---|"]
    for dataset in report["networks"][0]["test"]:
        for row in report["networks"]:
            scores = row["test"][dataset]
            cells = [f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in (scores[name] for name in SCORES)]
            lines.append(f"| {dataset} | {row['network']} | {scores['dice']['count']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def kept_rows(previous: Path | None, protocol: Mapping[str, Any], networks: Sequence[str]) -> list[dict[str, Any]]:
    """Read the rows of an earlier report that this one keeps: those of networks other than `networks`.

    Args:
        previous: JSON of the earlier report; None if there is none.
        protocol: What must be equal in both reports: data, seeds, recipe and threshold.
        networks: Names of the networks measured this time.

    Returns:
        The rows; `commit` in each is the commit at which it was measured.

    Raises:
        ConfigError: The earlier report has another protocol.
    """
    if previous is None:
        return []
    report = json.loads(previous.read_text(encoding="utf-8"))
    if changed := [key for key, value in protocol.items() if report[key] != json.loads(json.dumps(value))]:
        raise ConfigError(
            f"{previous} differs in {', '.join(changed)}; give --previous a report of the same protocol, or none"
        )
    return [
        {**row, "commit": row.get("commit", report["commit"])}
        for row in report["networks"]
        if row["network"] not in networks
    ]


def planned_runs(options: argparse.Namespace) -> dict[str, list[Run]]:
    """List the runs of all networks, which differ only in network and seed."""
    return {
        name: [
            Run(
                config=TrainConfig(
                    model=name,
                    height=options.size,
                    width=options.size,
                    epochs=options.epochs,
                    batch_size=options.batch_size,
                    learning_rate=options.learning_rate,
                    average_momentum=options.average_momentum,
                    precision=options.precision,
                    augmentation=PRESETS[options.augmentation],
                    seed=seed,
                ),
                folder=RunFolder(options.runs / f"{name}-seed{seed}"),
            )
            for seed in options.seeds
        ]
        for name in options.networks
    }


def _untrained(name: str, options: argparse.Namespace) -> Path:
    path: Path = options.runs / f"{name}-untrained.keras"
    NETWORKS[name].build(height=options.size, width=options.size, widths=TrainConfig().widths).save(path)
    return path


def compare(options: argparse.Namespace) -> dict[str, Any] | None:
    """Train and measure everything; returns None if only training was requested."""
    runs = planned_runs(options)
    recipe = {key: value for key, value in asdict(runs[options.networks[0]][0].config).items() if key != "model"}
    protocol = {
        "data": list(options.datasets),
        "seeds": list(options.seeds),
        "recipe": {key: value for key, value in recipe.items() if key != "seed"},
        "threshold": THRESHOLD,
    }
    kept = kept_rows(options.previous, protocol, options.networks)
    splits = splits_from_csv(options.data / "splits.csv", "grouped")
    pairs = pairs_from_folders([options.data / name for name in options.datasets])
    parts = {"training": split_pairs(pairs, splits, "train"), "validation": split_pairs(pairs, splits, "val")}
    samples = load_splits(parts, height=options.size, width=options.size, workers=options.workers)
    train_all([run for some in runs.values() for run in some], **samples, workers=options.workers)
    if options.train_only:
        return None
    test = split_pairs(pairs, splits, "test")
    rows = [*(network_row(name, some, test) for name, some in runs.items()), *kept]
    rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
    files = {name: onnx_file(some[0].folder.best) for name, some in runs.items()}
    files |= {row["network"]: onnx_file(_untrained(row["network"], options)) for row in kept}
    exported = {name: file for name, file in files.items() if file is not None}
    times = frame_times(exported, [read_rgb(pair.image) for pair in test[:TIMED_IMAGES]]) if exported else {}
    frame_time = {name: asdict(time) for name, time in times.items()}
    return {
        "keras": {"version": keras.__version__, "backend": keras.backend.backend()},
        **protocol,
        "networks": [{**row, "frame_time": frame_time.get(row["network"])} for row in rows],
    }


def main() -> None:
    """Train, measure, print and write JSON and Markdown."""
    default = TrainConfig()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the run folders")
    parser.add_argument("--datasets", nargs="+", default=DATASETS)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--epochs", type=int, default=default.epochs)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=default.batch_size)
    parser.add_argument("--seeds", type=int, nargs="+", default=[default.seed])
    parser.add_argument("--learning-rate", type=float, default=default.learning_rate)
    parser.add_argument("--average-momentum", type=float, default=default.average_momentum)
    parser.add_argument("--augmentation", default="strong", choices=list(PRESETS))
    parser.add_argument("--precision", default=default.precision, choices=PRECISIONS)
    parser.add_argument("--workers", type=int, default=2, help="threads that prepare batches")
    parser.add_argument("--previous", type=Path, help="report (JSON) whose rows of other networks are kept")
    parser.add_argument("--train-only", action="store_true", help="only train, without measurements")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = compare(options)
    if results is None:
        print(f"training finished; run the same command without --train-only over {options.runs} to create the table")
        return
    path = write_report("compare_networks", results, folder=options.results)
    table = markdown(json.loads(path.read_text(encoding="utf-8")))
    print(table)
    print(f"written to {path} and {write_table(path, table)}")


if __name__ == "__main__":
    main()
