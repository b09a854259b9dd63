"""A session obeys its viewers, keeps what it should, and ends in every case."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from polypstream.realtime.live.alarm import SENSITIVE
from polypstream.realtime.live.keeping import Keeper, Record
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording import event_log
from polypstream.realtime.live.session import NOT_LOGGED, Session, Summary
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.unseen import UnseenViewer
from polypstream.realtime.live.viewing import Action, Command, Commands, Gauges, SetThreshold
from polypstream.realtime.overlay import MarkerStyle
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


FRAME_S = 0.02
"""Between two frames: a camera leaves the others time too."""


class Director(UnseenViewer):
    """A viewer that asks for a frame after each frame, and says what a test wants at the frame a test wants."""

    def __init__(self, source: ScriptedSource, commands: Commands, script: dict[int, Command], frames: int) -> None:
        super().__init__()
        self.source, self.commands, self.script, self.most = source, commands, script, frames
        self.seen: list[Gauges] = []
        self.lights: list[Light] = []
        self.closed = 0

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        super().show(shown, gauges)
        self.seen.append(gauges)
        self.lights.append(shown.status.light)
        if self.frames in self.script:
            self.commands.send(self.script[self.frames])
        self.ask()

    def tell(self, status: Status) -> None:
        super().tell(status)
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
    keeper = Keeper(folder, source, record=record, style=MarkerStyle(), on_notice=notices.append)
    summary = Session(source, live, viewers=[director], commands=commands, keeper=keeper).run(record=record_now)
    events = [json.loads(line) for line in (keeper.folder / "events.jsonl").read_text().splitlines()]
    return summary, director, events, notices, keeper.folder


def kinds(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events]


def test_a_session_shows_every_frame_and_logs_its_beginning_polyps_and_end(tmp_path: Path) -> None:
    summary, director, events, _, _ = run(tmp_path, {})
    assert summary.frames == director.frames == 60
    assert summary.frames_not_shown == 0
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
        (Action.OPERATING_POINT_NEXT, ("sensitive", SENSITIVE.threshold)),
    ],
)
def test_a_viewers_wish_is_obeyed_shown_and_logged(
    tmp_path: Path, command: Command, expected: tuple[str, float]
) -> None:
    _, director, events, _, _ = run(tmp_path, {5: command})
    last = director.seen[-1]
    assert (last.operating_point, last.threshold) == (expected[0], pytest.approx(expected[1]))
    (changed,) = (event for event in events if event["event"] == "settings_changed")
    assert (changed["operating_point"], changed["threshold"]) == expected


def test_recording_starts_and_stops_on_command_and_plays(tmp_path: Path) -> None:
    _, director, events, _, folder = run(tmp_path, {5: Action.RECORD_START, 40: Action.RECORD_STOP})
    assert any(gauges.recording for gauges in director.seen)
    assert [kind for kind in kinds(events) if "recording" in str(kind)] == ["recording_started", "recording_stopped"]
    with av.open(str(folder / "overlay.mkv")) as container:
        assert 25 <= sum(1 for _ in container.decode(video=0)) <= 36


def test_a_source_without_packets_is_recorded_from_its_pictures(tmp_path: Path) -> None:
    _, _, events, _, folder = run(tmp_path, {}, record=Record.BOTH, record_now=True)
    assert kinds(events)[-2:] == ["recording_stopped", "session_ended"]
    for name in ("feed.mkv", "overlay.mkv"):
        with av.open(str(folder / name)) as container:
            assert sum(1 for _ in container.decode(video=0)) >= 50


def test_a_snapshot_is_kept_and_told(tmp_path: Path) -> None:
    _, _, events, notices, folder = run(tmp_path, {30: Action.SNAPSHOT})
    assert "snapshot" in kinds(events)
    assert any(notice.startswith("snapshot: ") for notice in notices)
    assert len(list(folder.glob("snapshot_*.png"))) == 2


def test_a_viewer_may_end_the_session(tmp_path: Path) -> None:
    summary, _, events, _, _ = run(tmp_path, {7: Action.QUIT}, frames=10_000)
    assert 7 <= summary.frames < 100
    assert kinds(events)[-1] == "session_ended"


def test_a_folder_that_cannot_be_written_is_told_once_and_the_picture_goes_on(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source, commands, notices = ScriptedSource(), Commands(), list[str]()
    director = Director(source, commands, {}, 30)
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    keeper = Keeper(blocked, source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=notices.append)
    summary = Session(source, live, viewers=[director], commands=commands, keeper=keeper).run(record=True)
    assert summary.frames == 30
    assert any("events.jsonl" in notice for notice in notices)
    assert any("overlay.mkv" in notice for notice in notices)


def test_the_status_says_that_events_are_not_logged_for_as_long_as_that_is_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reading(Director):
        told: list[Status]

        def show(self, shown: LiveFrame, gauges: Gauges) -> None:
            self.note(shown.status)
            super().show(shown, gauges)

        def tell(self, status: Status) -> None:
            self.note(status)
            super().tell(status)

        def note(self, status: Status) -> None:
            was_missing = bool(self.told) and NOT_LOGGED in self.told[-1].reason
            self.told.append(status)
            if NOT_LOGGED in status.reason:
                blocked.unlink(missing_ok=True)
            elif was_missing:
                self.most = self.frames + 2  # enough seen

    monkeypatch.setattr(event_log, "RETRY_S", 0.01)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    source, commands = ScriptedSource(), Commands()
    director = Reading(source, commands, {}, 2000)
    director.told = []
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    keeper = Keeper(blocked, source, record=Record.FEED, style=MarkerStyle(), on_notice=lambda _: None)
    Session(source, live, viewers=[director], commands=commands, keeper=keeper).run()
    is_told = [NOT_LOGGED in status.reason for status in director.told]
    assert any(is_told)
    assert not is_told[-1]
    assert director.frames < 2000
    events = [json.loads(line) for line in (keeper.folder / "events.jsonl").read_text().splitlines()]
    assert kinds(events)[0] == "session_started"
    assert kinds(events)[-1] == "session_ended"


def test_a_lost_line_is_logged_once_and_so_is_its_return(tmp_path: Path) -> None:
    class Interrupted(Director):
        def ask(self) -> None:
            if self.frames == 5 and self.source.state.reason != "unplugged":
                self.source.lose("unplugged")
            else:
                super().ask()

        def tell(self, status: Status) -> None:
            super().tell(status)
            if status.reason == "unplugged":
                super().ask()

    source, commands = ScriptedSource(), Commands()
    director = Interrupted(source, commands, {}, 10)
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    keeper = Keeper(tmp_path, source, record=Record.FEED, style=MarkerStyle(), on_notice=print)
    summary = Session(source, live, viewers=[director], commands=commands, keeper=keeper).run()
    lines = (keeper.folder / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines if "line_" in line]
    assert [(event["event"], event.get("reason")) for event in found] == [
        ("line_lost", "unplugged"),
        ("line_back", None),
    ]
    assert summary.lines_lost == 1
    assert summary.frames == 10


def test_an_error_in_a_viewer_ends_everything_and_is_raised(tmp_path: Path) -> None:
    class Broken(UnseenViewer):
        def show(self, shown: LiveFrame, gauges: Gauges) -> None:
            raise RuntimeError("the screen fell off")

    source = ScriptedSource()
    live = LivePipeline(source, DiscFinder(), Tracker())
    keeper = Keeper(tmp_path, source, record=Record.FEED, style=MarkerStyle(), on_notice=print)
    source.give()
    with pytest.raises(RuntimeError, match="fell off"):
        Session(source, live, viewers=[Broken()], commands=Commands(), keeper=keeper).run()
