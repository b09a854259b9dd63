"""If a job ends early, its partial video is playable, and every playable frame has its record."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.clips import make_clip, times_of
from tests.models import write_green_finder

FRAMES = 1500
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A minute of video with sound for all of it."""
    folder = tmp_path_factory.mktemp("clip")
    silent = make_clip(folder / "silent.mp4", frames=FRAMES, width=160, height=120, options={"bf": "2", "qp": "30"})
    path = folder / "long.mp4"
    ffmpeg("-i", silent, "-f", "lavfi", "-i", f"sine=d={FRAMES // 25}", "-c:v", "copy", "-c:a", "aac", path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_green_finder(tmp_path_factory.mktemp("model") / "green.onnx")


def ffmpeg(*arguments: object) -> str:
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg")
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def _default_signals() -> None:
    """Background processes of a shell ignore Ctrl-C, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(clip: Path, model: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "polypstream", "annotate", clip, "-o", out, "--model", model, *options]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_default_signals
    )


def wait_for(process: "subprocess.Popen[str]", path: Path, size: int) -> None:
    while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
        threading.Event().wait(0.01)
    assert process.poll() is None, process.communicate()


def assert_playable(overlay: Path, records: Path, clip: Path, *, at_least: int) -> int:
    """The playable frames are the first ones, at their times, with sound, without errors, each with a record."""
    assert ffmpeg("-i", overlay, "-f", "null", "-") == ""
    times, expected = times_of(overlay), times_of(clip)
    assert len(times) >= at_least
    assert set(times) <= set(expected)
    assert times[:-3] == expected[: len(times) - 3]  # the last B-frames, which come last in the file, may be missing
    with av.open(str(overlay)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        sound_s = max((p.pts or 0) * p.time_base for p in container.demux(audio=0) if p.size)
    assert abs(sound_s - times[-1]) < 1.5
    text = records.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]  # SIGKILL may cut off the last line
    lines = [json.loads(line) for line in complete.splitlines()]
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert len(lines) >= len(times)
    return len(times)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_ordinary_files_up_to_the_frame_reached(
    tmp_path: Path, clip: Path, model: Path, number: signal.Signals
) -> None:
    process = started(clip, model, tmp_path)
    overlay, records = tmp_path / "long_overlay.partial.mp4", tmp_path / "long_polyps.partial.jsonl"
    wait_for(process, overlay, 100_000)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "interrupted" in message
    assert "Traceback" not in message
    played = assert_playable(overlay, records, clip, at_least=20)
    assert records.read_text().endswith("\n")
    assert abs(played - len(records.read_text().splitlines())) <= 1
    assert b"moof" in overlay.read_bytes()  # as data: the file is an ordinary one
    assert boxes(overlay) == [b"ftyp", b"free", b"mdat", b"moov"]
    assert {path.name for path in tmp_path.iterdir()} == {overlay.name, records.name, "long_polyps.detections"}


@pytest.mark.parametrize("share", [0.03, *(random.Random(seed).uniform(0.05, 0.9) for seed in range(3))])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_job_leaves_files_that_play(
    tmp_path: Path, clip: Path, model: Path, suffix: str, share: float
) -> None:
    source = clip
    if suffix == ".mkv":  # raw sound, which MP4 does not hold
        source = tmp_path / "long.mkv"
        ffmpeg("-i", clip, "-c:v", "copy", "-c:a", "flac", "-frames:v", FRAMES, source)
        ffmpeg("-i", clip, "-c:v", "copy", "-c:a", "wmav2", source)
    out = tmp_path / "out"
    process = started(source, model, out)
    overlay, records = out / f"long_overlay.partial{suffix}", out / "long_polyps.partial.jsonl"
    wait_for(process, records, round(share * FRAMES * 45))
    wait_for(process, overlay, 10_000)
    done = len(records.read_text().splitlines())
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert_playable(overlay, records, source, at_least=done - 75)


def test_a_killed_job_starts_over(tmp_path: Path, clip: Path, model: Path) -> None:
    process = started(clip, model, tmp_path)
    wait_for(process, tmp_path / "long_overlay.partial.mp4", 100_000)
    process.kill()
    process.communicate(timeout=60)
    (tmp_path / "unrelated").touch()
    again = started(clip, model, tmp_path)
    _, message = again.communicate(timeout=300)
    assert again.returncode == 0, message
    results = {"long_overlay.mp4", "long_polyps.jsonl", "long_summary.json", "annotate_manifest.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == {*results, "unrelated"}
    assert len(times_of(tmp_path / "long_overlay.mp4")) == FRAMES


def boxes(path: Path) -> list[bytes]:
    """Types of the boxes that an MP4 file consists of."""
    data, at, types = path.read_bytes(), 0, []
    while at < len(data):
        types.append(data[at + 4 : at + 8])
        size = int.from_bytes(data[at : at + 4], "big")
        at += int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
    return types


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system with space for part of the results."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_keeps_what_was_done(small_disk: Path, clip: Path, model: Path) -> None:
    process = started(clip, model, small_disk, "--json")
    printed, message = process.communicate(timeout=300)
    assert process.returncode == 1
    (failed,) = json.loads(printed)["failed"]
    assert "the disk is full" in failed["error"]
    assert "the part written so far is kept, with .partial in its name" in failed["error"]
    assert message.count("error:") == 1
    overlay, records = small_disk / "long_overlay.partial.mp4", small_disk / "long_polyps.partial.jsonl"
    assert_playable(overlay, records, clip, at_least=50)
    assert {path.name for path in small_disk.iterdir()} == {overlay.name, records.name, "long_polyps.detections"}
    assert sum(path.stat().st_size for path in small_disk.iterdir()) > 0.9 * MEBIBYTE


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from polypstream.cli import main
main()
"""


@pytest.mark.parametrize("limit", [250_000, 400_000])
def test_a_file_that_grows_too_large_keeps_what_was_done(tmp_path: Path, clip: Path, model: Path, limit: int) -> None:
    arguments = ["annotate", clip, "-o", tmp_path, "--model", model]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "larger than the system allows" in done.stderr
    assert "Traceback" not in done.stderr
    assert_playable(tmp_path / "long_overlay.partial.mp4", tmp_path / "long_polyps.partial.jsonl", clip, at_least=20)


def test_a_second_job_for_the_same_result_is_refused(tmp_path: Path, clip: Path, model: Path) -> None:
    first = started(clip, model, tmp_path)
    overlay = tmp_path / "long_overlay.partial.mp4"
    wait_for(first, overlay, 10_000)
    second = started(clip, model, tmp_path)
    _, message = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "another polypstream is writing it" in message
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert_playable(overlay, tmp_path / "long_polyps.partial.jsonl", clip, at_least=1)


def test_times_in_an_unfinished_file_are_exact_with_b_frames_and_late_beginnings(tmp_path: Path) -> None:
    from polypstream.realtime.video.reader import VideoReader
    from polypstream.realtime.video.writer import Encoding, VideoWriter

    pts = [90_000 + 3600 * i for i in range(200)]
    source = make_clip(
        tmp_path / "clip.mp4", pts=pts, time_base=Fraction(1, 90_000), options={"bf": "3"}, audio="aac",
        audio_start=24_000,
    )  # fmt: skip
    with (
        VideoReader(source) as reader,
        VideoWriter(tmp_path / "out.mp4", source=reader, encoding=Encoding(preset="veryfast")) as writer,
    ):
        for item in reader:
            writer.write(item)
        shutil.copy(writer.partial_path, tmp_path / "killed.mp4")
    times = times_of(tmp_path / "killed.mp4")
    assert len(times) >= 150
    assert times[:-3] == times_of(source)[: len(times) - 3]
