"""The programs in examples/ are short, use public names only, and run unchanged."""

import ast
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import polypstream
from polypstream.synthetic import SyntheticClip, frame_at, write_clip
from tests.discs import write_discs

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short clip and one of its frames."""
    folder, clip = tmp_path_factory.mktemp("examples"), SyntheticClip(width=192, height=160, seconds=0.4)
    write_clip(folder / "clip.mp4", clip)
    cv2.imwrite(str(folder / "frame.png"), frame_at(clip, 0).rgb[..., ::-1])
    return folder


def run(name: str, *arguments: str, cwd: Path) -> list[str]:
    """The lines printed by an example."""
    (example,) = (path for path in EXAMPLES if path.stem == name)
    command = [sys.executable, "-W", "error", str(example), *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_there_are_six_examples() -> None:
    assert len(EXAMPLES) == 6


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_at_most_ten_lines_and_uses_public_names_only(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    assert len([line for line in text.splitlines() if line.strip()]) <= 10
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            assert not str(node.module).startswith("polypstream")
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("polypstream.") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ps":
            assert node.attr in polypstream.__all__


def test_predict_image(folder: Path) -> None:
    lines = run("predict_image", "frame.png", "marked.png", cwd=folder)
    assert lines
    assert all(line.startswith("box (") for line in lines)
    before, after = cv2.imread(str(folder / "frame.png")), cv2.imread(str(folder / "marked.png"))
    assert before.shape == after.shape
    assert (before != after).any()


def test_read_video(folder: Path) -> None:
    lines = run("read_video", "clip.mp4", cwd=folder)
    assert lines[0].startswith("0.00 s: 1, ")
    assert len(lines) <= 10


def test_annotate_video(folder: Path) -> None:
    (line,) = run("annotate_video", "clip.mp4", "annotated", cwd=folder)
    assert "of 10 frames show a polyp" in line
    assert (folder / "annotated" / "clip_overlay.mp4").is_file()


def test_watch_live(folder: Path) -> None:
    lines = run("watch_live", "clip.mp4", cwd=folder)
    assert lines
    assert all(line.startswith("(160, 192, 3) ") for line in lines)


def test_use_supervision(folder: Path) -> None:
    pytest.importorskip("supervision", reason="needs the extra [supervision]")
    run("use_supervision", "clip.mp4", "marked.mp4", cwd=folder)
    capture = cv2.VideoCapture(str(folder / "marked.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 10
    capture.release()


@pytest.mark.slow
def test_train_and_evaluate(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs the extra [train]")
    write_discs(tmp_path / "discs", 40)
    command = [sys.executable, str(EXAMPLES[0].with_name("train_and_evaluate.py")), "discs", "run", "32", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.keras").is_file()
    assert done.stdout.splitlines()[-1].startswith("discs ")
