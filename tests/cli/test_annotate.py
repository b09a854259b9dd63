"""`polypstream annotate` as a user meets it: results, one-line errors, exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import av
import numpy as np
import pytest

from polypstream.cli import main
from tests.clips import make_clip
from tests.models import write_green_finder


class Ran:
    """How one call of the command ended."""

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
        "b_overlay.mp4",
        "b_polyps.jsonl",
    }
    assert "a.mp4" in ran.out
    assert "12" in ran.out


def test_records_only_writes_no_video(tmp_path: Path, run: Run, out: Path) -> None:
    ran = run(make_clip(tmp_path / "a.mp4"), "--records-only")
    assert ran.code == 0, ran.err
    assert [path.name for path in out.iterdir()] == ["a_polyps.jsonl"]
    assert "overlays" not in ran.out
    assert "records are in" in ran.out


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
def test_bad_input_is_one_line_and_the_others_go_on(
    tmp_path: Path, run: Run, out: Path, bad: Callable[[Path], Path]
) -> None:
    path = bad(tmp_path)
    ran = run(path, make_clip(tmp_path / "good.mp4"))
    assert ran.code == 1
    assert len(ran.error_lines) == 1
    assert path.name in ran.error_lines[0]
    assert {file.name for file in out.iterdir()} == {"good_overlay.mp4", "good_polyps.jsonl"}


def test_a_model_that_is_not_ours_is_one_line(tmp_path: Path, run: Run) -> None:
    foreign = write_green_finder(tmp_path / "foreign.onnx", metadata={})
    ran = run(make_clip(tmp_path / "a.mp4"), with_model=foreign)
    assert ran.code == 1
    assert "foreign.onnx" in ran.error_lines[0]
    assert "polypstream export" in ran.err


def test_an_output_folder_that_cannot_be_is_one_line(tmp_path: Path, run: Run, out: Path) -> None:
    out.write_text("a file stands where the folder should")
    ran = run(make_clip(tmp_path / "a.mp4"))
    assert ran.code == 1
    assert len(ran.error_lines) == 1
    assert "out" in ran.error_lines[0]


def test_a_name_with_brackets_is_shown_as_it_is(tmp_path: Path, run: Run) -> None:
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
    ],
)
def test_wrong_usage_is_exit_code_2(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--codec", "abacus"], "no encoder"),
        (["--quality", "99"], "between 0"),
        (["--backend", "abacus"], "no backend"),
    ],
)
def test_what_cannot_be_honoured_is_exit_code_1(
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


def test_a_stream_that_mp4_cannot_hold_makes_the_result_matroska_and_says_so(
    tmp_path: Path, run: Run, out: Path
) -> None:
    ran = run(make_clip(tmp_path / "a.mkv", subtitles="subrip"), "--json")
    assert ran.code == 0, ran.err
    (done,) = json.loads(ran.out)["done"]
    assert done["overlay"] == str(out / "a_overlay.mkv")
    assert "subtitle" in " ".join(done["notices"])
    assert {path.name for path in out.iterdir()} == {"a_overlay.mkv", "a_polyps.jsonl"}
