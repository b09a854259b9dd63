"""`polypstream live` from the outside: a process of its own, its events, its exit codes."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from polypstream.synthetic import SyntheticClip, write_clip
from tests.models import write_green_finder

pytestmark = pytest.mark.realtime

LONG_S = 120


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short clip and a model that is quick."""
    folder = tmp_path_factory.mktemp("feed")
    write_clip(folder / "clip.mp4", SyntheticClip(width=160, height=128, fps=25, seconds=1))
    model = write_green_finder(folder / "tiny.onnx")
    return [str(folder / "clip.mp4"), "--model", str(model), "--backend", "onnxruntime", "--view", "none"]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from polypstream.cli import main; main()", "live", *arguments]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, text=True, check=False, timeout=LONG_S)


def events(folder: Path) -> list[dict[str, object]]:
    (log,) = folder.glob("*/events.jsonl")
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


def test_a_file_is_watched_to_its_end_and_recorded(feed: list[str], tmp_path: Path) -> None:
    done = run(*feed, "--record", "both", "--record-now", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "frames shown" in done.stderr
    kinds = [event["event"] for event in events(tmp_path / "live")]
    assert kinds[0] == "session_started"
    assert kinds[-1] == "session_ended"
    (folder,) = (tmp_path / "live").iterdir()
    assert {"feed.mkv", "overlay.mkv"} <= {file.name for file in folder.iterdir()}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_session_properly(feed: list[str], tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(command(*feed, "--loop"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "watching" in line:
            break
    process.send_signal(number)
    _, rest = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, rest
    assert f"{number.name}: ending" in rest
    assert events(tmp_path / "live")[-1]["event"] == "session_ended"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["absent.mp4"], 1, "absent.mp4"),
        (["ftp://host/video"], 1, "ftp://"),
        (["clip.mp4", "--serve", "8765"], 2, "HOST:PORT"),
        (["/dev/video99", "--device-size", "big"], 2, "WxH"),
        (["/dev/video99", "--device-rate", "fast"], 2, "frames per second"),
        (["rtsp://me:secret@host:port/"], 1, "address"),
    ],
)
def test_a_wrong_wish_is_told_in_a_line_and_leaves_nothing_running(
    feed: list[str], tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    write_clip(tmp_path / "clip.mp4", SyntheticClip(width=64, height=64, seconds=0.2))
    wanted = arguments if "--serve" in arguments else [*arguments, "--view", "none"]
    done = run(*wanted, *feed[1:5], cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr
