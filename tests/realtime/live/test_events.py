"""Events are on disk as soon as they happen, snapshots contain what was displayed, and both survive a full disk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Signal
from time import monotonic, sleep

import av
import cv2
import numpy as np
import pytest

from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording import event_log
from polypstream.realtime.live.recording.event_log import EventLog
from polypstream.realtime.live.recording.snapshots import Snapshot, Snapshots
from polypstream.realtime.outlines.drawing import MarkerStyle, marker_coverage
from tests.clips import plane_bytes
from tests.live_frames import live_frame, marker, round_polyp
from tests.realtime.live.feeds import wait_until


def records(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_event_has_its_time_by_the_wall_and_by_the_session(tmp_path: Path) -> None:
    path = tmp_path / "session" / "events.jsonl"
    with EventLog(path, on_notice=pytest.fail) as log:
        log.add(Event(kind=EventKind.SESSION_STARTED, details={"source": "clip"}))
        log.add(Event(kind=EventKind.CONNECTION_LOST, at=monotonic() - 2, pts_s=1.5, details={"reason": "no frame"}))
    started, lost = records(path)
    assert started["event"] == "session_started"
    assert started["source"] == "clip"
    assert "pts_s" not in started
    assert lost["pts_s"] == 1.5
    assert lost["session_s"] == pytest.approx(-2, abs=0.1)
    moments = [datetime.fromisoformat(str(record["time"])) for record in (started, lost)]
    assert (moments[0] - moments[1]).total_seconds() == pytest.approx(2, abs=0.1)
    assert abs((datetime.now(UTC) - moments[0]).total_seconds()) < 5


def test_a_log_is_continued_not_overwritten(tmp_path: Path) -> None:
    for _ in range(2):
        with EventLog(tmp_path / "events.jsonl", on_notice=pytest.fail) as log:
            log.add(Event(kind=EventKind.SESSION_STARTED))
    assert len(records(tmp_path / "events.jsonl")) == 2


def test_a_killed_program_leaves_every_event(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from time import sleep
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.event_log import EventLog
log = EventLog(Path(sys.argv[1]), on_notice=print)
for number in range(20):
    log.add(Event(kind=EventKind.SNAPSHOT, details={"number": number}))
sleep(1)
print("there", flush=True)
sleep(60)
"""
    path = tmp_path / "events.jsonl"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        program.send_signal(signal.SIGKILL)
    assert [record["number"] for record in records(path)] == list(range(20))


