"""`polypstream convert`: exports records to the formats of annotation tools and video editors, without inference."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from polypstream.cli.options import FormatOption
from polypstream.cli.terminal import one_line, print_error
from polypstream.errors import PolypstreamError
from polypstream.realtime.annotate.formats import ExportFormat


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("convert")(convert)


def convert(
    records: Annotated[
        list[Path],
        typer.Argument(metavar="RECORDS", help="_polyps.jsonl files, each with its _summary.json next to it."),
    ],
    formats: FormatOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the results.", show_default="the records'"),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="VIDEO",
            help="The video of the records, whose frames are then written as images too where the format has them "
            "(coco, yolo).",
            show_default=False,
        ),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            "--video",
            metavar="VIDEO",
            help="The DICOM video of the records, to whose study and frames dicom-seg refers.",
            show_default=False,
        ),
    ] = None,
    keyframe_tolerance: Annotated[
        float,
        typer.Option(
            "--keyframe-tolerance",
            metavar="PIXELS",
            min=0.0,
            help="Largest error of CVAT's interpolation between keyframes; a larger tolerance needs fewer keyframes.",
        ),
    ] = 0.5,
) -> None:
    """Export RECORDS to the formats of annotation tools and video editors.

    No inference is run. Each export includes <stem>_frames.csv, a table of frame numbers, presentation times and
    seconds.
    """
    if not formats:
        raise typer.BadParameter("name at least one format", param_hint="--format")
    for option, value in (("--images", images), ("--video", video)):
        if value is not None and len(records) > 1:
            raise typer.BadParameter("requires a single records file", param_hint=option)
    if ExportFormat.DICOM_SEG in formats and video is None:
        raise typer.BadParameter("dicom-seg needs the DICOM video of the records", param_hint="--video")
    from polypstream.realtime.annotate.formats.export import export_recording
    from polypstream.realtime.annotate.formats.recording import open_recording

    console, failed = Console(), False
    for path in records:
        try:
            recording = open_recording(path, video=video)
            written = export_recording(
                recording,
                formats,
                output or path.parent,
                images_of=images,
                keyframe_tolerance_px=keyframe_tolerance,
            )
        except PolypstreamError as error:
            failed = True
            print_error(error)
            continue
        for warning in recording.warnings:
            console.print(f"[yellow]{one_line(path.name)}:[/yellow] {one_line(warning)}", soft_wrap=True)
        for each in written:
            console.print(one_line(each), soft_wrap=True, highlight=False)
    if failed:
        raise typer.Exit(1)
