"""NDI: the marked video as a source for other programs of the local network; requires the extra `[ndi]`."""

from collections.abc import Callable
from datetime import datetime
from fractions import Fraction
from threading import Event as Signal
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np

from polypstream.arrays import Size
from polypstream.errors import MissingExtraError
from polypstream.realtime.live.display_frame import DisplayFrame, Status
from polypstream.realtime.live.events import Event
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.outputs.picture import PushedPictures, upright_size
from polypstream.realtime.live.outputs.push import PLACEHOLDER_AFTER_S, PLACEHOLDER_EVERY_S, SIZE_WITHOUT_FRAME
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.scheduling import TRACKING_NICENESS, lower_thread_priority
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

if TYPE_CHECKING:
    from cyndilib.sender import Sender


class Ndi:
    """A viewer that other programs see as an NDI source. It runs from construction until `close`.

    Frames are sent as they arrive, in the size of the first one; while there are none, a placeholder with the reason.
    It never delays the caller. If the library fails, nothing more is sent and `state` says why.

    Args:
        name: Name of the source; NDI puts the name of this machine before it.
        on_notice: Called with one line for the user, from any thread.

    Raises:
        MissingExtraError: cyndilib is not installed, or does not support this machine.
    """

    def __init__(self, name: str, *, on_notice: Callable[[str], None] = lambda _: None) -> None:
        try:
            import cyndilib.sender  # noqa: F401
        except (ImportError, OSError):
            raise MissingExtraError("sending NDI", "ndi") from None
        self._name, self._on_notice = name, on_notice
        self._frames: Handover[DisplayFrame] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._reason, self._problem, self._sent = "waiting for the source", "", 0
        self._frame_at = monotonic()
        self._is_working, self._closing = False, Signal()
        self._stages = Stages(cancel=self._cancel)
        self._stages.start("ndi", self._run)

    @property
    def state(self) -> OutputState:
        """The present state."""
        return OutputState(
            kind="ndi",
            label=self._name,
            is_working=self._is_working,
            problem=self._problem,
            sent=self._sent,
            dropped=self._frames.dropped,
            failures=int(bool(self._problem)),
        )

    def take_events(self) -> list[Event]:
        """Return nothing: an NDI source has no connection to report."""
        return []

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Send a frame."""
        try:
            self._frames.put(shown)
        except HandoverClosed:
            return  # closing, or failed: `state` says why

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """State on the placeholder why there is no frame."""
        self._reason = status.reason

    def close(self) -> None:
        """Withdraw the source."""
        self._cancel()
        self._stages.join()

    def _cancel(self) -> None:
        self._closing.set()
        self._frames.cancel()

    def _run(self) -> None:
        lower_thread_priority(TRACKING_NICENESS)
        try:
            item = self._next()
            if not self._closing.is_set():
                self._send_all(item, SIZE_WITHOUT_FRAME if item is None else upright_size(item.frame))
        except Exception as error:  # noqa: BLE001 - whatever fails in the library, the session goes on
            self._problem = f"NDI source {self._name}: {str(error) or type(error).__name__}"
            self._on_notice(self._problem)
        finally:
            self._is_working = False
            self._frames.cancel()

    def _send_all(self, item: DisplayFrame | None, size: Size) -> None:
        pictures = PushedPictures(size, MarkerStyle())
        with _sender(self._name, size) as sender:
            self._is_working = True
            self._on_notice(f"NDI source {self._name} is available")
            while not self._closing.is_set():
                if item is None:
                    clock = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                    picture = pictures.placeholder(self._reason, clock=clock)
                else:
                    picture = pictures.of_frame(item)
                sender.write_video(np.ascontiguousarray(picture.to_ndarray(), np.uint8).ravel())
                self._sent += 1
                item = self._next()

    def _next(self) -> DisplayFrame | None:
        """Wait for a frame; None if the placeholder is due, or when closed."""
        due_s = self._frame_at + PLACEHOLDER_AFTER_S - monotonic()
        try:
            item = self._frames.get(timeout_s=max(due_s, PLACEHOLDER_EVERY_S))
        except (TimeoutError, HandoverClosed):
            return None
        self._frame_at = monotonic()
        return item


def _sender(name: str, size: Size) -> "Sender":
    from cyndilib.sender import Sender
    from cyndilib.video_frame import VideoSendFrame
    from cyndilib.wrapper.ndi_structs import FourCC

    frame = VideoSendFrame()
    frame.set_resolution(*size)
    frame.set_frame_rate(Fraction(30))  # a hint; frames are sent as they arrive
    frame.set_fourcc(FourCC.I420)
    sender = Sender(name, clock_video=False)
    sender.set_video_frame(frame)
    return sender
