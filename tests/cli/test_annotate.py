"""`polypstream annotate` from the command line: results, one-line errors, exit codes."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import pytest

import polypstream as ps
from polypstream.cli import main
from polypstream.errors import BackendError
from polypstream.realtime import native
from tests.clips import make_clip
from tests.models import write_green_finder


class Ran:
    """Result of a call of the command."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def error_lines(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error:")]


class Run(Protocol):
    """Calls `polypstream annotate` with the given arguments, a tiny model, and the folder `out`."""

    def __call__(self, *arguments: object, with_model: Path | None = ...) -> Ran: ...


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    model = write_green_finder(tmp_path / "green.onnx")

    def call(*arguments: object, with_model: Path | None = model) -> Ran:
        named = ["--model", str(with_model)] if with_model else []
        words = ["polypstream", "annotate", *map(str, arguments), *named, "-o", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", words)
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_two_videos_give_four_files_and_a_table(tmp_path: Path, run: Run, out: Path) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "b.mkv"))
    assert ran.code == 0, ran.err
    assert {path.name for path in out.iterdir()} == {
        "a_overlay.mp4",
        "a_polyps.jsonl",
        "a_summary.json",
        "b_overlay.mp4",
        "b_polyps.jsonl",
        "b_summary.json",
        "annotate_manifest.jsonl",
    }
    assert "a.mp4" in ran.out
    assert "12" in ran.out


def test_records_only_writes_no_video(tmp_path: Path, run: Run, out: Path) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), "--records-only")
    assert ran.code == 0, ran.err
    assert {path.name for path in out.iterdir()} == {"a_polyps.jsonl", "a_summary.json", "annotate_manifest.jsonl"}
    assert "overlays" not in ran.out
    assert "records are in" in ran.out


def test_a_decoder_that_is_named_and_missing_is_one_line(
    tmp_path: Path, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "has_kernels", lambda: False)
    clip = make_clip(tmp_path / "a.mp4")
    ran = run(clip, "--decoder", "cuda")
    assert (ran.code, len(ran.error_lines)) == (1, 1)
    assert "without CUDA kernels; install a CUDA compiler" in ran.error_lines[0]
    assert not list(out.glob("*.mp4"))
    assert run(clip, "--decoder", "cpu").code == 0
    with pytest.raises(BackendError, match="without CUDA kernels"):
        ps.annotate(clip, tmp_path / "api", model=tmp_path / "green.onnx", decoder="cuda")


@pytest.mark.parametrize(
    ("overlay", "videos"),
    [("none", set()), ("soft", {"a_soft.mkv"}), ("both", {"a_soft.mkv", "a_overlay.mp4"})],
)
def test_the_overlay_is_burned_in_or_a_track_or_both(
    tmp_path: Path, run: Run, out: Path, overlay: str, videos: set[str]
) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), "--overlay", overlay)
    assert ran.code == 0, ran.err
    assert {path.name for path in out.iterdir()} == {
        "a_polyps.jsonl",
        "a_summary.json",
        "annotate_manifest.jsonl",
    } | videos


def test_a_soft_overlay_is_not_deidentified(tmp_path: Path, run: Run, out: Path) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), "--deidentify", "--overlay", "soft")
    assert ran.code == 1
    assert "cannot be de-identified" in ran.error_lines[0]
    assert not out.exists()


def test_several_reports_get_an_index(tmp_path: Path, run: Run, out: Path) -> None:
    (tmp_path / "more").mkdir()
    ran = run(make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "more" / "b.mp4"), "--report", "--overlay", "none")
    assert ran.code == 0, ran.err
    assert {path.name for path in out.glob("*.html")} == {"a_report.html", "b_report.html", "index.html"}
    assert 'href="b_report.html"' in (out / "index.html").read_text()


def test_json_is_for_machines(tmp_path: Path, run: Run, out: Path) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), tmp_path / "absent.mp4", "--json")
    summary = json.loads(ran.out)
    assert ran.code == 1
    assert summary["done"][0]["frames"] == 12
    assert summary["done"][0]["overlay"] == str(out / "a_overlay.mp4")
    assert "absent.mp4" in summary["failed"][0]["error"]


def no_file(folder: Path) -> Path:
    return folder / "absent.mp4"


def text_file(folder: Path) -> Path:
    (folder / "notes.mp4").write_text("I am a text file\n" * 100)
    return folder / "notes.mp4"


