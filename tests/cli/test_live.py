"""`polypstream live` in a separate process: events, output, exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from polypstream.contract import OperatingPoint
from polypstream.synthetic import SyntheticClip, write_clip
from tests.models import contract, write_green_finder
from tests.realtime.live.feeds import free_port, wait_until
from tests.realtime.live.outputs.servers import Receiver

pytestmark = pytest.mark.realtime

LONG_S = 120


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A short clip and a fast model."""
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


@pytest.fixture(scope="module")
def own_points(feed: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same clip with a model that has its own operating points."""
    points = OperatingPoint(name="eager", threshold=0.3), OperatingPoint(name="patient", threshold=0.6)
    path = tmp_path_factory.mktemp("model") / "mine.onnx"
    model = write_green_finder(path, metadata=contract(operating_points=points).to_metadata())
    return [feed[0], "--model", str(model), *feed[3:]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ("eager", 0.3)),
        (["--operating-point", "patient"], ("patient", 0.6)),
        (["--operating-point", "patient", "--threshold", "0.7"], ("patient", 0.7)),
    ],
)
def test_the_operating_points_are_those_of_the_model(
    own_points: list[str], tmp_path: Path, options: list[str], expected: tuple[str, float]
) -> None:
    done = run(*own_points, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    started = events(tmp_path / "live")[0]
    assert (started["operating_point"], started["threshold"]) == expected


def test_an_unknown_operating_point_is_an_error(own_points: list[str], tmp_path: Path) -> None:
    done = run(*own_points, "--operating-point", "specific", cwd=tmp_path)
    assert done.returncode == 1
    assert "no operating point 'specific'; choose one of eager, patient" in done.stderr


def test_the_marked_video_is_pushed_from_addresses_in_the_environment(
    feed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYPSTREAM_PUSH", "hls udp://127.0.0.1:9")
    done = run(*feed, "--loop", "--push-size", "16x15", cwd=tmp_path)
    assert done.returncode == 1
    assert "the push's size is 16x15; use even numbers" in done.stderr
    done = run(*feed, "--push-size", "160x128", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pushing to hls" in done.stderr
    assert "pushing to udp://127.0.0.1:9" in done.stderr
    assert (tmp_path / "hls" / "index.m3u8").exists()


def test_events_are_posted_in_the_order_of_the_log(
    feed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYPSTREAM_WEBHOOK_SECRET", "a secret")
    with Receiver() as receiver:
        done = run(*feed, "--webhook", receiver.url, "--record-now", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    posted = [json.loads(body) for _, body in receiver.requests]
    assert [event["event"] for event in posted] == [event["event"] for event in events(tmp_path / "live")]
    assert posted[-1]["event"] == "session_ended"
    assert all(headers["webhook-signature"].startswith("v1,") for headers, _ in receiver.requests)


def test_several_sources_have_sessions_of_their_own(feed: list[str], tmp_path: Path) -> None:
    done = run(feed[0], *feed, "--record-now", "--push", "hls{stream}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for number in (1, 2):
        logged = events(tmp_path / "live" / f"stream-{number}")
        assert [logged[0]["event"], logged[-1]["event"]] == ["session_started", "session_ended"]
        assert logged[-1]["frames"] == 25
        assert (tmp_path / f"hls{number}" / "index.m3u8").exists()
    assert len(re.findall(r"25 frames displayed", done.stderr)) == 2
    for options, words in (
        (["--view", "window"], "a window shows one source"),
        (["--push", "hls"], r"write {stream} for the number"),
    ):
        refused = run(feed[0], *feed, *options, cwd=tmp_path)
        assert refused.returncode == 1
        assert words in refused.stderr


def test_source_that_dies_does_not_affect_the_others(feed: list[str], tmp_path: Path) -> None:
    lost = f"tcp://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        command(feed[0], lost, *feed[1:], "--loop"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "live"

    def is_seen() -> bool:
        return len(list(log.glob("stream-2/*/events.jsonl"))) == 1 and "connection_failed" in next(
            log.glob("stream-2/*/events.jsonl")
        ).read_text(encoding="utf-8")

    wait_until(is_seen, within_s=LONG_S)
    threading.Event().wait(1)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=LONG_S)
    assert process.returncode == 0, output
    assert events(log / "stream-1")[-1]["frames"] > 25  # type: ignore[operator]
    assert events(log / "stream-2")[-1]["frames"] == 0


def test_a_file_is_watched_to_its_end_and_recorded(feed: list[str], tmp_path: Path) -> None:
    done = run(*feed, "--record", "both", "--record-now", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"[1-9]\d* frames displayed, .*\d+ inferences?, \d+ polyp alarms?.*; events are in", done.stderr)
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
    ("arguments", "code", "reported"),
    [
        (["absent.mp4"], 1, "absent.mp4"),
        (["ftp://host/video"], 1, "ftp://"),
        (["clip.mp4", "--serve", "8765"], 2, "HOST:PORT"),
        (["clip.mp4", "--serve", "127.0.0.1:0", "--token", "short"], 1, "8 letters or digits"),
        (["/dev/video99", "--device-size", "big"], 2, "WxH"),
        (["/dev/video99", "--device-rate", "fast"], 2, "frames per second"),
        (["rtsp://me:secret@host:port/"], 1, "address"),
    ],
)
def test_invalid_options_are_reported_in_one_line_and_leaves_nothing_running(
    feed: list[str], tmp_path: Path, arguments: list[str], code: int, reported: str
) -> None:
    write_clip(tmp_path / "clip.mp4", SyntheticClip(width=64, height=64, seconds=0.2))
    wanted = arguments if "--serve" in arguments else [*arguments, "--view", "none"]
    done = run(*wanted, *feed[1:5], cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert reported in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


def test_a_chosen_token_is_required_by_the_page_and_kept_out_of_the_output(feed: list[str], tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    write_clip(tmp_path / "clip.mp4", SyntheticClip(width=64, height=64, seconds=0.4))
    arguments = [str(tmp_path / "clip.mp4"), "--serve", "127.0.0.1:0", *feed[1:5]]
    chosen = {**os.environ, "POLYPSTREAM_TOKEN": "chosentoken1"}
    done = subprocess.run(command(*arguments), cwd=tmp_path, capture_output=True, text=True, check=False, env=chosen)
    assert done.returncode == 0, done.stderr
    assert "?token=YOUR-TOKEN" in done.stderr
    assert "chosentoken1" not in done.stderr + done.stdout


def test_cameras_are_listed_without_a_source(tmp_path: Path) -> None:
    done = run("--list-devices", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "/dev/video" in done.stdout


def lines_until(mark: str, *arguments: str, cwd: Path) -> list[str]:
    """Output of a session that is ended after the first line containing the mark."""
    with subprocess.Popen(command(*arguments), cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if mark in line:
                process.send_signal(signal.SIGINT)
        assert process.wait(LONG_S) == 0
    return lines


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp", "udp"])
def test_the_terminal_prints_once_why_nothing_arrives(scheme: str, feed: list[str], tmp_path: Path) -> None:
    host = "polypstream.invalid" if scheme != "udp" else "@"
    reason = "the host name is unknown" if scheme != "udp" else "no video for 2 s"
    lines = lines_until("trying again", f"{scheme}://{host}:{free_port()}", *feed[1:], cwd=tmp_path)
    reported = [line for line in lines if "no connection" in line]
    assert len(reported) == 1
    assert f"no connection: {reason}; trying again" in reported[0]
    assert "lost" not in "".join(lines)


def test_http_404_and_a_text_file_are_reported(feed: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a video\n" * 100)
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            said = {}
            for name in ("missing.mp4", "notes.txt"):
                address = f"http://127.0.0.1:{server.server_port}/{name}"
                said[name] = "".join(lines_until("trying again", address, *feed[1:], cwd=tmp_path))
        finally:
            server.shutdown()
            thread.join()
    assert "no connection: the server has no stream of this name; trying again" in said["missing.mp4"]
    assert "no connection: the received data is text, not video; trying again" in said["notes.txt"]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_an_output_folder_that_cannot_be_written_is_not_named_as_the_place_of_the_events(
    feed: list[str], tmp_path: Path
) -> None:
    done = run(*feed, "-o", "/proc/x", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "events could not be saved" in done.stderr
    assert "events are in" not in done.stderr
