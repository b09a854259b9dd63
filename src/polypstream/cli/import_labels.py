"""`polypstream import`: adds corrected labels of a video to a data set for training and evaluation."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from polypstream.cli.options import JsonOption, MaskValuesOption
from polypstream.cli.terminal import frame_progress, one_line

if TYPE_CHECKING:
    from polypstream.evaluation.imports.dataset import ImportReport


class BoxesOption(StrEnum):
    """Values of `--boxes`."""

    REFUSE = "refuse"
    FILL = "fill"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("import")(import_labels)


LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME", help="Label that means polyp; repeatable.", show_default="detected"),
]
TableOption = Annotated[
    Path | None,
    typer.Option(
        "--frames",
        metavar="FILE",
        help="Frame table that belongs to the export.",
        show_default="<video>_frames.csv next to the export",
    ),
]


def import_labels(
    export: Annotated[
        Path,
        typer.Argument(
            help="CVAT XML, COCO, YOLO, Label Studio JSON, or a folder of masks; also zipped.", show_default=False
        ),
    ],
    video: Annotated[Path, typer.Option(metavar="FILE", help="The video that was labeled.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Data set to add to.", show_default=False)
    ],
    every: Annotated[int, typer.Option(min=1, help="Import every N-th frame.")] = 1,
    max_clean_share: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SHARE", help="Largest fraction of frames without a polyp; 1 imports all."),
    ] = 0.5,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="Split for all frames of the video.", show_default="keeps 80/10/10 over the videos"),
    ] = None,
    label: LabelOption = None,
    boxes: Annotated[
        BoxesOption, typer.Option(help="Boxes are not outlines: refuse them, or fill them as rectangles.")
    ] = BoxesOption.REFUSE,
    table: TableOption = None,
    mask_values: MaskValuesOption = "",
    as_json: JsonOption = False,
) -> None:
    """Import corrected labels into a data set.

    Adds the labeled frames of VIDEO and their masks to images/ and masks/ of the output folder, for polypstream train
    and evaluate; frames without a polyp become negatives. splits.csv keeps each video in one part.
    """
    from polypstream.evaluation.imports.dataset import Boxes, ImportConfig
    from polypstream.evaluation.imports.dataset import import_labels as run
    from polypstream.evaluation.imports.read import LabelOptions
    from polypstream.train.image_files import MaskValues

    config = ImportConfig(
        every=every,
        max_clean_share=max_clean_share,
        boxes=Boxes(boxes.value),
        split=split,
        reading=LabelOptions(labels=tuple(label or ()), table=table, mask_values=MaskValues.parse(mask_values) or None),
    )
    with frame_progress("importing") as advance:
        report = run(export, video, output, config, on_progress=advance)
    if as_json:
        print(json.dumps({**asdict(report), "dataset": str(report.dataset)}, indent=2))
    else:
        _print(report)


def _print(report: "ImportReport") -> None:
    for notice in report.notices:
        Console(stderr=True).print(f"[yellow]note:[/yellow] {one_line(notice)}", highlight=False, soft_wrap=True)
    Console().print(
        f"{report.polyp_frames} frames with a polyp and {report.clean_frames} without (of {report.video_frames}) "
        f"from {escape(report.format)} to {one_line(report.dataset)}, split {report.split}",
        highlight=False,
        soft_wrap=True,
    )