def empty_file(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def a_folder(folder: Path) -> Path:
    (folder / "folder.mp4").mkdir()
    return folder / "folder.mp4"


def without_its_index(folder: Path) -> Path:
    whole = make_clip(folder / "whole.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    return folder / "cut.mp4"


def sound_alone(folder: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return folder / "sound.mp4"


@pytest.mark.parametrize("bad", [no_file, text_file, empty_file, a_folder, without_its_index, sound_alone])
def test_bad_input_is_one_line_and_the_others_continue(
    tmp_path: Path, run: Run, out: Path, bad: Callable[[Path], Path]
) -> None:
    path = bad(tmp_path)
    ran = run(path, make_clip(tmp_path / "good.mp4"))
    assert ran.code == 1
    assert len(ran.error_lines) == 1
    assert path.name in ran.error_lines[0]
    assert {file.name for file in out.iterdir()} == {
        "good_overlay.mp4",
        "good_polyps.jsonl",
        "good_summary.json",
        "annotate_manifest.jsonl",
    }


def test_a_foreign_model_is_reported_on_one_line(tmp_path: Path, run: Run) -> None:
    foreign = write_green_finder(tmp_path / "foreign.onnx", metadata={})
    ran = run(make_clip(tmp_path / "a.mp4"), with_model=foreign)
    assert ran.code == 1
    assert "foreign.onnx" in ran.error_lines[0]
    assert "polypstream export" in ran.err


def test_an_impossible_output_folder_is_reported_on_one_line(tmp_path: Path, run: Run, out: Path) -> None:
    out.write_text("a file is in the place of the folder")
    ran = run(make_clip(tmp_path / "a.mp4"))
    assert ran.code == 1
    assert len(ran.error_lines) == 1
    assert "out" in ran.error_lines[0]


def test_a_name_with_brackets_is_printed_unchanged(tmp_path: Path, run: Run) -> None:
    ran = run(tmp_path / "[red]absent[/red].mp4")
    assert "[red]absent[/red].mp4" in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--no-such-option"],
        ["a.mp4", "--threshold", "1.5"],
        ["a.mp4", "--quality", "fine"],
        ["a.mp4", "--threshold", "x"],
        ["a.mp4", "--backend", "abacus"],
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "abacus"], "no encoder"),
        (["--quality", "99"], "between 0"),
    ],
)
def test_requests_that_cannot_be_met_exit_with_code_1(
    tmp_path: Path, run: Run, out: Path, arguments: list[str], message: str
) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), *arguments)
    assert ran.code == 1
    assert message in ran.err
    assert not out.exists()


def test_two_videos_of_one_name_are_refused_before_anything_is_written(tmp_path: Path, run: Run, out: Path) -> None:
    (tmp_path / "other").mkdir()
    ran = run(make_clip(tmp_path / "a.mp4"), make_clip(tmp_path / "other" / "a.mkv"))
    assert ran.code == 1
    assert "several videos are named a" in ran.err
    assert not out.exists()


def test_a_stream_unsupported_by_mp4_makes_the_result_matroska_with_a_notice(
    tmp_path: Path, run: Run, out: Path
) -> None:
    ran = run(make_clip(tmp_path / "a.mkv", subtitles="subrip"), "--json")
    assert ran.code == 0, ran.err
    (done,) = json.loads(ran.out)["done"]
    assert done["overlay"] == str(out / "a_overlay.mkv")
    assert "subtitle" in " ".join(done["notices"])
    assert {path.name for path in out.iterdir()} == {
        "a_overlay.mkv",
        "a_polyps.jsonl",
        "a_summary.json",
        "annotate_manifest.jsonl",
    }


def test_folders_lists_and_standard_input_name_videos(
    tmp_path: Path, run: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("f", "g", "h"):
        (tmp_path / folder).mkdir()
        make_clip(tmp_path / folder / f"{folder}.mp4")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'g' / '*.mp4'}\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{tmp_path / 'h' / 'h.mp4'}\n".encode())))
    ran = run(tmp_path / "f", "-", "--list", tmp_path / "list.txt", "--records-only", "--json")
    assert ran.code == 0, ran.err
    assert sorted(Path(done["video"]).name for done in json.loads(ran.out)["done"]) == ["f.mp4", "g.mp4", "h.mp4"]


def test_a_rerun_skips_what_is_finished_and_names_what_failed(tmp_path: Path, run: Run) -> None:
    (tmp_path / "in").mkdir()
    make_clip(tmp_path / "in" / "good.mp4")
    (tmp_path / "in" / "bad.mp4").touch()
    assert run(tmp_path / "in", "--records-only").code == 1
    ran = run(tmp_path / "in", "--records-only")
    assert ran.code == 1
    assert "1 video was already finished" in ran.out
    assert "1 of 2 failed" in ran.out
    assert "bad.mp4" in ran.out
    assert run(tmp_path / "in" / "good.mp4", "--records-only").code == 0
    again = run(tmp_path / "in", "--records-only", "--redo", "--jobs", "2", "--json")
    assert [Path(done["video"]).name for done in json.loads(again.out)["done"]] == ["good.mp4"]
