"""`polypstream evaluate`: per-image Dice and IoU of a model on data sets, or its detection on a clip with masks."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, TimeRemainingColumn
from rich.table import Table

from polypstream.errors import MissingExtraError, ModelError, SinkError

if TYPE_CHECKING:
    from polypstream.train.data import Pair
    from polypstream.train.evaluate import Advance, Evaluation, Predict, VideoEvaluation
    from polypstream.train.picture_network import PictureNetwork


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("evaluate")(evaluate)


def evaluate(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA...",
            help="Folders with images/ and masks/, or Original/ and Ground Truth/.",
            show_default=False,
        ),
    ] = None,
    splits: Annotated[Path | None, typer.Option(help="CSV of dataset,image,<column>.  (default: all images)")] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(
            help="Which part.  (default: test with --splits; without it the parts are those that train makes)"
        ),
    ] = None,
    split_column: Annotated[Literal["grouped", "random"], typer.Option(help="Column of the splits file.")] = "grouped",
    video: Annotated[Path | None, typer.Option(help="A clip to evaluate instead of DATA.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of the clip's masks, 00000.png for its first frame.")
    ] = None,
    model: Annotated[Path | None, typer.Option(help="ONNX or .keras model.  (default: the one in the package)")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Probability that counts as polyp.  (default: the model's)"),
    ] = None,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="File for the scores of every image or frame.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Measure a model in source pixels: means over images with 95% bootstrap intervals.

    With --video and --masks: Dice and sensitivity over the frames that show a polyp, false alarms over the others.
    """
    if (video is None) != (masks is None) or (video is None) == (not data):
        raise typer.BadParameter("give DATA folders, or --video CLIP together with --masks FOLDER")
    from polypstream.train.evaluate import evaluate_pairs, evaluate_video

    pairs = _pairs(data or [], splits, split, split_column)
    with _opened(model) as judged, _progress() as advance:
        at = judged.threshold if threshold is None else threshold
        if video is not None and masks is not None:
            of_clip = evaluate_video(judged.predict, video, masks, at, advance=advance)
            rows = [asdict(frame) for frame in of_clip.frames]
            summary, table = _video_summary(of_clip), _video_table(of_clip)
        else:
            result = evaluate_pairs(judged.predict, pairs, at, advance=advance)
            rows = [asdict(image) for image in result.images]
            summary, table = {"datasets": [asdict(row) for row in result.datasets]}, _table(result)
    if csv_file is not None:
        _write_csv(csv_file, rows)
    if as_json:
        print(json.dumps({"model": judged.name, "threshold": at, **summary}, indent=2))
    else:
        Console().print(table)


def _pairs(
    folders: list[Path],
    splits_file: Path | None,
    split: Literal["train", "val", "test"] | None,
    column: Literal["grouped", "random"],
) -> "list[Pair]":
    from polypstream.train.data import pairs_from_folders
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    pairs = pairs_from_folders(folders)
    if splits_file is not None and pairs:
        return split_pairs(pairs, splits_from_csv(splits_file, column), split or "test")
    return split_pairs(pairs, splits_by_hash(pairs), split) if split else pairs


@dataclass(frozen=True, kw_only=True)
class _Judged:
    name: str
    threshold: float
    predict: "Predict"


@contextmanager
def _opened(path: Path | None) -> Iterator[_Judged]:
    """The model at `path`, or the package's own; closed at the end."""
    from polypstream.models import default_model
    from polypstream.realtime.segmenter import segmenter_from_onnx
    from polypstream.realtime.still import probability_of_still

    path = path or default_model()
    if path.suffix == ".keras":
        yield _Judged(name=path.name, threshold=0.5, predict=partial(probability_of_still, _picture_network(path)))
        return
    with segmenter_from_onnx(path, backend="onnxruntime") as segmenter:  # the same figures everywhere
        predict = partial(probability_of_still, segmenter)
        yield _Judged(name=path.name, threshold=segmenter.contract.threshold, predict=predict)


def _picture_network(path: Path) -> "PictureNetwork":
    try:
        import keras
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a .keras model (no module named {error.name!r})", "train") from error
    from polypstream.train.picture_network import PictureNetwork

    try:
        network = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be loaded as a Keras model ({reason}); check --model") from error
    _, height, width, channels = network.input_shape
    if None in (height, width) or channels != 3:
        raise ModelError(f"{path} takes {network.input_shape}; it should take RGB pictures of one size")
    return PictureNetwork(network)


@contextmanager
def _progress() -> "Iterator[Advance]":
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise SinkError(f"cannot write {path} ({error.strerror}); give another --csv") from error


def _table(result: "Evaluation") -> Table:
    table = Table(title=f"threshold {result.threshold:g}, means over images with 95% intervals", title_justify="left")
    table.add_column("data set")
    for heading in ("images", "Dice", "IoU", "class-mean IoU"):
        table.add_column(heading, justify="right")
    for row in result.datasets:
        scores = str(row.dice), str(row.iou), str(row.class_mean_iou)
        table.add_row(escape(row.dataset), str(row.dice.count), *(escape(score) for score in scores))
    return table


def _video_table(result: "VideoEvaluation") -> Table:
    table = Table(title=f"threshold {result.threshold:g}", title_justify="left")
    table.add_column("frames")
    for heading in ("count", "Dice", "sensitivity", "false alarms"):
        table.add_column(heading, justify="right")
    dice = escape(str(result.dice)) if result.dice else ""
    table.add_row("with a polyp", str(len(result.polyp_frames)), dice, _percent(result.sensitivity), "")
    table.add_row("without", str(len(result.clean_frames)), "", "", _percent(result.false_alarm_rate))
    return table


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _video_summary(result: "VideoEvaluation") -> dict[str, Any]:
    return {
        "polyp_frames": len(result.polyp_frames),
        "clean_frames": len(result.clean_frames),
        "dice": asdict(result.dice) if result.dice else None,
        "sensitivity": result.sensitivity,
        "false_alarm_rate": result.false_alarm_rate,
    }
