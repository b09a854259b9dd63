"""Review of a session after its end: the same decisions and exports as during the session, on its folder."""

import shutil
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from polypstream.errors import ConfigError, OutputError
from polypstream.files import check_writable, locked
from polypstream.realtime.live.recording import session_record, session_report
from polypstream.realtime.live.recording.event_log import EventLog
from polypstream.realtime.live.recording.recorder import OnNotice, reviewed
from polypstream.realtime.live.recording.review_export import ReviewExports
from polypstream.realtime.live.recording.session_folder import EVENTS, LOCK, read_session
from polypstream.realtime.live.recording.session_record import SessionRecord
from polypstream.realtime.live.recording.sightings import Verdict
from polypstream.realtime.live.viewers.viewer import Commands, ExportReview, Notice, Review
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.threads import HandoverClosed

TICK_S = 2.0
"""Seconds after which what a failing disk did not take is tried again."""
_EARLIER_REPORT = "report_before_review.html"
_DAMAGED_RECORD = "sightings_damaged.json"


class SessionReview:
    """The review of one session. Use as a context manager, which locks the folder.

    Args:
        folder: Folder of a session that has ended.
        on_notice: Called with one line for the user, from any thread.

    Raises:
        ConfigError: There is no session in the folder, or it is still running or reviewed elsewhere.
        OutputError: The folder cannot be written.
    """

    def __init__(self, folder: Path, *, on_notice: OnNotice) -> None:
        self._folder, self._on_notice = folder, on_notice
        self._open = ExitStack()
        self._problem = ""
        self.notice: Notice | None = None
        """The newest message for the viewers."""

    def __enter__(self) -> Self:
        read_session(self._folder)  # before anything is created in a folder that is none
        check_writable(self._folder)
        busy = ConfigError(f"{self._folder} is in use: its session is running or someone reviews it; end that first")
        with ExitStack() as opened:
            opened.enter_context(locked(self._folder / LOCK, otherwise=busy))
            self.session = session = read_session(self._folder)
            self._keep_damaged()
            self.record = opened.enter_context(
                SessionRecord(
                    self._folder,
                    MarkerStyle(),
                    on_problem=self._failed,
                    sightings=session.sightings,
                    wall_s=session.wall_s,
                    missing=session.facts.missing,
                )
            )
            self._log = opened.enter_context(
                EventLog(self._folder / EVENTS, on_notice=self._on_notice, began_at=session.journal.began_s)
            )
            self._exports = opened.enter_context(ReviewExports(self.record, self._folder, on_done=self._report))
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def run(self, commands: Commands) -> None:
        """Obey commands until they are closed; other commands than those of the review are ignored."""
        with suppress(HandoverClosed):
            while True:
                try:
                    command = commands.next(timeout_s=TICK_S)
                except TimeoutError:
                    self.record.tick(monotonic())
                    continue
                if isinstance(command, Review):
                    self._decide(command)
                elif isinstance(command, ExportReview):
                    self._exports.start(command.formats, self.session.facts.model)

    def finish(self) -> str:
        """Complete all files, and write the report with the decisions; returns a summary.

        Raises:
            OutputError: Something could not be saved.
        """
        self._exports.close()
        self.record.close()
        if self._problem:
            raise OutputError(self._problem)
        path = self._folder / session_report.NAME
        if not self.session.is_complete and path.exists() and not path.with_name(_EARLIER_REPORT).exists():
            with suppress(OSError):  # it has what the folder lacks otherwise
                path.rename(path.with_name(_EARLIER_REPORT))
        session_report.write_session_report(self._folder, self.session.facts, self.session.journal, self.record)
        return f"{self.progress}; report: {path}"

    @property
    def progress(self) -> str:
        """How many sightings have been reviewed, in words."""
        verdicts = [each.verdict for each in self.record.sightings()]
        accepted, deleted = verdicts.count(Verdict.ACCEPTED), verdicts.count(Verdict.DELETED)
        return f"{accepted + deleted} of {len(verdicts)} sightings reviewed: {accepted} accepted, {deleted} no polyp"

    def _decide(self, decision: Review) -> None:
        event = reviewed(self.record, decision)
        if event is None:
            self._report(f"sighting {decision.number} cannot be changed: it has no frame", True)
        else:
            self._log.add(event)

    def _keep_damaged(self) -> None:
        """Keep a damaged record, which the review would overwrite, under another name."""
        if any(each.startswith((session_record.NAME, "entry ")) for each in self.session.facts.missing):
            with suppress(OSError):
                shutil.copy(self._folder / session_record.NAME, self._folder / _DAMAGED_RECORD)

    def _failed(self, reason: str) -> None:
        self._problem = reason
        if reason:
            self._report(reason, True)

    def _report(self, text: str, is_problem: bool) -> None:
        """Show a message in the terminal and on every page."""
        number = 1 if self.notice is None else self.notice.number + 1
        self.notice = Notice(number=number, text=text, is_problem=is_problem)
        self._on_notice(text)
