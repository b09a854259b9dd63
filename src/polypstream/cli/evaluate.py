"""`polypstream evaluate`: scores a model on data sets or a labeled video, or records against corrected labels."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from polypstream.cli.import_labels import LabelOption, TableOption
from polypstream.cli.options import AccurateOption, JsonOption, MaskValuesOption, ThresholdOption
from polypstream.cli.terminal import frame_progress, one_line
from polypstream.errors import OutputError

if TYPE_CHECKING:
    from polypstream.evaluation.evaluate import Evaluation
    from polypstream.evaluation.true_colon import TrueColon
    from polypstream.evaluation.video import VideoEvaluation
    from polypstream.train.data import Pair
    from polypstream.train.image_files import MaskValues


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("evaluate")(evaluate)


def evaluate(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA",
            help="Folders with images/ and masks/, or Original/ and Ground Truth/; or a _polyps.jsonl file.",
            show_default=False,
        ),
    ] = None,
    splits: Annotated[
        Path | None, typer.Option(help="CSV of dataset,image,<column>.", show_default="all images")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(
            help="Split to evaluate; without --splits, the split of polypstream train.",
            show_default="test with --splits, else all",
        ),
    ] = None,
    split_column: Annotated[Literal["grouped", "random"], typer.Option(help="Column of the splits file.")] = "grouped",
    video: Annotated[Path | None, typer.Option(help="A labeled video to evaluate instead of DATA.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks for every frame of --video: 00000.png for its first frame.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="EXPORT",
            help="Labels of --video or of the records: CVAT, COCO, YOLO, Label Studio, Pascal VOC or masks.",
        ),
    ] = None,
    label: LabelOption = None,
    table: TableOption = None,
    model: Annotated[
        Path | None, typer.Option(help="ONNX or .keras model file.", show_default="the one in the package")
    ] = None,
    threshold: ThresholdOption = None,
    min_peak: Annotated[
        float | None,
        typer.Option(
            help="Probability that a region must reach somewhere.",
            show_default="the model's; 0 with --threshold",
        ),
    ] = None,
    mask_values: MaskValuesOption = "",
    crop: Annotated[
        Literal["none", "content"] | None,
        typer.Option(
            help="Part of each image that the model receives: all, or its content area.", show_default="the model's"
        ),
    ] = None,
    accurate: AccurateOption = False,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="CSV file for the scores of every image or frame.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File for a plot of an evaluated video: PNG, SVG or PDF.")
    ] = None,
    true_colon: Annotated[
        bool, typer.Option("--true-colon", help="Add the TRUE-Colon protocol: matched operating point and AFROC.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score a model in source pixels: means over images with 95% bootstrap intervals.

    With --video, and --masks or --against: Dice, IoU and sensitivity per frame and per polyp, time to first
    detection, persistence, flicker, and false alarms on clean frames by area and duration. With a _polyps.jsonl file
    and --against: the same for the results of polypstream annotate.
    """
    of_records = against is not None and video is None and bool(data) and len(data or []) == 1
    of_video = video is not None and not data and (masks is None) != (against is None)
    of_images = bool(data) and video is None and masks is None and against is None
    if not (of_records or of_video or of_images):
        raise typer.BadParameter(
            "give DATA folders, or --video VIDEO with --masks FOLDER or --against EXPORT, "
            "or a _polyps.jsonl file with --against EXPORT"
        )
    if (plot is not None and of_images) or (true_colon and not of_video):
        raise typer.BadParameter("--plot needs a video or records, --true-colon needs --video")
    from polypstream.evaluation.evaluate import evaluate_pairs, evaluate_records, evaluate_video
    from polypstream.evaluation.imports.read import LabelOptions
    from polypstream.evaluation.predictor import open_predictor
    from polypstream.evaluation.true_colon import Collector
    from polypstream.train.image_files import MaskValues

    values = MaskValues.parse(mask_values) or None
    options = LabelOptions(labels=tuple(label or ()), table=table, mask_values=values, are_complete=masks is not None)
    labels = masks or against
    if of_records and data and labels is not None:
        with frame_progress("evaluating") as advance:
            of_clip = evaluate_records(data[0], labels, options=options, advance=advance)
        _report_video(of_clip, data[0].name, csv_file, plot, None, as_json=as_json)
        return
    pairs = _pairs(data or [], splits, split, split_column, values)
    with open_predictor(model, crop=crop, accurate=accurate) as predictor, frame_progress("evaluating") as advance:
        at, peak = (predictor.threshold, predictor.min_peak) if threshold is None else (threshold, 0.0)
        peak = peak if min_peak is None else min_peak
        if video is not None and labels is not None:
            collector = Collector() if true_colon else None
            of_clip = evaluate_video(
                predictor.predict,
                video,
                labels,
                at,
                min_peak=peak,
                options=options,
                advance=advance,
                true_colon=collector,
            )
        else:
            result = evaluate_pairs(predictor.predict, pairs, at, min_peak=peak, advance=advance)
    if of_video:
        protocol = None if collector is None else collector.result(fps=_fps(of_clip))
        _report_video(of_clip, predictor.name, csv_file, plot, protocol, as_json=as_json)
        return
    if csv_file is not None:
        _write_csv(csv_file, [asdict(image) for image in result.images])
    if as_json:
        summary = {"datasets": [asdict(row) for row in result.datasets]}
        print(json.dumps({"model": predictor.name, "threshold": at, "min_peak": peak, **summary}, indent=2))
    else:
        Console().print(_table(result))


