"""Viewer interface: frames and statistics in, user commands out; and a viewer without a display."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from polypstream.arrays import Contour
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.live.display_frame import DisplayFrame, Status
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.recording.sightings import Verdict
from polypstream.realtime.statistics import Delay
from polypstream.threads import Delivery, Handover, HandoverClosed


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A message for the user, displayed once: what was saved, or could not be saved."""

    number: int
    """Counted from 1 within a session; a viewer displays a number that it has not seen before."""
    text: str
    is_problem: bool


@dataclass(frozen=True, kw_only=True)
class LiveStatistics:
    """Measurements over the last seconds of a session, and the state of its recording."""

    video_delay: Delay | None = None
    """Delay from the capture of a frame to the viewers; None before the first frame."""
    marker_delay: Delay | None = None
    """Delay from the capture of a frame to the first display of its markers."""
    fps_in: float = 0.0
    fps_inference: float = 0.0
    dropped_inference_frames: int = 0
    """Frames since the start that were not inferred because a newer one was available."""
    inferences: int = 0
    """Frames since the start for which the network gave a valid answer."""
    unusable_frames: int = 0
    """Frames since the start without visibility, on which inference was skipped."""
    inference_threads: int | None = None
    """CPU threads of the network, if their number follows the delays."""
    is_late: bool = False
    """Whether 99% of the markers cannot be displayed within the deadline on this machine."""
    dropped_frames: int = 0
    """Frames since the start that were never displayed: a viewer was busy, or they were decoded too late."""
    operating_point: str
    """Its name."""
    threshold: float
    """Minimum probability of polyp pixels."""
    recording: bool = False
    """Whether frames are being recorded; False as soon as a recorder stops by itself."""
    saving_problem: str = ""
    """Why something cannot be saved, in one line; empty if everything is saved."""
    notice: Notice | None = None
    """The newest message for the user."""
    outputs: tuple[OutputState, ...] = ()
    """Pushed streams and receivers of events."""
    recording_s: float | None = None
    """How long the recording has been running; None without one."""
    recording_file: str = ""
    """Name of the newest file of the recording."""
    free_bytes: int | None = None
    """Free space of the disk with the session's folder; None if unknown."""
    record_revision: int = 0
    """Increases with every change of the session's record; see `Record`."""


class Action(Enum):
    """What a user can request with one key.

    Overlay and side by side apply to the viewer that sends them, which has already changed them itself.
    """

    OVERLAY_ON = "overlay_on"
    OVERLAY_OFF = "overlay_off"
    SIDE_BY_SIDE_ON = "side_by_side_on"
    SIDE_BY_SIDE_OFF = "side_by_side_off"
    OPERATING_POINT_NEXT = "operating_point_next"
    THRESHOLD_UP = "threshold_up"
    THRESHOLD_DOWN = "threshold_down"
    SNAPSHOT = "snapshot"
    MISSED = "missed"
    """A polyp was not marked: keep a clip."""
    FALSE_ALARM = "false_alarm"
    """What is or was just marked is no polyp: keep a clip."""
    ALERT_ACKNOWLEDGED = "alert_acknowledged"
    RECORD_START = "record_start"
    RECORD_STOP = "record_stop"
    QUIT = "quit"


@dataclass(frozen=True, kw_only=True)
class SetThreshold:
    """A threshold chosen by a user."""

    value: float
    """Between 0 and 1."""

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise ConfigError(f"the threshold is {self.value:g}; it must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Review:
    """A user's decision about a sighting."""

    number: int
    """Number of the sighting."""
    verdict: Verdict
    contour: Contour | None = None
    """A contour drawn by the user, (N, 2) float32 in pixels of the sighting's frame; None keeps the present one."""
    note: str | None = None
    """What the user wrote about it; None keeps the present note."""


@dataclass(frozen=True, kw_only=True)
class ExportReview:
    """A request to write the reviewed sightings."""

    formats: tuple[ExportFormat, ...]


Command = Action | SetThreshold | Review | ExportReview


class Record(Protocol):
    """The record of a session, for viewers that show it. Any thread may call it."""

    def listing(self) -> dict[str, object]:
        """Return its `revision`, and its `sightings` as JSON values."""
        ...

    def thumbnail(self, number: int) -> bytes | None:
        """Return a small JPEG image of a sighting with its contour."""
        ...

    def marked(self, number: int) -> bytes | None:
        """Return the frame of a sighting as JPEG with its contour; may take tens of milliseconds."""
        ...

    def image(self, number: int) -> bytes | None:
        """Return the frame of a sighting as JPEG without its contour; reads the disk."""
        ...

    def clip_path(self, number: int) -> Path | None:
        """Return the file of its clip."""
        ...


class Commands:
    """Queue of commands from all viewers, oldest first. Any thread may send; one thread should receive."""

    CAPACITY = 64
    """Maximum number of waiting commands; beyond it, the oldest is dropped as obsolete."""

    def __init__(self) -> None:
        self._sent: Handover[Command] = Handover(capacity=self.CAPACITY, delivery=Delivery.NEWEST)

    def send(self, command: Command) -> None:
        """Add a command without waiting; ignored after `close`."""
        with suppress(HandoverClosed):
            self._sent.put(command)

    def waiting(self) -> list[Command]:
        """Return all commands sent so far, without waiting for more."""
        commands: list[Command] = []
        with suppress(TimeoutError, HandoverClosed):
            while True:
                commands.append(self._sent.get(timeout_s=0))
        return commands

    def next(self, *, timeout_s: float) -> Command:
        """Wait for the next command.

        Raises:
            TimeoutError: There is none within the timeout.
            HandoverClosed: All have been received, and there will be no more.
        """
        return self._sent.get(timeout_s=timeout_s)

    def __iter__(self) -> Iterator[Command]:
        """Yield commands as they arrive, until closed."""
        return iter(self._sent)

    def close(self) -> None:
        """End the iteration."""
        self._sent.close()


class Viewer(Protocol):
    """A display of a live feed. Called from the display thread, which it must not delay.

    `show` and `tell` return in well under a millisecond: anything slower happens in the viewer's own thread, with the
    newest frame only.
    """

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Show a frame with its markers; called for every frame."""
        ...

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Show the status while there is no frame; called repeatedly until there is one."""
        ...

    def close(self) -> None:
        """End everything the viewer has started, then raise errors that occurred in it, if any."""
        ...


class HeadlessViewer:
    """Displays nothing and counts frames: for recording, metrics and measurements."""

    def __init__(self) -> None:
        self.frames = 0
        """Number of frames received."""
        self.frames_with_markers = 0
        self.status: Status | None = None
        """Newest status, of a frame or without one."""
        self.statistics: LiveStatistics | None = None

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Count a frame."""
        self.frames += 1
        self.frames_with_markers += bool(shown.markers)
        self.status, self.statistics = shown.status, statistics

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Store the status."""
        self.status, self.statistics = status, statistics

    def close(self) -> None:
        """Do nothing."""
