"""The benchmarks run, and their reports describe the environment."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.documents import newest
from benchmarks.report import write_report
from polypstream.realtime import native
from tests.clips import make_clip
from tests.models import write_green_finder

ROOT = Path(__file__).parents[1]
STATED = {"benchmark", "commit", "machine", "versions"}


def test_throughput_measures_both_and_relates_them(tmp_path: Path) -> None:
    model, video = write_green_finder(tmp_path / "m.onnx"), make_clip(tmp_path / "clip.mp4", frames=20)
    options = ["--video", video, "--model", model, "--repeats", "2", "--results", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", *map(str, options)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "annotate / bare" in done.stdout
    (path,) = tmp_path.glob("throughput-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report.keys() >= STATED | {"warm_up_images", "repeats", "rounds", "stage_ms", "fps_and_ratios"}
    assert len(report["rounds"]) == 2
    for each in report["rounds"]:
        assert each["annotate / bare"] == each["annotate"] / each["bare"]
        assert each["coco / bare"] == each["coco"] / each["bare"]
        assert each["annotate / opencv_loop"] == each["annotate"] / each["opencv_loop"]


def test_the_native_module_is_related_to_python(tmp_path: Path) -> None:
    if not native.is_available():
        pytest.skip("the native module is not built here")
    options = ["--rounds", "2", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.native", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("native-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report.keys() >= STATED | {"ms", "ratios", "rounds", "most"}
    assert report["ratios"].keys() == {"preprocess, native / Python", "draw, native / Python"}
    assert all(value > 0 for value in (*report["ratios"].values(), *report["ms"].values()))


@pytest.mark.slow
def test_cluster_relates_workers_to_one_process(tmp_path: Path) -> None:
    options = ["--videos", "2", "--seconds", "0.8", "--workers", "2", "--repeats", "1", "--results", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.cluster", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("cluster-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report.keys() >= STATED | {"usable_cores", "workers", "repeats", "rounds", "fps_and_ratios"}
    (each,) = report["rounds"]
    for load in ("videos", "one video"):
        assert each[f"2 workers / process, {load}"] == each[f"2 workers, {load}"] / each[f"process, {load}"]


def test_committed_results_state_what_they_were_measured_on() -> None:
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        report = json.loads(path.read_text(encoding="utf-8"))
        assert report.keys() >= STATED, path.name


def test_a_report_names_its_machine(tmp_path: Path) -> None:
    path = write_report("anything", {"figure": 1}, folder=tmp_path)
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["figure"] == 1
    assert report["machine"]["cores"] >= 1
    assert path.name.startswith("anything-")


def test_documents_take_the_report_measured_last(tmp_path: Path) -> None:
    for machine, measured in {"a": {"measured": "2026-11-26T08:00:00+00:00"}, "b": {}, "c": {}}.items():
        (tmp_path / f"live-{machine}.json").write_text(json.dumps({"machine": machine, **measured}), encoding="utf-8")
    assert newest("live", tmp_path)["machine"] == "a"
    write_report("live", {}, folder=tmp_path)
    assert newest("live", tmp_path)["measured"] > "2026-11-26T08:00:00+00:00"