def _report_video(
    result: "VideoEvaluation",
    name: str,
    csv_file: Path | None,
    plot: Path | None,
    protocol: "TrueColon | None",
    *,
    as_json: bool,
) -> None:
    """Write the tables and the plot, and print the result."""
    if csv_file is not None:
        _write_csv(csv_file, [asdict(frame) for frame in result.frames])
        if result.polyps:
            _write_csv(csv_file.with_stem(f"{csv_file.stem}_polyps"), [asdict(polyp) for polyp in result.polyps])
    if plot is not None:
        from polypstream.evaluation.plot import plot_video

        plot_video(result, plot, title=name)
    for notice in result.notices:
        Console(stderr=True).print(f"[yellow]note:[/yellow] {one_line(notice)}", highlight=False, soft_wrap=True)
    if as_json:
        point = {"threshold": result.threshold, "min_peak": result.min_peak}
        summary = {"model": name, **point, **_video_summary(result)}
        print(json.dumps({**summary, "true_colon": None if protocol is None else asdict(protocol)}, indent=2))
        return
    for table in (_video_table(result), _polyp_table(result), _alarm_table(result)):
        Console().print(table)
    if protocol is not None:
        Console().print(_protocol_table(protocol))


def _fps(result: "VideoEvaluation") -> float:
    """Frames per second between the first and the last labeled frame."""
    first, last = result.frames[0], result.frames[-1]
    return (last.frame - first.frame) / (last.pts_s - first.pts_s) if last.frame > first.frame else 25.0


def _pairs(
    folders: list[Path],
    splits_file: Path | None,
    split: Literal["train", "val", "test"] | None,
    column: Literal["grouped", "random"],
    mask_values: "MaskValues | None",
) -> "list[Pair]":
    from polypstream.train.data import pairs_from_folders
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    pairs = pairs_from_folders(folders, mask_values=mask_values)
    if splits_file is not None and pairs:
        return split_pairs(pairs, splits_from_csv(splits_file, column), split or "test")
    return split_pairs(pairs, splits_by_hash(pairs), split) if split else pairs


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise OutputError(f"cannot write {path} ({error.strerror}); give another --csv") from error


def _point(result: "Evaluation | VideoEvaluation") -> str:
    return f"threshold {result.threshold:g}" + (f", minimum peak {result.min_peak:g}" if result.min_peak else "")


def _table(result: "Evaluation") -> Table:
    table = Table(title=f"{_point(result)}, means over images with 95% intervals", title_justify="left")
    table.add_column("data set")
    for heading in ("images", "with a polyp", "Dice", "IoU", "class-mean IoU"):
        table.add_column(heading, justify="right")
    for row in result.datasets:
        scores = str(row.dice), str(row.iou), str(row.class_mean_iou)
        counts = str(row.dice.count), str(row.with_polyp)
        table.add_row(escape(row.dataset), *counts, *(escape(score) for score in scores))
    return table


