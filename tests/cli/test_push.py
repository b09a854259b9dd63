"""`polypstream push`, with the real SDKs, against local servers that imitate CVAT and Label Studio."""

import json
import os
import site
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import pytest

from polypstream.cli import main
from tests.fake_servers import TOKEN, CvatHandler, LabelStudioHandler, serve
from tests.recordings import CLIPS, annotate

READERS = os.environ.get("POLYPSTREAM_TEST_READERS")
needs_readers = pytest.mark.skipif(READERS is None, reason="POLYPSTREAM_TEST_READERS names no Python with readers")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object, token: str = TOKEN) -> tuple[int, str, str]:
        monkeypatch.setenv("POLYPSTREAM_PUSH_TOKEN", token)
        monkeypatch.setattr(sys, "argv", ["polypstream", "push", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def push_elsewhere(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run the command in the Python that has label-studio-sdk; missing packages come from this one."""
    assert READERS is not None
    code = f"import sys; sys.path += {site.getsitepackages() + sys.path!r}; from polypstream.cli import main; main()"
    return subprocess.run(
        [READERS, "-c", code, "push", *map(str, arguments)],
        env={**os.environ, "POLYPSTREAM_PUSH_TOKEN": TOKEN},
        capture_output=True,
        text=True,
        check=False,
    )


def test_cvat_receives_the_video_the_label_and_the_tracks(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    video = CLIPS["ntsc"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    with serve(CvatHandler, frames=12) as (url, received):
        code, out, err = run("cvat", records, video, "--url", url)
    assert code == 0, err
    assert out.strip() == f"{url}/tasks/7"
    (label,) = received.specification["labels"]
    assert (label["name"], [each["name"] for each in label["attributes"]]) == ("Polyp", ["track_id", "score"])
    assert received.files["ntsc.mp4"] == video.read_bytes()
    assert received.annotation_format == "CVAT 1.1"
    tracks = ET.fromstring(received.files["ntsc.xml"]).findall("track")
    assert [track.get("id") for track in tracks] == ["1", "2"]


def test_a_different_number_of_frames_in_cvat_is_reported(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    video = CLIPS["vfr"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    with serve(CvatHandler, frames=15) as (url, _):
        code, out, err = run("cvat", records, video, "--url", url)
    assert code == 0, err
    assert "CVAT found 15 frames in vfr.mkv, the records have 12" in out


def test_errors_are_one_line_without_the_token(tmp_path: Path, run: Run) -> None:
    pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
    video = CLIPS["ntsc"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    with serve(CvatHandler) as (url, _):
        code, _, err = run("cvat", records, video, "--url", url, token="wrong-token")
    assert code == 1
    assert "status 401" in err
    assert "wrong-token" not in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1
    for arguments, token, text in (
        (("--url", "example.org"), TOKEN, "it must begin with https://"),
        (("--url", url), "", "there is no access token"),
        (("--url", url, "--token-file", tmp_path / "missing"), TOKEN, "cannot be read"),
    ):
        code, _, err = run("cvat", records, video, *arguments, token=token)
        assert code == 1
        assert text in err


def test_without_the_sdk_the_extra_is_named(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    video = CLIPS["ntsc"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    for target, module in (("cvat", "cvat_sdk"), ("label-studio", "label_studio_sdk")):
        monkeypatch.setitem(sys.modules, module, None)
        code, _, err = run(target, records, video, "--url", "http://127.0.0.1:9")
        assert code == 1
        assert f"[{target}]" in err


@needs_readers
def test_label_studio_receives_a_task_at_the_rate_of_the_video(tmp_path: Path) -> None:
    video = CLIPS["ntsc"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    with serve(LabelStudioHandler) as (url, received):
        done = push_elsewhere("label-studio", records, video, "--url", url, "--video-url", "https://storage/ntsc.mp4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{url}/projects/3"
    assert 'framerate="$fps"' in received.specification["label_config"]
    (task,) = received.tasks
    assert task["data"] == {"video": "https://storage/ntsc.mp4", "fps": 29.97003}
    regions = task["predictions"][0]["result"]
    assert [region["value"]["sequence"][0]["frame"] for region in regions] == [1, 9]
    assert json.dumps(task).count('"enabled": false') == 3  # before the gap, and at both ends


@needs_readers
def test_label_studio_needs_a_proxy_where_the_rate_varies(tmp_path: Path) -> None:
    video = CLIPS["vfr"](tmp_path)
    records = annotate(video, tmp_path / "out").records
    with serve(LabelStudioHandler) as (url, received):
        done = push_elsewhere("label-studio", records, video, "--url", url)
    assert done.returncode == 1
    assert "variable frame rate" in done.stderr
    assert received.paths == []