def test_events_that_a_full_disk_did_not_accept_are_counted(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from pathlib import Path
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.event_log import EventLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
with EventLog(Path(sys.argv[1]), on_notice=print) as log:
    for number in range(100):
        log.add(Event(kind=EventKind.SNAPSHOT, details={"number": number}))
"""
    path = tmp_path / "events.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    why, rest = done.stdout.splitlines()
    assert why.startswith(f"{path} is not written for now (File too large)")
    assert [record["number"] for record in records(path)] == list(range(len(records(path))))
    assert len(records(path)) > 5
    assert rest == f"the last {100 - len(records(path))} events are missing in {path}"


def test_a_log_on_a_device_that_is_full_raises_nothing() -> None:
    reported: list[str] = []
    with EventLog(Path("/dev/full"), on_notice=reported.append) as log:
        for _ in range(3):
            log.add(Event(kind=EventKind.SNAPSHOT))
    why, rest = reported
    assert "the disk is full" in why
    assert rest == "the last 3 events are missing in /dev/full"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with 64 kB of space."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk; returns the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def lines_in(path: Path) -> int:
    """Number of complete lines."""
    return path.read_text().count("\n") if path.exists() else 0


def numbered(log: EventLog, numbers: Iterable[int]) -> None:
    for number in numbers:
        log.add(Event(kind=EventKind.SNAPSHOT, details={"number": number, "text": "x" * 100}))


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "RETRY_S", 0.01)


@pytest.mark.usefixtures("_soon")
def test_a_log_continues_when_there_is_room_again_and_no_event_is_missing(small_disk: Path) -> None:
    path, reported, seen = small_disk / "events.jsonl", list[str](), [""]
    with EventLog(path, on_notice=reported.append) as log:
        numbered(log, range(5))
        wait_until(lambda: lines_in(path) == 5)
        assert log.is_written
        for first in (5, 105):  # twice: a disk can fill up again
            filler = fill(small_disk)
            numbered(log, range(first, first + 100))
            wait_until(lambda: not log.is_written)
            wait_until(
                lambda: seen.append(path.read_text()) or seen[-1].endswith("\n")
            )  # an attempt may be in progress
            assert first <= len(seen[-1].splitlines()) < first + 100
            filler.unlink()
            wait_until(lambda last=first + 100: lines_in(path) == last)
            assert log.is_written
    assert [record["number"] for record in records(path)] == list(range(205))
    why, again, *_ = reported
    assert why.startswith(f"{path} is not written for now (No space left on device); the disk is full: free some space")
    assert again == f"{path} can be written again"
    assert reported == [why, again] * 2


@pytest.mark.usefixtures("_soon")
def test_events_that_cannot_wait_for_room_are_counted_where_they_are_missing(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_log, "_WAITING", 10)
    path = small_disk / "events.jsonl"
    filler = fill(small_disk)
    with EventLog(path, on_notice=lambda _: None) as log:
        numbered(log, [0])
        wait_until(lambda: not log.is_written)
        numbered(log, range(1, 50))
        filler.unlink()
        wait_until(lambda: lines_in(path) == 12)
        numbered(log, [50])
    first, lost, *kept = records(path)
    assert first["number"] == 0
    assert (lost["event"], lost["count"]) == ("events_lost", 39)
    assert lost["time"] == kept[0]["time"]
    assert [record["number"] for record in kept] == list(range(40, 51))


@pytest.mark.usefixtures("_soon")
def test_a_folder_that_becomes_writable_later_gets_its_log(tmp_path: Path) -> None:
    folder, reported = tmp_path / "session", list[str]()
    folder.write_text("a file")
    with EventLog(folder / "events.jsonl", on_notice=reported.append) as log:
        numbered(log, range(3))
        wait_until(lambda: not log.is_written)
        folder.unlink()
        wait_until(lambda: log.is_written)
    assert [record["number"] for record in records(folder / "events.jsonl")] == [0, 1, 2]
    assert "there is a file where the folder should be" in reported[0]


@pytest.mark.parametrize("whole", [0, 1, 200])
@pytest.mark.parametrize("length", [1, 5000])
def test_a_line_that_was_left_half_written_is_cut_off(tmp_path: Path, whole: int, length: int) -> None:
    path = tmp_path / "events.jsonl"
    lines = [json.dumps({"number": number, "text": "x" * 50}) + "\n" for number in range(whole)]
    path.write_text("".join(lines) + '{"text":"'.ljust(length, "x")[:length])
    with EventLog(path, on_notice=pytest.fail) as log:
        numbered(log, [whole])
    assert [record["number"] for record in records(path)] == list(range(whole + 1))


def test_nobody_waits_for_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_hanging, goes_on, fsync = Signal(), Signal(), os.fsync

    def hang(file: int) -> None:
        is_hanging.set()
        goes_on.wait()
        fsync(file)

    monkeypatch.setattr(os, "fsync", hang)
    path = tmp_path / "events.jsonl"
    with EventLog(path, on_notice=pytest.fail) as log:
        numbered(log, [0])
        is_hanging.wait()
        numbered(log, range(1, 3000))  # would hang here forever
        goes_on.set()
    first, lost, *kept = records(path)
    assert first["number"] == 0
    assert lost["count"] == 2999 - len(kept)
    assert [record["number"] for record in kept] == list(range(3000 - len(kept), 3000))


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "bgr24", "yuyv422"])
def test_a_snapshot_holds_the_frame_with_and_without_markers(tmp_path: Path, pixel_format: str) -> None:
    saved: list[tuple[Snapshot, Event]] = []
    item = live_frame(3, markers=(marker(identity=5),), pixel_format=pixel_format)
    before = plane_bytes(item.frame.picture)
    with Snapshots(
        tmp_path / "new",
        MarkerStyle(),
        on_saved=lambda snapshot, event: saved.append((snapshot, event)),
        on_failed=pytest.fail,
    ) as snapshots:
        snapshots.take(item)
    assert plane_bytes(item.frame.picture) == before
    ((snapshot, event),) = saved
    plain, marked = (cv2.imread(str(path)) for path in (snapshot.untouched, snapshot.marked))
    assert plain is not None
    assert marked is not None
    assert plain.shape == marked.shape == (48, 64, 3)
    if pixel_format == "bgr24":
        np.testing.assert_array_equal(plain, item.frame.picture.to_ndarray())
    if pixel_format in {"yuv420p", "bgr24"}:
        still = av.VideoFrame(64, 48, "yuv444p" if pixel_format == "bgr24" else "yuv420p")
        coverage = [
            np.kron(c, np.ones((48 // len(c),) * 2)) for c in marker_coverage(still, [round_polyp()], MarkerStyle())
        ]
        covered = cv2.dilate((np.max(coverage, axis=0) > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        differs = (plain != marked).any(axis=2)
        assert differs.sum() > 50
        assert not differs[~covered].any()
    record = json.loads(snapshot.record.read_text())
    assert record["identities"] == [5]
    assert record["pixel_aspect"] == 1
    assert record["light"] == "ready"
    assert record["index"] == 3
    assert event.kind is EventKind.SNAPSHOT
    assert event.details["untouched"] == snapshot.untouched.name
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in (snapshot.untouched, snapshot.marked, snapshot.record)
    )


def test_a_snapshot_that_fails_is_reported_and_the_next_is_tried(tmp_path: Path) -> None:
    reported: list[str] = []
    saved: list[Snapshot] = []
    folder = tmp_path / "pictures"
    folder.write_text("a file")
    with Snapshots(
        folder, MarkerStyle(), on_saved=lambda s, _: saved.append(s), on_failed=reported.append
    ) as snapshots:
        snapshots.take(live_frame(0))
        while not reported:
            sleep(0.01)
        folder.unlink()
        snapshots.take(live_frame(1))
    assert len(reported) == 1
    assert "could not be saved (File exists); there is a file where the folder should be" in reported[0]
    assert len(saved) == 1