def _video_table(result: "VideoEvaluation") -> Table:
    compared = ", boxes" if result.is_boxes else ""
    table = Table(title=f"{_point(result)}{compared}", title_justify="left")
    table.add_column("frames")
    for heading in ("count", "Dice", "IoU", "sensitivity", "false alarms"):
        table.add_column(heading, justify="right")
    scores = [escape(str(each)) if each else "" for each in (result.dice, result.iou)]
    table.add_row("with a polyp", str(len(result.polyp_frames)), *scores, _percent(result.sensitivity), "")
    table.add_row("without", str(len(result.clean_frames)), "", "", "", _percent(result.false_alarm_rate))
    return table


def _polyp_table(result: "VideoEvaluation") -> Table:
    found = sum(polyp.detected_frames > 0 for polyp in result.polyps)
    table = Table(title=f"polyps: {found} of {len(result.polyps)} detected", title_justify="left")
    table.add_column("polyp")
    has_tracks = any(polyp.predicted_tracks is not None for polyp in result.polyps)
    headings = ("frames", "found", "Dice", "IoU", "first s", "kept", "miss", "flicker", *["tracks"] * has_tracks)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for polyp in result.polyps:
        table.add_row(
            escape(polyp.polyp),
            str(polyp.frames),
            _percent(polyp.sensitivity),
            f"{polyp.dice:.3f}",
            f"{polyp.iou:.3f}",
            "never" if polyp.latency_s is None else f"{polyp.latency_s:.2f}",
            _percent(polyp.persistence),
            str(polyp.longest_miss_frames),
            f"{polyp.flicker_per_s:.2f}",
            *[str(polyp.predicted_tracks)] * has_tracks,
        )
    return table


def _alarm_table(result: "VideoEvaluation") -> Table:
    table = Table(title="clean frames with an alarm, by size and consecutive frames", title_justify="left")
    table.add_column("of the frame")
    for run in dict.fromkeys(row.min_frames for row in result.alarms):
        table.add_column(f"≥ {run}", justify="right")
    for area in dict.fromkeys(row.min_area_share for row in result.alarms):
        shares = [_percent(row.frame_share) for row in result.alarms if row.min_area_share == area]
        table.add_row(f"≥ {area:.1%}" if area else "any", *shares)
    return table


def _protocol_table(protocol: "TrueColon") -> Table:
    table = Table(title="TRUE-Colon", title_justify="left", show_header=False)
    latency, area = protocol.mean_latency_frames, protocol.afroc_area
    reached = "" if protocol.is_feasible else " (not reached)"
    table.add_row("score for the target", f"{protocol.matched_threshold:.3f}")
    table.add_row(
        "clean frames with an alarm", f"{protocol.matched_fpr:.1%}, target {protocol.target_fpr:.1%}{reached}"
    )
    table.add_row("polyp frames detected", f"{protocol.matched_tpr:.1%}")
    table.add_row("polyps detected", f"{protocol.detected_polyps} of {protocol.polyps}")
    table.add_row("mean time to detection", "" if latency is None else f"{latency:.1f} frames")
    table.add_row("area under AFROC", "" if area is None else f"{area:.3f}")
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _video_summary(result: "VideoEvaluation") -> dict[str, Any]:
    return {
        "polyp_frames": len(result.polyp_frames),
        "clean_frames": len(result.clean_frames),
        "is_boxes": result.is_boxes,
        "dice": asdict(result.dice) if result.dice else None,
        "iou": asdict(result.iou) if result.iou else None,
        "sensitivity": result.sensitivity,
        "false_alarm_rate": result.false_alarm_rate,
        "polyp_sensitivity": result.polyp_sensitivity,
        "polyps": [asdict(polyp) for polyp in result.polyps],
        "alarms": [asdict(row) for row in result.alarms],
    }
