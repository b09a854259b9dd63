"""Unattended batches: selects the remaining videos, runs them, estimates the time left, and collects failures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Protocol

from polypstream.errors import PolypstreamError
from polypstream.realtime.annotate.detections import detection_key, log_path, write_detections
from polypstream.realtime.annotate.inputs import InputVideo, Unmatched
from polypstream.realtime.annotate.job import (
    AnnotateConfig,
    AnnotationProgress,
    AnnotationReport,
    annotate_video,
    named_for,
)
from polypstream.realtime.annotate.manifest import Manifest, fingerprint_of, settings_of, stated_duration_s
from polypstream.realtime.annotate.outputs import check_batch, outputs_of
from polypstream.realtime.annotate.storage import staged, url_of
from polypstream.realtime.annotate.summary import summary_path
from polypstream.realtime.inference.segmenter import Segmenter

_TYPICAL_S = 600.0
"""Assumed duration if no container in the batch states one."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video that a batch still has to annotate."""

    video: Path
    folder: Path
    """Output folder."""
    fingerprint: str
    """Identifies the content of the video; empty if it cannot be read."""
    settings: str
    """Hash of the model and all options."""

    @property
    def resume_key(self) -> str | None:
        """Key under which an interrupted job is resumed; None if the content is unknown."""
        return f"{self.fingerprint} {self.settings}" if self.fingerprint else None


@dataclass(frozen=True, kw_only=True)
class FailedVideo:
    """A video, folder or pattern of a batch that has no results."""

    video: Path
    error: str


@dataclass(frozen=True, kw_only=True)
class BatchReport:
    """Result of a batch."""

    done: tuple[AnnotationReport, ...]
    """Videos annotated in this run, in order of completion."""
    skipped: tuple[Path, ...]
    """Videos that an earlier run finished with the same settings."""
    failed: tuple[FailedVideo, ...]
    seconds: float
    """Wall time of the whole batch."""


@dataclass(frozen=True, kw_only=True)
class BatchProgress:
    """Progress of a whole batch."""

    videos_ended: int
    """Number of videos annotated, skipped or failed."""
    videos: int
    seconds_left: float | None
    """Estimated wall time until the last video is done; None before there is a basis for an estimate."""
    running: Mapping[Path, AnnotationProgress]
    """Videos in progress."""


class TaskEvents(Protocol):
    """Receives the events of a runner, in the thread that called it."""

    def progressed(self, task: Task, progress: AnnotationProgress) -> None:
        """More frames of a video are done."""

    def done(self, task: Task, report: AnnotationReport) -> None:
        """A video is annotated."""

    def failed(self, task: Task, error: str) -> None:
        """A video cannot be annotated."""


Runner = Callable[[Sequence[Task], TaskEvents], None]
"""Annotates the given videos, reports the end of each, and returns after the last; see `runner_here`, `workers`."""


def runner_here(segmenter: Segmenter, config: AnnotateConfig) -> Runner:
    """Create a runner that annotates videos one after the other in this process."""

    def run(tasks: Sequence[Task], events: TaskEvents) -> None:
        for task in tasks:
            try:
                report = annotate_task(task, segmenter, config, lambda step, task=task: events.progressed(task, step))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - no video may stop the others
                events.failed(task, error_text(error))
            else:
                events.done(task, report)

    return run


def annotate_task(
    task: Task,
    segmenter: Segmenter,
    config: AnnotateConfig,
    on_progress: Callable[[AnnotationProgress], None],
    *,
    detections: bytes = b"",
) -> AnnotationReport:
    """Annotate the video of a task.

    Args:
        task: The video and its output folder.
        segmenter: The network; closed at the end.
        config: Settings of the annotation.
        on_progress: Called after each frame.
        detections: Lines of a detection log computed elsewhere.

    Raises:
        PolypstreamError: See `annotate_video` and `storage.staged`.
    """
    with staged(task.video, task.folder) as (video, folder):
        if detections and task.resume_key is not None:
            _, records = outputs_of(named_for(task.video, config), folder)
            write_detections(log_path(records), detection_key(task.resume_key, segmenter), detections)
        report = annotate_video(video, folder, segmenter, config, resume_key=task.resume_key, on_progress=on_progress)
    if folder == task.folder:
        return replace(report, video=task.video)

    def moved(path: Path | None) -> Path | None:
        return None if path is None else task.folder / path.relative_to(folder)

    return replace(
        report,
        video=task.video,
        overlay=moved(report.overlay),
        soft_overlay=moved(report.soft_overlay),
        report=moved(report.report),
        proxy=moved(report.proxy),
        records=task.folder / report.records.relative_to(folder),
        exports=tuple(task.folder / path.relative_to(folder) for path in report.exports),
    )


def error_text(error: Exception) -> str:
    """One line that states why a video failed; an unexpected error includes its class."""
    return str(error) if isinstance(error, PolypstreamError) else f"unexpected {type(error).__name__}: {error}"


