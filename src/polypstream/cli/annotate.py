"""`polypstream annotate`: outlines every polyp in video files."""

import gc
import json
import sys
from dataclasses import asdict
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from polypstream.cli.config import ConfigOption, PrintConfigOption
from polypstream.cli.options import (
    AccurateOption,
    BackendName,
    BackendOption,
    FormatOption,
    JsonOption,
    ModelOption,
    ThresholdOption,
    UrlOption,
    open_segmenter,
)
from polypstream.cli.terminal import one_line, print_error
from polypstream.errors import PolypstreamError

if TYPE_CHECKING:
    from polypstream.realtime.annotate import batch, job
    from polypstream.realtime.video.reader import Damage

DEMO_NAME = "demo.mp4"

error_console = Console(stderr=True)


class Overlay(StrEnum):
    """Values of `--overlay`."""

    BURNED = "burned"
    SOFT = "soft"
    BOTH = "both"
    NONE = "none"


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("annotate")(annotate)


def annotate(
    videos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="VIDEOS",
            help="Video files, folders (searched with their subfolders), patterns such as 'scans/**/*.mkv', or - for "
            "names on standard input; also addresses such as s3://bucket/folder.",
            show_default=False,
        ),
    ] = None,
    list_file: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="Text file with more names, one per line.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the results.")] = Path(
        "annotated"
    ),
    model: ModelOption = None,
    backend: BackendOption = BackendName.AUTO,
    url: UrlOption = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Operating point of the model whose threshold and minimum area are used, such as specific.",
            show_default="the model's threshold",
        ),
    ] = None,
    threshold: ThresholdOption = None,
    temporal: Annotated[
        bool,
        typer.Option(
            "--temporal/--no-temporal",
            help="Drop detections that last less than 0.2 s, fill gaps of up to 0.4 s by motion, and follow polyps "
            "over the edge of the image.",
        ),
    ] = True,
    accurate: AccurateOption = False,
    codec: Annotated[
        str,
        typer.Option(metavar="NAME", help="h264, hevc, av1, vp9, ffv1, h264_nvenc, hevc_nvenc, or any FFmpeg encoder."),
    ] = "h264",
    quality: Annotated[
        str, typer.Option(metavar="NUMBER", help="Constant rate factor, 0 (best) to 51, or 'lossless'.")
    ] = "18",
    overlay: Annotated[
        Overlay,
        typer.Option(
            help="burned: encode the video with the contours drawn into it; soft: copy it unchanged into "
            "<stem>_soft.mkv with the contours as a subtitle track that players switch on and off; both; or none."
        ),
    ] = Overlay.BURNED,
    decoder: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="What decodes the videos. auto: the GPU with the tensorrt backend if it can, else the CPU; cuda: the "
            "GPU, also with other backends."
        ),
    ] = "auto",
    formats: FormatOption = None,
    proxy: Annotated[
        bool,
        typer.Option(
            "--proxy",
            help="Also write <stem>_proxy.mp4, a seekable copy at a constant frame rate for tools, "
            "with the frame numbers of the records.",
        ),
    ] = False,
    with_report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Write <stem>_report.html, one page with every polyp on a timeline; index.html for several videos.",
        ),
    ] = False,
    deidentify: Annotated[
        bool,
        typer.Option(
            "--deidentify",
            help="Black out everything except the endoscope image, pixelate parts outside the body, and omit "
            "metadata, file names and sound.",
        ),
    ] = False,
    keep_audio: Annotated[bool, typer.Option("--keep-audio", help="Keep the sound with --deidentify.")] = False,
    records_only: Annotated[bool, typer.Option("--records-only", help="Equivalent to --overlay none.")] = False,
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", metavar="N", min=1, help="Number of videos annotated in parallel, each in its own process."
        ),
    ] = 1,
    redo: Annotated[bool, typer.Option("--redo", help="Annotate finished videos again.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="ADDRESS",
            help="Annotate on the Ray cluster at this address (extra cluster); auto: the one that this machine is "
            "part of.",
        ),
    ] = None,
    num_gpus: Annotated[
        float, typer.Option(metavar="NUMBER", min=0, help="With --ray: GPUs per task; fractions are allowed.")
    ] = 0.0,
    demo: Annotated[
        bool, typer.Option("--demo", help="Render a synthetic clip in the output folder and annotate it.")
    ] = False,
    config: ConfigOption = None,
    print_config: PrintConfigOption = False,
    as_json: JsonOption = False,
) -> None:
    """Outline every polyp in VIDEOS.

    Writes for each video <stem>_overlay.mp4, a copy with contours, <stem>_polyps.jsonl, one line per frame, and the
    requested formats with a table of frame numbers and times. Finished videos are skipped, so the same command resumes
    an interrupted batch. The exit code is 1 if a video failed. Research software, not a medical device.
    """
    from polypstream.realtime.annotate.inputs import InputVideo, find_videos

    names = [*(videos or []), *([] if list_file is None else _names_in(list_file))]
    if "-" in names:
        names = [name for name in names if name != "-"] + _names_on_standard_input()
    if not names and not demo:
        raise typer.BadParameter("name at least one video, or use --demo", param_hint="VIDEOS")
    found, unmatched = find_videos(names, output=output)
    if demo:
        found.insert(0, InputVideo(path=output / DEMO_NAME))
    from polypstream.realtime.annotate.batch import check_names, run_batch, runner_here

    check_names(found, output)
    from polypstream.realtime.annotate.job import AnnotateConfig
    from polypstream.realtime.annotate.workers import ModelFile, runner_in_processes
    from polypstream.realtime.video.writer import Encoding

    overlay = Overlay.NONE if records_only else overlay
    is_burned, is_soft = overlay in {Overlay.BURNED, Overlay.BOTH}, overlay in {Overlay.SOFT, Overlay.BOTH}
    encoding = Encoding(codec=codec, quality=_quality(quality)) if is_burned else None
    segmenter = open_segmenter(model, backend.value, url=url, accurate=accurate)
    point = segmenter.contract.recording_point(operating_point).with_threshold(threshold)
    settings = AnnotateConfig(
        threshold=point.threshold,
        min_area_share=point.min_area_share,
        min_peak=point.min_peak,
        temporal=temporal,
        encoding=encoding,
        soft_overlay=is_soft,
        decoder=decoder,
        formats=tuple(formats or ()),
        proxy=proxy,
        report=with_report,
        deidentify=deidentify,
        keep_audio=keep_audio,
    )
    if demo:
        _make_demo(output)
    identity = ModelFile(path=model, backend=backend.value, accurate=accurate, url=url).identity(segmenter)
    file = ModelFile(path=model, backend=segmenter.backend, accurate=accurate, url=url)
    if ray is not None:
        from polypstream.realtime.annotate.cluster import ClusterConfig, runner_on_cluster

        cluster = ClusterConfig(address=ray, num_gpus=num_gpus)
        runner = runner_on_cluster(file, settings, cluster)
    elif jobs > 1 and len(found) > 1:
        runner = runner_in_processes(file, settings, jobs=jobs)
    else:
        runner = runner_here(segmenter, settings)
        gc.freeze()  # imported modules and the open model stay: garbage collections need not visit them
    with _progress() as progress:
        try:
            report = run_batch(
                found,
                output,
                runner,
                settings,
                model=identity,
                unmatched=unmatched,
                redo=redo,
                on_progress=_BatchDisplay(progress).show,
                on_failed=lambda failure: print_error(failure.error),
            )
        except KeyboardInterrupt:
            progress.stop()
            error_console.print(f"interrupted; finished results are in {one_line(output)}", soft_wrap=True)
            raise
    if as_json:
        print(_json_of(report))
    elif report.done or report.skipped:
        _print_summary(report, output)
    if report.failed:
        raise typer.Exit(1)


