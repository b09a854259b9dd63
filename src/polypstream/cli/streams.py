"""Runs the sessions of `polypstream live`: one, or several that do not affect each other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import TYPE_CHECKING

from polypstream.errors import PolypstreamError, SourceError

if TYPE_CHECKING:
    from polypstream.realtime.live.recording.recorder import SessionRecorder
    from polypstream.realtime.live.session import Session, Summary
    from polypstream.realtime.live.viewers.viewer import Commands, Viewer


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One source with its session."""

    name: str
    """Of the source, for display."""
    session: "Session"
    viewer: "Viewer"
    """The one with the display."""
    commands: "Commands"
    recorder: "SessionRecorder"


def run_streams(streams: Sequence[Stream], *, record: bool, on_notice: Callable[[str], None]) -> None:
    """Run every session to its end, and print what each did.

    Args:
        streams: One, or several; each ends by itself, and a failure of one concerns only that one.
        record: Whether to start recording immediately.
        on_notice: Called with one line for the user.

    Raises:
        SourceError: At least one of several sessions failed.
    """
    if len(streams) == 1:
        (stream,) = streams
        on_notice(_totals(_run(stream.session, stream.viewer, record=record), stream.recorder))
        return
    failed: list[str] = []

    def run(stream: Stream) -> None:
        try:
            on_notice(f"{stream.name}: {_totals(stream.session.run(record=record), stream.recorder)}")
        except Exception as error:  # noqa: BLE001 - reported, and the other streams continue
            failed.append(stream.name)
            text = str(error) if isinstance(error, PolypstreamError) else f"{type(error).__name__}: {error}"
            on_notice(f"{stream.name}: the session has failed: {text}")

    threads = [Thread(target=run, args=(stream,), name=f"polypstream-session-{stream.name}") for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SourceError(f"{len(failed)} of {len(streams)} sessions failed: {', '.join(failed)}; see above")


def _run(session: "Session", viewer: "Viewer", *, record: bool) -> "Summary":
    """Run the session in this thread, or next to a window, which needs the main thread."""
    from polypstream.realtime.live.viewers.window import Window
    from polypstream.threads import Stages

    if not isinstance(viewer, Window):
        return session.run(record=record)
    summaries: list[Summary] = []
    stages = Stages(cancel=session.close)
    stages.start("session", lambda: summaries.append(session.run(record=record)))
    try:
        viewer.run()
    except BaseException:
        stages.cancel_and_join()
        raise
    stages.join()
    return summaries[0]


def _totals(summary: "Summary", recorder: "SessionRecorder") -> str:
    parts = [f"{_count(summary.frames, 'frame')} displayed"]
    if summary.frames_dropped:
        parts.append(f"{summary.frames_dropped} dropped")
    parts += [_count(summary.frames_inferred, "inference"), _count(summary.polyps, "polyp alarm")]
    if summary.frames_unusable:
        parts.append(f"{_count(summary.frames_unusable, 'frame')} skipped as unusable")
    if summary.frames:
        parts.append(f"{1 - summary.frames_late / summary.frames:.1%} of the video within 5.75 ms")
    if summary.markers:
        parts.append(f"{1 - summary.markers_late / summary.markers:.1%} of the markers within 120 ms")
    if summary.connections_lost:
        parts.append(f"connection lost {_count(summary.connections_lost, 'time')}")
    saved = f"events are in {recorder.folder}" if recorder.is_logging else "events could not be saved"
    return f"{', '.join(parts)}; {saved}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
