"""A backend named by the user is used, or the command fails; it is never replaced."""

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from tests.clips import make_clip
from tests.models import write_green_finder


@pytest.mark.parametrize("command", [["annotate", "-o", "out"], ["live", "--view", "none", "-o", "out"]])
def test_a_named_backend_that_is_unavailable_is_an_error(tmp_path: Path, command: list[str]) -> None:
    if "TensorrtExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the backend is available here")
    model = write_green_finder(tmp_path / "m.onnx")
    clip = make_clip(tmp_path / "clip.mp4")
    options = [str(clip), "--model", str(model), "--backend", "onnxruntime-tensorrt"]
    done = subprocess.run(
        [sys.executable, "-c", "from polypstream.cli import main; main()", *command, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "has no TensorrtExecutionProvider" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
