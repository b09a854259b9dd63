"""The benchmarks run, and what they write states what it was measured on."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.documents import newest
from benchmarks.report import write_report
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
    assert report.keys() >= STATED | {"warm_up_pictures", "repeats", "rounds", "stage_ms", "fps_and_ratios"}
    assert len(report["rounds"]) == 2
    for each in report["rounds"]:
        assert each["annotate / bare"] == each["annotate"] / each["bare"]
        assert each["annotate / opencv_loop"] == each["annotate"] / each["opencv_loop"]


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