@dataclass(kw_only=True)
class _Batch:
    """Collects the results of a batch and estimates the time left."""

    manifest: Manifest
    durations_s: Mapping[Path, float]
    """Durations of the remaining videos."""
    videos: int
    on_progress: Callable[[BatchProgress], None] | None
    on_failed: Callable[[FailedVideo], None] | None
    ended: int = 0
    done_reports: list[AnnotationReport] = field(default_factory=list)
    failures: list[FailedVideo] = field(default_factory=list)
    running: dict[Path, AnnotationProgress] = field(default_factory=dict)
    ended_s: float = 0.0
    began: float = field(default_factory=monotonic)

    def progressed(self, task: Task, progress: AnnotationProgress) -> None:
        self.running[task.video] = progress
        self.show()

    def done(self, task: Task, report: AnnotationReport) -> None:
        videos = [
            path for path in (report.overlay, report.soft_overlay, report.proxy, report.report) if path is not None
        ]
        try:
            self.manifest.add(
                report.records,
                fingerprint=task.fingerprint,
                settings=task.settings,
                outputs=[report.records, summary_path(report.records), *videos, *report.exports],
                frames=report.frames,
                frames_with_polyp=report.frames_with_polyp,
                tracks=len(report.tracks),
            )
        except (PolypstreamError, OSError) as error:
            self.failed(task, error_text(error))
            return
        self.done_reports.append(report)
        self._end(task)

    def failed(self, task: Task, error: str) -> None:
        self.add_failure(FailedVideo(video=task.video, error=error))
        self._end(task)

    def add_failure(self, failure: FailedVideo) -> None:
        self.failures.append(failure)
        if self.on_failed is not None:
            self.on_failed(failure)

    def _end(self, task: Task) -> None:
        self.running.pop(task.video, None)
        self.ended += 1
        self.ended_s += self.durations_s[task.video]
        self.show()

    def show(self) -> None:
        if self.on_progress is not None:
            self.on_progress(
                BatchProgress(
                    videos_ended=self.ended,
                    videos=self.videos,
                    seconds_left=self._seconds_left(),
                    running=dict(self.running),
                )
            )

    def _seconds_left(self) -> float | None:
        passed_s = self.ended_s + sum(
            min(progress.pts_s, self.durations_s[video]) for video, progress in self.running.items()
        )
        left_s = sum(self.durations_s.values()) - passed_s
        if passed_s <= 0:
            return None
        return max((monotonic() - self.began) * left_s / passed_s, 0.0)


def run_batch(
    videos: Sequence[InputVideo],
    output: Path,
    run: Runner,
    config: AnnotateConfig,
    *,
    model: str,
    unmatched: Sequence[Unmatched] = (),
    redo: bool = False,
    on_progress: Callable[[BatchProgress], None] | None = None,
    on_failed: Callable[[FailedVideo], None] | None = None,
) -> BatchReport:
    """Annotate all videos that are not yet finished in this folder with the same settings.

    Args:
        videos: The videos; see `inputs.find_videos`.
        output: Folder for the results and the manifest.
        run: The runner.
        config: Settings of the annotation.
        model: Identifies the model and backend; part of the settings.
        unmatched: Names without a video; they count as failed.
        redo: Annotate finished videos again.
        on_progress: Called frequently, in this thread.
        on_failed: Called immediately on each failure, in this thread.

    Raises:
        ConfigError: Results of two videos would have the same name, or overwrite a video; nothing was written.
    """
    if config.deidentify:
        check_batch(
            [named_for(video.path, config) for video in videos], output, inputs=[video.path for video in videos]
        )
    else:
        check_names(videos, output)
    manifest, settings = Manifest(output), settings_of(model, config)
    tasks, skipped = [], []
    for video in videos:
        folder = output if config.deidentify else output / video.subfolder
        try:
            fingerprint = fingerprint_of(video.path)
        except OSError:  # reported when the video is opened
            fingerprint = ""
        _, records = outputs_of(named_for(video.path, config), folder)
        if fingerprint and not redo and manifest.finished(records, fingerprint=fingerprint, settings=settings):
            skipped.append(video.path)
        else:
            tasks.append(Task(video=video.path, folder=folder, fingerprint=fingerprint, settings=settings))
    batch = _Batch(
        manifest=manifest,
        durations_s=_durations_s(tasks),
        videos=len(videos),
        on_progress=on_progress,
        on_failed=on_failed,
        ended=len(skipped),
    )
    for name in unmatched:
        batch.add_failure(FailedVideo(video=Path(name.name), error=name.error))
    if tasks:
        batch.show()
        run(tasks, batch)
    if config.report and len(videos) > 1 and url_of(output) is None:
        from polypstream.realtime.annotate.report import write_index

        write_index(output)
    return BatchReport(
        done=tuple(batch.done_reports),
        skipped=tuple(skipped),
        failed=tuple(batch.failures),
        seconds=monotonic() - batch.began,
    )


def check_names(videos: Sequence[InputVideo], output: Path) -> None:
    """Raise `ConfigError` if a result of a batch would overwrite a video or another result."""
    groups: dict[Path, list[Path]] = {}
    for video in videos:
        groups.setdefault(video.subfolder, []).append(video.path)
    everything = [video.path for video in videos]
    for subfolder, paths in groups.items():
        check_batch(paths, output / subfolder, inputs=everything)


def _durations_s(tasks: Sequence[Task]) -> dict[Path, float]:
    """Duration of every video; the mean of the others if a container states none."""
    stated = {task.video: stated_duration_s(task.video) for task in tasks}
    known = [duration for duration in stated.values() if duration]
    usual = sum(known) / len(known) if known else _TYPICAL_S
    return {video: duration or usual for video, duration in stated.items()}