def _names_in(path: Path) -> list[str]:
    from polypstream.errors import SourceError
    from polypstream.realtime.annotate.inputs import names_in

    try:
        return names_in(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError as error:
        raise SourceError(f"the list {path} cannot be read ({error.strerror}); check the path") from None


def _names_on_standard_input() -> list[str]:
    from polypstream.realtime.annotate.inputs import names_in

    return names_in(sys.stdin.buffer.read().decode("utf-8", errors="surrogateescape"))


def _quality(text: str) -> int | Literal["lossless"]:
    if text == "lossless":
        return "lossless"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a number nor 'lossless'", param_hint="--quality") from None


def _make_demo(folder: Path) -> Path:
    from polypstream.files import write_error
    from polypstream.synthetic import SyntheticClip, write_clip

    path, clip = folder / DEMO_NAME, SyntheticClip()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            task = progress.add_task("making a synthetic clip", total=clip.frame_count, rate="")
            write_clip(path, clip, on_frame=lambda index: progress.update(task, completed=index + 1))
    except PolypstreamError:
        raise
    except OSError as error:
        raise write_error(path, error) from error
    return path


class _BatchDisplay:
    """Progress bars: one per video being annotated and, above them, one for a batch of several."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._batch: TaskID | None = None
        self._bars: dict[Path, TaskID] = {}

    def show(self, step: "batch.BatchProgress") -> None:
        """Update all bars."""
        if step.videos > 1:
            if self._batch is None:
                self._batch = self._progress.add_task("all videos", total=step.videos, rate="")
            left = "" if step.seconds_left is None else f"{timedelta(seconds=round(step.seconds_left))} left"
            self._progress.update(self._batch, completed=step.videos_ended, rate=left)
        for video in [each for each in self._bars if each not in step.running]:
            self._progress.remove_task(self._bars.pop(video))
        for video, frames in step.running.items():
            if video not in self._bars:
                self._bars[video] = self._progress.add_task(one_line(video.name), total=None, rate="")
            self._show(self._bars[video], frames)

    def _show(self, bar: TaskID, step: "job.AnnotationProgress") -> None:
        total = step.frames_expected
        if total is None and step.duration_s and step.pts_s > 0:
            total = round(step.frames * step.duration_s / step.pts_s)
        rate = f"{step.fps:.1f} fps" if step.fps else ""
        self._progress.update(bar, completed=step.frames, total=total and max(total, step.frames), rate=rate)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=error_console, disable=not sys.stderr.isatty())


def _print_summary(report: "batch.BatchReport", folder: Path) -> None:
    console, done = Console(), report.done
    table = Table()
    table.add_column("video", overflow="fold")
    for heading in ("frames", "with polyp", "fps", "latency p50 / p99"):
        table.add_column(heading, justify="right")
    for row in done:
        latency = f"{row.latency.p50_ms:.0f} / {row.latency.p99_ms:.0f} ms" if row.latency else ""
        fps = f"{row.fps:.1f}" if row.fps else ""
        table.add_row(one_line(row.video.name), str(row.frames), str(row.frames_with_polyp), fps, latency)
    if done:
        console.print(table)
    for row in done:
        for remark in (*row.notices, *map(_interval, row.damage)):
            console.print(f"[yellow]{one_line(row.video.name)}:[/yellow] {one_line(remark)}", soft_wrap=True)
    if report.skipped:
        count = len(report.skipped)
        many = "1 video was" if count == 1 else f"{count} videos were"
        console.print(f"{many} already finished (--redo annotates again)", soft_wrap=True, highlight=False)
    if report.failed:
        total = len(done) + len(report.skipped) + len(report.failed)
        console.print(f"[red]{len(report.failed)} of {total} failed:[/red]", highlight=False)
        for failure in report.failed:
            console.print(f"  {one_line(failure.video)}", soft_wrap=True, highlight=False)
    if done:
        has_overlays = any(row.overlay or row.soft_overlay for row in done)
        kinds = (("overlays", has_overlays), ("exports", any(row.exports or row.proxy for row in done)))
        written = " and ".join([", ".join(name for name, is_there in kinds if is_there), "records"]).removeprefix(
            " and "
        )
        console.print(f"{written} are in {one_line(folder)}", soft_wrap=True, highlight=False)


def _interval(damage: "Damage") -> str:
    start, end = ("?" if at is None else f"{at:.2f}" for at in (damage.start_s, damage.end_s))
    return f"damaged from {start} to {end} s: {damage.message}"


def _json_of(report: "batch.BatchReport") -> str:
    return json.dumps(asdict(report), indent=2, default=str)
