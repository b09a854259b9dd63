"""A session executes the viewers' commands, saves what it should, and always ends."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording import event_log
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import NOT_LOGGED, Session, Summary
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.viewer import (
    Action,
    Command,
    Commands,
    HeadlessViewer,
    LiveStatistics,
    SetThreshold,
)
from polypstream.realtime.outlines.drawing import MarkerStyle
from tests.realtime.live.scripted import EAGER, PATIENT, DiscFinder, ScriptedSource

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


FRAME_S = 0.02
"""Time between two frames, as with a camera."""


class Director(HeadlessViewer):
    """A viewer that sends scripted commands at scripted frames."""

    def __init__(self, source: ScriptedSource, commands: Commands, script: dict[int, Command], frames: int) -> None:
        super().__init__()
        self.source, self.commands, self.script, self.most = source, commands, script, frames
        self.seen: list[LiveStatistics] = []
        self.lights: list[Light] = []
        self.closed = 0

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        super().show(shown, statistics)
        self.seen.append(statistics)
        self.lights.append(shown.status.light)
        if self.frames in self.script:
            self.commands.send(self.script[self.frames])
        self.ask()

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        super().tell(status, statistics)
        if self.frames == 0:
            self.ask()

    def ask(self) -> None:
        threading.Event().wait(FRAME_S)
        if self.frames < self.most:
            self.source.give()
        else:
            self.source.end()

    def close(self) -> None:
        self.closed += 1


def run(
    folder: Path,
    script: dict[int, Command],
    *,
    frames: int = 60,
    record: Record = Record.OVERLAY,
    record_now: bool = False,
    finder: DiscFinder | None = None,
) -> tuple[Summary, Director, list[dict[str, object]], list[str], Path]:
    source, commands, notices = ScriptedSource(), Commands(), list[str]()
    director = Director(source, commands, script, frames)
    live = LivePipeline(source, finder or DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER, fade_ms=10_000)))
    recorder = SessionRecorder(folder, source, record=record, style=MarkerStyle(), on_notice=notices.append)
    session = Session(
        source, live, viewers=[director], commands=commands, recorder=recorder, operating_points=(EAGER, PATIENT)
    )
    summary = session.run(record=record_now)
    events = [json.loads(line) for line in (recorder.folder / "events.jsonl").read_text().splitlines()]
    return summary, director, events, notices, recorder.folder


def kinds(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events]


def test_a_session_shows_every_frame_and_logs_its_beginning_polyps_and_end(tmp_path: Path) -> None:
    summary, director, events, _, _ = run(tmp_path, {})
    assert summary.frames == director.frames == 60
    assert summary.frames_dropped == 0
    assert summary.polyps == 1
    assert director.closed == 1
    assert kinds(events) == ["session_started", "polyp_appeared", "polyp_vanished", "session_ended"]
    assert events[1]["identity"] == events[2]["identity"] == 1


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (SetThreshold(value=0.31), ("eager", 0.31)),
        (Action.THRESHOLD_UP, ("eager", 0.55)),
        (Action.THRESHOLD_DOWN, ("eager", 0.45)),
        (Action.OPERATING_POINT_NEXT, ("patient", PATIENT.threshold)),
    ],
)
def test_a_viewers_command_is_executed_displayed_and_logged(
    tmp_path: Path, command: Command, expected: tuple[str, float]
) -> None:
    _, director, events, _, _ = run(tmp_path, {5: command})
    last = director.seen[-1]
    assert (last.operating_point, last.threshold) == (expected[0], pytest.approx(expected[1]))
    (changed,) = (event for event in events if event["event"] == "settings_changed")
    assert (changed["operating_point"], changed["threshold"]) == expected


@pytest.mark.parametrize(
    ("threshold", "command", "expected"),
    [
        (0.97, Action.THRESHOLD_UP, 0.99),
        (0.995, Action.THRESHOLD_UP, None),
        (0.03, Action.THRESHOLD_DOWN, 0.01),
        (0.002, Action.THRESHOLD_DOWN, None),
    ],
)
def test_a_key_never_moves_the_threshold_the_other_way(
    tmp_path: Path, threshold: float, command: Action, expected: float | None
) -> None:
    _, _, events, _, _ = run(tmp_path, {2: SetThreshold(value=threshold), 5: command}, frames=10)
    changes = [event["threshold"] for event in events if event["event"] == "settings_changed"]
    assert changes == [threshold] if expected is None else changes == [threshold, expected]


def test_markers_switched_off_and_on_are_logged(tmp_path: Path) -> None:
    _, _, events, _, _ = run(tmp_path, {3: Action.OVERLAY_OFF, 6: Action.OVERLAY_ON}, frames=10)
    assert [kind for kind in kinds(events) if "markers" in str(kind)] == ["markers_hidden", "markers_shown"]


def test_failed_inferences_are_not_counted(tmp_path: Path) -> None:
    finder = DiscFinder()
    finder.problem = RuntimeError("CUDA error 700")
    summary, _, _, _, _ = run(tmp_path, {}, finder=finder)
    assert finder.calls > 10
    assert (summary.frames, summary.frames_inferred, summary.polyps) == (60, 0, 0)


def test_inferences_are_counted_as_the_network_answers_them(tmp_path: Path) -> None:
    finder = DiscFinder()
    summary, _, _, _, _ = run(tmp_path, {}, finder=finder)
    assert summary.frames_inferred == finder.calls > 10


def test_recording_starts_and_stops_on_command_and_plays(tmp_path: Path) -> None:
    _, director, events, _, folder = run(tmp_path, {5: Action.RECORD_START, 40: Action.RECORD_STOP})
    assert any(statistics.recording for statistics in director.seen)
    assert [kind for kind in kinds(events) if "recording" in str(kind)] == ["recording_started", "recording_stopped"]
    with av.open(str(folder / "overlay.mkv")) as container:
        assert 25 <= sum(1 for _ in container.decode(video=0)) <= 36


def test_a_source_without_packets_is_recorded_from_its_pictures(tmp_path: Path) -> None:
    _, _, events, _, folder = run(tmp_path, {}, record=Record.BOTH, record_now=True)
    assert kinds(events)[-2:] == ["recording_stopped", "session_ended"]
    for name in ("feed.mkv", "overlay.mkv"):
        with av.open(str(folder / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 50


def test_a_snapshot_is_kept_and_reported(tmp_path: Path) -> None:
    _, _, events, notices, folder = run(tmp_path, {30: Action.SNAPSHOT})
    assert "snapshot" in kinds(events)
    assert any(notice.startswith("snapshot: ") for notice in notices)
    assert len(list(folder.glob("snapshot_*.png"))) == 2


def test_a_viewer_may_end_the_session(tmp_path: Path) -> None:
    summary, _, events, _, _ = run(tmp_path, {7: Action.QUIT}, frames=10_000)
    assert 7 <= summary.frames < 100
    assert kinds(events)[-1] == "session_ended"


def test_an_unwritable_folder_is_reported_once_and_the_video_continues(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source, commands, notices = ScriptedSource(), Commands(), list[str]()
    director = Director(source, commands, {}, 30)
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(blocked, source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=notices.append)
    summary = Session(source, live, viewers=[director], commands=commands, recorder=recorder).run(record=True)
    assert summary.frames == 30
    assert any("events.jsonl" in notice for notice in notices)
    assert any("overlay.mkv" in notice for notice in notices)


def test_the_status_says_that_events_are_not_logged_for_as_long_as_that_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reading(Director):
        reported: list[Status]

        def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
            self.note(shown.status)
            super().show(shown, statistics)

        def tell(self, status: Status, statistics: LiveStatistics) -> None:
            self.note(status)
            super().tell(status, statistics)

        def note(self, status: Status) -> None:
            was_missing = bool(self.reported) and NOT_LOGGED in self.reported[-1].reason
            self.reported.append(status)
            if NOT_LOGGED in status.reason:
                blocked.unlink(missing_ok=True)
            elif was_missing:
                self.most = self.frames + 2  # enough seen

    monkeypatch.setattr(event_log, "RETRY_S", 0.01)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source, commands = ScriptedSource(), Commands()
    director = Reading(source, commands, {}, 2000)
    director.reported = []
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(blocked, source, record=Record.FEED, style=MarkerStyle(), on_notice=lambda _: None)
    Session(source, live, viewers=[director], commands=commands, recorder=recorder).run()
    is_reported = [NOT_LOGGED in status.reason for status in director.reported]
    assert any(is_reported)
    assert not is_reported[-1]
    assert director.frames < 2000
    events = [json.loads(line) for line in (recorder.folder / "events.jsonl").read_text().splitlines()]
    assert kinds(events)[0] == "session_started"
    assert kinds(events)[-1] == "session_ended"


def test_a_lost_connection_is_logged_once_and_so_is_its_return(tmp_path: Path) -> None:
    class Interrupted(Director):
        def ask(self) -> None:
            if self.frames == 5 and self.source.state.reason != "unplugged":
                self.source.lose("unplugged")
            else:
                super().ask()

        def tell(self, status: Status, statistics: LiveStatistics) -> None:
            super().tell(status, statistics)
            if status.reason == "unplugged":
                super().ask()

    source, commands = ScriptedSource(), Commands()
    director = Interrupted(source, commands, {}, 10)
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(tmp_path, source, record=Record.FEED, style=MarkerStyle(), on_notice=print)
    summary = Session(source, live, viewers=[director], commands=commands, recorder=recorder).run()
    lines = (recorder.folder / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if "connection_" in line]
    assert [(event["event"], event.get("reason")) for event in found] == [
        ("connection_lost", "unplugged"),
        ("connection_restored", None),
    ]
    assert summary.connections_lost == 1
    assert summary.frames == 10


def test_an_error_in_a_viewer_ends_everything_and_is_raised(tmp_path: Path) -> None:
    class Broken(HeadlessViewer):
        def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
            raise RuntimeError("the screen fell off")

    source = ScriptedSource()
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(tmp_path, source, record=Record.FEED, style=MarkerStyle(), on_notice=print)
    source.give()
    with pytest.raises(RuntimeError, match="fell off"):
        Session(source, live, viewers=[Broken()], commands=Commands(), recorder=recorder).run()
