"""`polypstream convert` and `annotate --format` from the command line."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import polypstream as ps
from polypstream.cli import main
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats import ExportFormat
from tests.models import write_green_finder
from tests.recordings import CLIPS, annotate

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setenv("POLYPSTREAM_PUSH_TOKEN", "token")
        monkeypatch.setattr(sys, "argv", ["polypstream", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def test_convert_writes_the_formats_beside_the_records_and_warns_of_a_variable_rate(tmp_path: Path, run: Run) -> None:
    records = annotate(CLIPS["vfr"](tmp_path), tmp_path / "out").records
    code, out, err = run("convert", records, "--format", "cvat", "-f", "webvtt")
    assert code == 0, err
    names = {path.name for path in records.parent.iterdir()}
    assert names == {"vfr_polyps.jsonl", "vfr_summary.json", "vfr_cvat.xml", "vfr_polyps.vtt", "vfr_frames.csv"}
    assert "vfr.mkv has a variable frame rate" in out
    assert "vfr_cvat.xml" in out


def test_convert_writes_images_where_a_format_has_them(tmp_path: Path, run: Run) -> None:
    video = CLIPS["ntsc"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    code, _, err = run("convert", records, "-f", "coco", "-f", "yolo", "-f", "voc", "--images", video, "-o", tmp_path)
    assert code == 0, err
    coco = json.loads((tmp_path / "ntsc_coco" / "annotations" / "instances_default.json").read_text())
    for folder in (tmp_path / "ntsc_coco" / "images", tmp_path / "ntsc_yolo" / "images" / "train"):
        assert sorted(path.name for path in folder.iterdir()) == [image["file_name"] for image in coco["images"]]


def test_convert_refuses_the_images_of_another_video(tmp_path: Path, run: Run) -> None:
    records = annotate(CLIPS["ntsc"](tmp_path), tmp_path / "out").records
    other = CLIPS["vfr"](tmp_path)
    other.write_bytes(other.read_bytes()[: other.stat().st_size // 2])
    code, _, err = run("convert", records, "-f", "coco", "--images", other)
    assert code == 1
    assert "is not the video of" in err


def test_convert_continues_after_records_that_cannot_be_read(tmp_path: Path, run: Run) -> None:
    records = annotate(CLIPS["ntsc"](tmp_path), tmp_path / "out").records
    code, _, err = run("convert", tmp_path / "missing_polyps.jsonl", records, "-f", "csv")
    assert code == 1
    assert [line for line in err.splitlines() if line.startswith("error:")] == [err.strip()]
    assert "missing_summary.json cannot be read" in err
    assert (tmp_path / "out" / "ntsc_polyps.csv").exists()


def test_the_source_of_deidentified_records_is_refused(tmp_path: Path, run: Run) -> None:
    video, model = CLIPS["ntsc"](tmp_path), write_green_finder(tmp_path / "green.onnx")
    report = ps.annotate(video, tmp_path / "out", model=model, overlay="none", deidentify=True, formats=["coco"])
    assert not [path for path in (tmp_path / "out").rglob("*") if "ntsc" in path.name]
    images = ("convert", report.records, "-f", "coco", "--images", video)
    push = ("push", "cvat", report.records, video, "--url", "http://127.0.0.1:9")
    for command in (images, push):
        code, _, err = run(*command)
        assert code == 1
        assert "is de-identified; give the overlay" in err


def test_a_larger_tolerance_leaves_fewer_keyframes(tmp_path: Path, run: Run) -> None:
    records = annotate(CLIPS["ntsc"](tmp_path), tmp_path / "out").records
    counts = []
    for tolerance in (0, 30):
        code, _, err = run("convert", records, "-f", "cvat", "--keyframe-tolerance", tolerance)
        assert code == 0, err
        counts.append((tmp_path / "out" / "ntsc_cvat.xml").read_text().count('keyframe="1" outside="0"'))
    assert counts == [14, 7]


def test_convert_asks_for_a_format(tmp_path: Path, run: Run) -> None:
    code, _, err = run("convert", tmp_path / "clip_polyps.jsonl")
    assert code == 2
    assert "name at least one format" in err


def test_annotate_exports_to_every_format_and_writes_a_proxy(tmp_path: Path, run: Run) -> None:
    video, model = CLIPS["vfr"](tmp_path), write_green_finder(tmp_path / "green.onnx")
    formats = [word for each in ExportFormat if each != "dicom-seg" for word in ("--format", each.value)]
    code, _, err = run(
        "annotate", video, "--model", model, "-o", tmp_path / "out", *formats, "--proxy", "--overlay", "none"
    )
    assert code == 0, err
    assert {path.name.removeprefix("vfr_") for path in (tmp_path / "out").glob("vfr*")} == {
        *("polyps.jsonl", "summary.json", "frames.csv", "polyps.csv", "coco", "cvat.xml", "yolo", "labelstudio.json"),
        *("labelstudio_config.xml", "voc", "masks", "polyps.vtt", "polyps.edl", "proxy.mp4"),
    }
    (task,) = json.loads((tmp_path / "out" / "vfr_labelstudio.json").read_text())
    assert task["data"]["video"].endswith("vfr_proxy.mp4")
    assert task["data"]["fps"] == 20


def test_the_api_exports_and_refuses_unknown_formats(tmp_path: Path) -> None:
    video, model = CLIPS["vfr"](tmp_path), write_green_finder(tmp_path / "green.onnx")
    report = ps.annotate(video, tmp_path / "out", model=model, overlay="none", formats=["cvat", "jsonl"])
    assert [path.name for path in report.exports] == ["vfr_cvat.xml", "vfr_frames.csv"]
    assert report.proxy is None
    assert any("variable frame rate" in notice for notice in report.notices)
    with pytest.raises(ConfigError, match="no format 'xml'; choose from jsonl, csv, coco"):
        ps.annotate(video, tmp_path / "out", model=model, overlay="none", formats=["xml"])
