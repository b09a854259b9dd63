"""`polypstream annotate`: videos in, the same videos with every polyp outlined out."""

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from polypstream.cli.model import opened
from polypstream.errors import ConfigError, PolypstreamError

if TYPE_CHECKING:
    from polypstream.realtime import annotate as job
    from polypstream.realtime.segmenter import Segmenter
    from polypstream.realtime.source import Damage

DEMO_NAME = "demo.mp4"

error_console = Console(stderr=True)


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("annotate")(annotate)


def annotate(
    videos: Annotated[list[Path] | None, typer.Argument(help="Video files.", show_default=False)] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("annotated"),
    model: Annotated[Path | None, typer.Option(help="ONNX model.  (default: the one in the package)")] = None,
    backend: Annotated[str, typer.Option(help="Inference backend; polypstream doctor lists them.")] = "auto",
    threshold: Annotated[
        float | None,
        typer.Option(min=0.001, max=0.999, help="Probability that counts as polyp.  (default: the model's)"),
    ] = None,
    codec: Annotated[str, typer.Option(help="h264, hevc, ffv1, or any FFmpeg video encoder.")] = "h264",
    quality: Annotated[str, typer.Option(help="CRF, lower is better, or 'lossless'.")] = "18",
    records_only: Annotated[
        bool, typer.Option("--records-only", help="Write no video, only the line per frame: faster, and small.")
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Make a synthetic clip in the output folder and annotate it.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Outline every polyp in VIDEOS, frame by frame.

    For each video, OUTPUT receives <stem>_overlay.mp4, the same video with contours, and <stem>_polyps.jsonl, a line
    per frame. Research software, not a medical device.
    """
    from polypstream.realtime.annotate import AnnotateConfig
    from polypstream.realtime.sink import Encoding

    videos = list(videos or [])
    if not videos and not demo:
        raise typer.BadParameter("name at least one video, or use --demo", param_hint="VIDEOS")
    _check_names(videos, demo=demo)
    segmenter = opened(model, backend)
    config = AnnotateConfig(
        threshold=segmenter.contract.threshold if threshold is None else threshold,
        encoding=None if records_only else Encoding(codec=codec, quality=_quality(quality)),
    )
    if demo:
        videos.insert(0, _make_demo(output))
    done, failed = [], []
    for video in videos:
        try:
            done.append(_annotate_with_progress(video, output, segmenter, config))
        except PolypstreamError as error:
            failed.append((video, str(error)))
            error_console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        except KeyboardInterrupt:
            error_console.print(f"interrupted; what was done of {escape(video.name)} is in {escape(str(output))}")
            raise
    if as_json:
        print(_json_of(done, failed))
    elif done:
        _print_summary(done, output)
    if failed:
        raise typer.Exit(1)


def _quality(text: str) -> int | Literal["lossless"]:
    if text == "lossless":
        return "lossless"
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is neither a number nor 'lossless'", param_hint="--quality") from None


def _check_names(videos: list[Path], *, demo: bool) -> None:
    stems = Counter([video.stem for video in videos] + [Path(DEMO_NAME).stem] * demo)
    twice = sorted(stem for stem, count in stems.items() if count > 1)
    if twice:
        raise ConfigError(f"several videos are named {', '.join(twice)}; give each its own --output, or rename them")


def _make_demo(folder: Path) -> Path:
    from polypstream.errors import SinkError
    from polypstream.synthetic import SyntheticClip, write_clip

    path, clip = folder / DEMO_NAME, SyntheticClip()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _progress() as progress:
            task = progress.add_task("making a synthetic clip", total=clip.frame_count, rate="")
            write_clip(path, clip, on_frame=lambda index: progress.update(task, completed=index + 1))
    except OSError as error:
        raise SinkError(f"cannot write {path}: {error.strerror}; choose another folder with --output") from None
    return path


def _annotate_with_progress(
    video: Path, folder: Path, segmenter: "Segmenter", config: "job.AnnotateConfig"
) -> "job.Annotated":
    from polypstream.realtime.annotate import annotate_video

    with _progress() as progress:
        task = progress.add_task(escape(video.name), total=None, rate="")
        return annotate_video(video, folder, segmenter, config, on_step=lambda step: _show(progress, task, step))


def _show(progress: Progress, task: TaskID, step: "job.Step") -> None:
    total = step.frames_expected
    if total is None and step.duration_s and step.pts_s > 0:
        total = round(step.frames * step.duration_s / step.pts_s)
    rate = f"{step.fps:.1f} fps" if step.fps else ""
    progress.update(task, completed=step.frames, total=total and max(total, step.frames), rate=rate)


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    return Progress(*columns, console=error_console, disable=not sys.stderr.isatty())


def _print_summary(done: "list[job.Annotated]", folder: Path) -> None:
    console = Console()
    table = Table()
    table.add_column("video", overflow="fold")
    for heading in ("frames", "with polyp", "fps", "latency p50 / p99"):
        table.add_column(heading, justify="right")
    for row in done:
        latency = f"{row.latency.p50_ms:.0f} / {row.latency.p99_ms:.0f} ms" if row.latency else ""
        fps = f"{row.fps:.1f}" if row.fps else ""
        table.add_row(escape(row.video.name), str(row.frames), str(row.frames_with_polyp), fps, latency)
    console.print(table)
    for row in done:
        for remark in (*row.notices, *map(_stretch, row.damage)):
            console.print(f"[yellow]{escape(row.video.name)}:[/yellow] {escape(remark)}", soft_wrap=True)
    written = "overlays and records" if any(row.overlay for row in done) else "records"
    console.print(f"{written} are in {escape(str(folder))}", soft_wrap=True, highlight=False)


def _stretch(damage: "Damage") -> str:
    start, end = ("?" if at is None else f"{at:.2f}" for at in (damage.start_s, damage.end_s))
    return f"damaged from {start} to {end} s: {damage.message}"


def _json_of(done: "list[job.Annotated]", failed: list[tuple[Path, str]]) -> str:
    summary = {
        "done": [asdict(annotated) for annotated in done],
        "failed": [{"video": video, "error": message} for video, message in failed],
    }
    return json.dumps(summary, indent=2, default=str)
