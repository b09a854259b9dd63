"""The reported state of recordings is correct: while recording, after a recorder failed, and after a restart."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.prometheus import Metrics, MetricsConfig, MetricsViewer
from polypstream.realtime.live.viewers.viewer import Action, Commands, LiveStatistics
from polypstream.realtime.outlines.drawing import MarkerStyle
from tests.live_frames import live_frame
from tests.realtime.live.disks import disk_of, fill
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource
from tests.realtime.live.test_session import Director

pytestmark = pytest.mark.realtime


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of(tmp_path / "small", kilobytes=300) as disk:
        yield disk


class Step:
    """One thing that a user does as soon as the statistics satisfy a condition."""

    def __init__(self, when: Callable[[LiveStatistics], bool], do: Callable[[], object]) -> None:
        self.when, self.do = when, do


class User(Director):
    """A viewer whose user follows steps, then ends the session."""

    steps: list[Step]
    metrics: MetricsViewer

    def show(self, shown: object, statistics: LiveStatistics) -> None:
        self.metrics.show(shown, statistics)  # type: ignore[arg-type]
        if self.steps and self.steps[0].when(statistics):
            self.steps.pop(0).do()
        if not self.steps:
            self.most = self.frames
        super().show(shown, statistics)  # type: ignore[arg-type]


def test_a_recording_that_a_full_disk_stopped_is_reported_everywhere_and_can_be_started_again(
    small_disk: Path,
) -> None:
    pytest.importorskip("prometheus_client", reason="needs the extra [metrics]")
    source, commands, notices = ScriptedSource(), Commands(), list[str]()
    user = User(source, commands, {}, 3000)
    gauges: list[tuple[float, float]] = []
    ballast = small_disk / "ballast"

    def gauge() -> None:
        values = [
            served.registry.get_sample_value(f"polypstream_{name}", {"stream": "1"}) or 0.0
            for name in ("recording", "saving")
        ]
        gauges.append((values[0], values[1]))

    def start() -> None:
        gauge()
        commands.send(Action.RECORD_START)

    def fill_up() -> None:
        gauge()
        fill(small_disk)

    def make_room_and_start_again() -> None:
        gauge()
        ballast.unlink()
        commands.send(Action.RECORD_START)

    user.steps = [
        Step(lambda _: True, start),
        Step(lambda now: now.recording and any(small_disk.rglob("overlay.mkv")), fill_up),
        Step(lambda now: not now.recording and "overlay.mkv" in now.saving_problem, make_room_and_start_again),
        Step(lambda now: now.recording and any(small_disk.rglob("overlay-2.mkv")), gauge),
    ]
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(small_disk, source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=notices.append)
    with Metrics(MetricsConfig(port=0)) as served:
        user.metrics = served.stream()
        Session(source, live, viewers=[user], commands=commands, recorder=recorder).run()
    assert not user.steps
    assert [recording for recording, _ in gauges] == [0, 1, 0, 1]
    assert gauges[2] == (0, 0)
    reported = [notice for notice in notices if "overlay.mkv has stopped" in notice]
    assert len(reported) == 1
    assert "the disk is full" in reported[0]
    events = [json.loads(line) for line in (recorder.folder / "events.jsonl").read_text().splitlines()]
    changes = [event for event in events if "recording" in event["event"]]
    assert [event["event"] for event in changes] == [
        "recording_started",
        "recording_stopped",
        "recording_started",
        "recording_stopped",
    ]
    assert "the disk is full" in changes[1]["reason"]
    assert "reason" not in changes[3]


def recorder_in(folder: Path, notices: list[str]) -> SessionRecorder:
    return SessionRecorder(
        folder, ScriptedSource(), record=Record.OVERLAY, style=MarkerStyle(), on_notice=notices.append
    )


def test_a_snapshot_that_could_not_be_saved_says_so_and_the_next_one_that_is_clears_it(small_disk: Path) -> None:
    notices: list[str] = []
    with recorder_in(small_disk, notices) as recorder:
        ballast = fill(small_disk)
        recorder.take_snapshot(live_frame(0))
        wait_until(lambda: recorder.notice)
        assert recorder.notice is not None
        assert recorder.notice.is_problem
        assert "could not be saved" in recorder.notice.text
        assert "the disk is full" in recorder.problem
        ballast.unlink()
        recorder.take_snapshot(live_frame(1))
        wait_until(lambda: recorder.notice is not None and recorder.notice.number == 2)
        assert not recorder.notice.is_problem
        wait_until(lambda: not recorder.problem)
    assert "could not be saved" in notices[0]


def test_a_snapshot_before_the_first_picture_is_reported(tmp_path: Path) -> None:
    notices: list[str] = []
    with recorder_in(tmp_path, notices) as recorder:
        recorder.take_snapshot(None)
    assert notices == ["no snapshot: there has been no frame yet"]


def test_snapshots_that_a_slow_disk_leaves_no_time_for_are_reported(tmp_path: Path) -> None:
    notices: list[str] = []
    taken = 60
    with recorder_in(tmp_path, notices) as recorder:
        for number in range(taken):
            recorder.take_snapshot(live_frame(number, size=(1280, 720)))
    missed = sum("too slow" in notice for notice in notices)
    assert missed > 0
    assert missed + sum(notice.startswith("snapshot: ") for notice in notices) == taken


def test_sessions_of_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    barrier, folders = threading.Barrier(4), list[Path]()
    recorders = [recorder_in(tmp_path, []) for _ in range(4)]
    for recorder in recorders:
        recorder.folder = tmp_path / "2026-01-01_00-00-00"

    def enter(recorder: SessionRecorder) -> None:
        barrier.wait()
        with recorder:
            folders.append(recorder.folder)

    threads = [threading.Thread(target=enter, args=(recorder,)) for recorder in recorders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(folders)) == 4
