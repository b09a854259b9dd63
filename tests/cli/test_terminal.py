"""Terminal output: any file name, in any encoding, on one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clips import make_clip
from tests.models import write_green_finder

ODD_NAMES = [
    "大腸内視鏡.mp4",
    "Ünïcödé 😀.mp4",
    "two\nlines.mp4",
    "escape\x1b[31mred.mp4",
    "tab\tand bell\x07.mp4",
    os.fsdecode(b"latin-\xe4\xf6.mp4"),
    "[red]markup.mp4",
    "dot..mp4",
    " space .mp4",
    "-dash.mp4",
    "100%d {}.mp4",
    "quote'\".mp4",
    "colon:name.mp4",
]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_any_name_is_annotated_and_printed_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    model = write_green_finder(tmp_path / "green.onnx")
    plain = make_clip(tmp_path / "plain.mp4", frames=3)
    clips = [Path(shutil.copy(plain, tmp_path / name)) for name in ODD_NAMES]
    absent = [clip.with_name(f"absent {clip.name}") for clip in clips]
    command = [sys.executable, "-m", "polypstream", "annotate", "--model", model, "--backend", "onnxruntime"]
    done = subprocess.run(
        [*map(str, command), "-o", str(tmp_path / "out"), "--", *map(str, [*clips, *absent])],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": encoding, "COLUMNS": "200"},
        check=False,
    )
    assert done.returncode == 1
    lines = [line for line in done.stderr.split(b"\n") if line]
    assert len(lines) == len(absent)
    assert all(line.startswith(b"error: ") for line in lines)
    for control in (b"\x1b", b"\x07", b"\t"):
        assert control not in done.stdout + done.stderr
    expected = {f"{clip.stem}_{result}" for clip in clips for result in ("overlay", "polyps", "summary")}
    assert {path.stem for path in (tmp_path / "out").iterdir()} == {*expected, "annotate_manifest"}
