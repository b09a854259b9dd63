"""What a viewer is: it is shown frames and gauges, and what its user wants comes back as commands."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from polypstream.errors import ConfigError
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.gauges import Delay
from polypstream.realtime.live.shown import LiveFrame, Status


@dataclass(frozen=True, kw_only=True)
class Gauges:
    """What a session measures of itself, over its last seconds."""

    video_delay: Delay | None = None
    """From the capture of a frame to its hand-over to the viewers; None before the first."""
    marker_delay: Delay | None = None
    """From the capture of a frame to the first showing of markers made from it."""
    fps_in: float = 0.0
    fps_inference: float = 0.0
    dropped_inference_frames: int = 0
    """Frames that the network did not judge, since a newer one came; since the start."""
    operating_point: str
    """Its name."""
    threshold: float
    """A pixel whose probability reaches this is polyp."""
    recording: bool = False


class Action(Enum):
    """What a user can ask for with one key.

    Overlay and side by side belong to each viewer, which has obeyed already and only tells.
    """

    OVERLAY_ON = "overlay_on"
    OVERLAY_OFF = "overlay_off"
    SIDE_BY_SIDE_ON = "side_by_side_on"
    SIDE_BY_SIDE_OFF = "side_by_side_off"
    OPERATING_POINT_NEXT = "operating_point_next"
    THRESHOLD_UP = "threshold_up"
    THRESHOLD_DOWN = "threshold_down"
    SNAPSHOT = "snapshot"
    RECORD_START = "record_start"
    RECORD_STOP = "record_stop"
    QUIT = "quit"


@dataclass(frozen=True, kw_only=True)
class SetThreshold:
    """A threshold that a user has chosen."""

    value: float
    """Between 0 and 1."""

    def __post_init__(self) -> None:
        if not 0 < self.value < 1:
            raise ConfigError(f"the threshold is {self.value:g}; it must lie between 0 and 1")


Command = Action | SetThreshold


class Commands:
    """What the users of all viewers want, oldest first; any thread may send, one should take."""

    CAPACITY = 64
    """More than this untaken, and the oldest is forgotten: nobody waits for it any more."""

    def __init__(self) -> None:
        self._sent: Handover[Command] = Handover(capacity=self.CAPACITY, delivery=Delivery.NEWEST)

    def send(self, command: Command) -> None:
        """Hand a command over, at once; after `close` it goes nowhere."""
        with suppress(HandoverClosed):
            self._sent.put(command)

    def waiting(self) -> list[Command]:
        """Take all that has been sent so far, without waiting for more."""
        commands: list[Command] = []
        with suppress(TimeoutError, HandoverClosed):
            while True:
                commands.append(self._sent.get(timeout_s=0))
        return commands

    def __iter__(self) -> Iterator[Command]:
        """Yield commands as they come, until closed."""
        return iter(self._sent)

    def close(self) -> None:
        """End the iteration."""
        self._sent.close()


class Viewer(Protocol):
    """Somewhere to look at a live feed. Called from the thread that shows, which it must not hold up.

    `show` and `tell` return in well under a millisecond: whatever takes longer happens in a thread of the viewer's
    own, with the newest frame only.
    """

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Show a frame with its markers; called for every frame."""
        ...

    def tell(self, status: Status) -> None:
        """Say how things stand while there is no frame; called again and again until there is one."""
        ...

    def close(self) -> None:
        """End everything the viewer has started, then raise what went wrong in there, if anything did."""
        ...
