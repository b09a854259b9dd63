"""A job that is killed at any time and resumed gives the results of an uninterrupted one."""

import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polypstream.realtime.annotate.detections import header_of, known_from, line_of, log_path
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.outlines.contours import polyp_from_contour
from tests.clips import times_of
from tests.models import write_green_finder
from tests.realtime.annotate.test_job import write_disc_clip

FRAMES = 400


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_green_finder(tmp_path_factory.mktemp("model") / "green.onnx")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with B-frames, a variable rate, and a polyp that appears and disappears."""
    pts = np.cumsum(np.random.default_rng(3).integers(7, 90, FRAMES)).tolist()
    return write_disc_clip(
        tmp_path_factory.mktemp("clip") / "clip.mp4", frames=FRAMES, pts=pts, options={"bf": "2", "g": "50"}
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, clip: Path, model: Path) -> Path:
    """Folder of the results of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole")
    subprocess.run(command(clip, model, out), check=True, capture_output=True)
    return out


def command(clip: Path, model: Path, out: Path, *options: str) -> list[str]:
    words = [sys.executable, "-m", "polypstream", "annotate", clip, "-o", out, "--model", model]
    return [*map(str, words), "--backend", "onnxruntime", *(options or ("--records-only",))]


def killed_after(lines: int, clip: Path, model: Path, out: Path, *options: str) -> bool:
    """Start a job, and kill it when the log has that many lines; returns whether it was killed before finishing."""
    process = subprocess.Popen(
        command(clip, model, out, *options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    log = log_path(out / "clip_polyps.jsonl")
    while process.poll() is None:
        if log.exists() and log.read_bytes().count(b"\n") >= lines:
            process.kill()
        threading.Event().wait(0.002)
    return process.returncode < 0


def assert_same(out: Path, whole: Path) -> None:
    for name in ("clip_polyps.jsonl", "clip_summary.json"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not log_path(out / "clip_polyps.jsonl").exists()
    assert not list(out.glob("*.partial*"))


def killed_and_resumed(clip: Path, model: Path, out: Path, seed: int) -> int:
    """Kill a job at several random times, then let it finish; returns the number of kills."""
    rng, kills = random.Random(seed), 0
    for lines in sorted(rng.sample(range(2, FRAMES), 3)):
        kills += killed_after(lines, clip, model, out)
    subprocess.run(command(clip, model, out), check=True, capture_output=True)
    return kills


def test_a_job_killed_several_times_ends_with_the_same_bytes(
    tmp_path: Path, clip: Path, model: Path, whole: Path
) -> None:
    assert killed_and_resumed(clip, model, tmp_path / "out", seed=0) >= 1
    assert_same(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_jobs_killed_at_random_end_with_the_same_bytes(
    tmp_path: Path, clip: Path, model: Path, whole: Path, seed: int
) -> None:
    assert killed_and_resumed(clip, model, tmp_path / "out", seed=seed) >= 1
    assert_same(tmp_path / "out", whole)


def test_an_overlay_is_encoded_again_in_full(tmp_path: Path, clip: Path, model: Path, whole: Path) -> None:
    out = tmp_path / "out"
    assert killed_after(50, clip, model, out, "--overlay", "burned")
    subprocess.run(command(clip, model, out, "--overlay", "burned"), check=True, capture_output=True)
    assert (out / "clip_polyps.jsonl").read_bytes() == (whole / "clip_polyps.jsonl").read_bytes()
    straight = annotate_video(clip, tmp_path / "straight", segmenter_from_onnx(model), AnnotateConfig())
    assert straight.overlay is not None
    assert times_of(out / "clip_overlay.mp4") == times_of(straight.overlay)


class Counting:
    """A model that counts inferences, and fails at one of them."""

    def __init__(self, segmenter: Segmenter, fail_at: int | None = None) -> None:
        self._segmenter, self._fail_at = segmenter, fail_at
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._segmenter, name)

    def __enter__(self) -> "Counting":
        self._segmenter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._segmenter.__exit__(*error)

    def in_parallel(self) -> list["Counting"]:
        return [self]

    def segment(self, rgb: Any) -> Any:
        self.count += 1
        if self.count == self._fail_at:
            raise MemoryError
        return self._segmenter.segment(rgb)


def counted(clip: Path, model: Path, out: Path, *, key: str, fail_at: int | None = None, **options: Any) -> int:
    segmenter = Counting(segmenter_from_onnx(model, backend="onnxruntime"), fail_at)
    config = AnnotateConfig(**{"encoding": None, **options})
    try:
        annotate_video(clip, out, segmenter, config, resume_key=key)
    except MemoryError:
        assert fail_at is not None
    return segmenter.count


def test_no_inference_is_repeated(tmp_path: Path, clip: Path, model: Path, whole: Path) -> None:
    counted(clip, model, tmp_path, key="a", fail_at=300)
    known = len(log_path(tmp_path / "clip_polyps.jsonl").read_bytes().splitlines()) - 1
    assert 280 <= known < 300
    assert counted(clip, model, tmp_path, key="a") == FRAMES - known
    assert_same(tmp_path, whole)


def test_detections_with_other_settings_are_not_used(tmp_path: Path, clip: Path, model: Path, whole: Path) -> None:
    counted(clip, model, tmp_path, key="a", fail_at=300)
    assert counted(clip, model, tmp_path, key="b") == FRAMES
    assert_same(tmp_path, whole)


def test_detections_of_another_image_are_not_used(tmp_path: Path, clip: Path, model: Path, whole: Path) -> None:
    counted(clip, model, tmp_path, key="a", fail_at=300)
    log = log_path(tmp_path / "clip_polyps.jsonl")
    header, *lines = log.read_bytes().splitlines(keepends=True)
    changed = []
    for line in lines:
        pts, checksum, polyps = json.loads(line)
        changed.append(json.dumps([pts, checksum ^ 1, polyps]).encode() + b"\n")
    log.write_bytes(header + b"".join(changed))
    assert counted(clip, model, tmp_path, key="a") == FRAMES
    assert_same(tmp_path, whole)


def test_the_log_holds_polyps_exactly_and_ends_at_its_last_whole_line() -> None:
    contour = np.random.default_rng(0).uniform(0, 100, (30, 2)).astype(np.float32)
    polyp = polyp_from_contour(contour, score=0.1 + 0.2)
    data = header_of("key") + line_of(7, 9, [polyp, polyp]) + line_of(8, 9, [])
    for torn in (b"", b"[9", b'[9,9,[["'):
        known, end = known_from(data + torn, "key")
        assert end == len(data)
        assert known.keys() == {(7, 9), (8, 9)}
        read = known[7, 9][0]
        assert np.array_equal(read.contour, contour)
        assert (read.box, read.area, read.score) == (polyp.box, polyp.area, polyp.score)
    assert known_from(data, "other") == ({}, 0)
