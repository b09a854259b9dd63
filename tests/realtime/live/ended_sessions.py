"""Folders of sessions that have ended, for tests of their review."""

from pathlib import Path

from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.recording.session_report import SessionFacts
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.statistics import Delay
from tests.live_frames import live_frame, marker
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.scripted import ScriptedSource

FACTS = SessionFacts(source="scripted", label="Room 2", settings={"Model": "tiny 1"}, totals={"frames displayed": 40})


def recorder_in(folder: Path) -> SessionRecorder:
    return SessionRecorder(folder, ScriptedSource(), record=Record.FEED, style=MarkerStyle(), on_notice=print)


def begin(recorder: SessionRecorder, *, size: tuple[int, int] = (256, 192)) -> None:
    """A polyp is marked and another one reported as missed; the video is lost for a while."""
    recorder.note(Event(kind=EventKind.SESSION_STARTED, details={"source": "scripted", "label": "Room 2"}))
    shown = live_frame(0, markers=(marker(),), size=size)
    recorder.show(shown)
    recorder.report_missed(live_frame(1, size=size))
    recorder.journal.follow(Status(light=Light.LOST, reason="no signal"))
    recorder.journal.follow(shown.status)
    delay = Delay(p50_ms=3, p99_ms=5)
    recorder.journal.sample(video=delay, marker=delay, fps=25)
    wait_until(lambda: recorder.record.thumbnail(1) and recorder.record.thumbnail(2))


def ended_session(folder: Path) -> Path:
    """The folder of a session with sighting 1, which was marked, and 2, which was missed."""
    with recorder_in(folder) as recorder:
        begin(recorder)
        recorder.finish()
        recorder.note(Event(kind=EventKind.SESSION_ENDED, details={"frames": 40}))
        recorder.write_report(FACTS)
    return recorder.folder
