"""Batches: skipping and redoing, failed videos, and equal results of several processes and one."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import polypstream as ps
from polypstream.realtime.annotate import workers
from polypstream.realtime.annotate.batch import BatchProgress, Task
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationProgress, AnnotationReport
from polypstream.realtime.annotate.manifest import MANIFEST_NAME
from tests.clips import make_clip
from tests.models import write_green_finder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_green_finder(tmp_path / "green.onnx")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A folder of three videos, one of them unreadable, in two folders."""
    folder = tmp_path / "archive"
    (folder / "room").mkdir(parents=True)
    make_clip(folder / "a.mp4")
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    make_clip(folder / "room" / "a.mkv")
    return folder


def batch(archive: Path, out: Path, model: Path, **options: Any) -> Any:
    return ps.annotate_batch([archive], out, model=model, backend="onnxruntime", overlay="none", **options)


def names(report: Any) -> tuple[list[str], list[str], list[str]]:
    return (
        sorted(str(each.video.name) for each in report.done),
        sorted(each.name for each in report.skipped),
        sorted(each.video.name for each in report.failed),
    )


def test_a_failed_video_does_not_stop_the_batch_and_a_rerun_skips_finished_ones(
    tmp_path: Path, archive: Path, model: Path
) -> None:
    out = tmp_path / "out"
    assert names(batch(archive, out, model)) == (["a.mkv", "a.mp4"], [], ["bad.mp4"])
    assert (out / "a_polyps.jsonl").is_file()
    assert (out / "room" / "a_polyps.jsonl").is_file()
    assert names(batch(archive, out, model)) == ([], ["a.mkv", "a.mp4"], ["bad.mp4"])
    make_clip(archive / "bad.mp4")  # was still being copied
    assert names(batch(archive, out, model)) == (["bad.mp4"], ["a.mkv", "a.mp4"], [])


def test_changed_inputs_are_processed_again(tmp_path: Path, archive: Path, model: Path) -> None:
    out = tmp_path / "out"
    batch(archive, out, model)
    make_clip(archive / "a.mp4", frames=20)
    assert names(batch(archive, out, model))[0] == ["a.mp4"]
    assert names(batch(archive, out, model, threshold=0.7))[0] == ["a.mkv", "a.mp4"]
    write_green_finder(model, gain=0.3)
    assert names(batch(archive, out, model, threshold=0.7))[0] == ["a.mkv", "a.mp4"]
    (out / "room" / "a_polyps.jsonl").write_text("shorter\n")
    (out / "a_summary.json").unlink()
    assert names(batch(archive, out, model, threshold=0.7))[0] == ["a.mkv", "a.mp4"]
    assert names(batch(archive, out, model, threshold=0.7, redo=True))[0] == ["a.mkv", "a.mp4"]


def test_folders_that_changed_are_written_again(tmp_path: Path, archive: Path, model: Path) -> None:
    out, again = tmp_path / "out", (["a.mp4"], ["a.mkv"], ["bad.mp4"])
    formats = ["masks", "yolo"]
    batch(archive, out, model, formats=formats)
    (out / "a_yolo" / "images" / "train" / "a_000000.png").write_bytes(b"a frame that was added")
    (out / "a_yolo" / "labels" / "train.cache").write_bytes(b"as Ultralytics writes it")
    assert names(batch(archive, out, model, formats=formats))[0] == []
    mask, empty = out / "a_masks" / "a_000003.png", out / "a_yolo" / "labels" / "train" / "a_000003.txt"
    for change in (
        mask.unlink,
        lambda: mask.write_bytes(b"cut off"),
        empty.unlink,
        lambda: (out / "a_masks").rename(out / "moved"),
    ):
        change()
        assert names(batch(archive, out, model, formats=formats)) == again
        assert len(list((out / "a_masks").iterdir())) == 12
        assert empty.is_file()


def test_a_video_that_only_moved_in_time_is_not_changed(tmp_path: Path, archive: Path, model: Path) -> None:
    out = tmp_path / "out"
    batch(archive, out, model)
    os.utime(archive / "a.mp4", (0, 0))
    assert names(batch(archive, out, model))[0] == []


def test_a_line_that_a_killed_process_left_incomplete_costs_only_its_video(
    tmp_path: Path, archive: Path, model: Path
) -> None:
    out = tmp_path / "out"
    batch(archive, out, model)
    manifest = out / MANIFEST_NAME
    manifest.write_bytes(manifest.read_bytes()[:-20])
    assert names(batch(archive, out, model))[:2] == (["a.mkv"], ["a.mp4"])
    assert names(batch(archive, out, model))[:2] == ([], ["a.mkv", "a.mp4"])


def test_processes_do_what_one_does(tmp_path: Path, archive: Path, model: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    progress: list[BatchProgress] = []
    assert names(batch(archive, one, model)) == names(batch(archive, two, model, jobs=2, on_progress=progress.append))
    for name in ("a_polyps.jsonl", "a_summary.json", "room/a_polyps.jsonl", "room/a_summary.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert progress[-1].videos_ended == progress[-1].videos == 3
    assert progress[-1].seconds_left == 0
    assert names(batch(archive, two, model, jobs=2))[1] == ["a.mkv", "a.mp4"]


class KillsItself:
    """A configuration that ends the process that opens it for one video, as a crash in a decoder would."""

    def __init__(self, config: AnnotateConfig) -> None:
        self.config = config

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "encoding":
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(self.config, name)


class Events:
    """Records the result of each task."""

    def __init__(self) -> None:
        self.ended: dict[str, str] = {}

    def progressed(self, task: Task, progress: AnnotationProgress) -> None: ...

    def done(self, task: Task, report: AnnotationReport) -> None:
        self.ended[task.video.name] = "done"

    def failed(self, task: Task, error: str) -> None:
        self.ended[task.video.name] = error


def test_only_the_video_of_a_dead_worker_fails(tmp_path: Path, model: Path) -> None:
    tasks = [
        Task(video=make_clip(tmp_path / f"{name}.mp4"), folder=tmp_path / "out", fingerprint=name, settings="")
        for name in "abc"
    ]
    file = workers.ModelFile(path=model, backend="onnxruntime")
    events = Events()
    deadly: Any = KillsItself(AnnotateConfig(encoding=None))
    workers.runner_in_processes(file, deadly, jobs=2)(tasks, events)
    assert set(events.ended) == {"a.mp4", "b.mp4", "c.mp4"}
    assert all("SIGKILL" in text for text in events.ended.values())
