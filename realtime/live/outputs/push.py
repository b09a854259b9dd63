"""Push: the marked video as a stream to a server, always on, with a placeholder while the source sends nothing."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from threading import Event as Signal
from time import monotonic
from types import TracebackType
from typing import Any, Self

import av
from av.codec.context import Flags
from av.video.frame import PictureType, VideoFrame

from polypstream.arrays import Size
from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import DisplayFrame, Status
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.outputs.address import PushAddress
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.outputs.picture import PIXEL_FORMAT, PushedPictures, upright_size
from polypstream.realtime.live.outputs.relay import MILLISECOND
from polypstream.realtime.live.outputs.relayed import Relay
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.scheduling import TRACKING_NICENESS, lower_thread_priority
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 30.0
"""Seconds between a failure and the next attempt; doubled after every failure until frames are accepted."""
PLACEHOLDER_AFTER_S = 1.0
"""Seconds without a frame after which the placeholder is sent, five times a second."""
PLACEHOLDER_EVERY_S = 0.2
SIZE_WITHOUT_FRAME: Size = (1280, 720)
"""Size of the stream if there is no frame within `PLACEHOLDER_AFTER_S` of the start."""
KEY_FRAME_EVERY_S = 1.0
END_S = 4.0
"""Seconds that a push may take to end before its process is ended."""
_WAITING = 2
"""Frames that may wait for a slow encoder or server; beyond that the oldest is dropped and counted."""
_EVENTS_KEPT = 64


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Size and quality of a pushed stream.

    Raises:
        ConfigError: A value is out of range.
    """

    size: Size | None = None
    """Width and height in pixels; None for those of the first frame."""
    bitrate_kbps: int = 6000
    """Maximum bit rate in kbit/s."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        if self.size is not None and not all(16 <= side <= 7680 and side % 2 == 0 for side in self.size):
            raise ConfigError(f"the push's size is {self.size[0]}x{self.size[1]}; use even numbers from 16 to 7680")
        if not 100 <= self.bitrate_kbps <= 100_000:
            raise ConfigError(f"the push's bit rate is {self.bitrate_kbps} kbit/s; use 100 to 100000")


class Push:
    """A viewer that sends the marked video to a server. It runs from construction until `close`.

    It connects immediately and again after every failure. Frames are encoded as they arrive, with their capture times;
    H.264 without B-frames, a key frame every second. It never delays the caller, and nothing raises there.

    Args:
        address: Where to send the stream.
        config: Size and quality.
        on_notice: Called with one line for every change of the connection, from any thread.
    """

    def __init__(
        self,
        address: PushAddress,
        config: PushConfig | None = None,
        *,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._address, self._config, self._on_notice = address, config or PushConfig(), on_notice
        self._frames: Handover[DisplayFrame] = Handover(capacity=_WAITING, delivery=Delivery.NEWEST)
        self._events: deque[Event] = deque(maxlen=_EVENTS_KEPT)
        self._size = self._config.size
        self._reason = "waiting for the source"
        self._problem = ""
        self._is_working = False
        self._sent = self._failures = 0
        self._began_at = self._frame_at = monotonic()
        self._relay: Relay | None = None
        self._closing, self._ended = Signal(), Signal()
        self._stages = Stages(cancel=self._cancel)
        self._stages.start("push", self._run)

    @property
    def state(self) -> OutputState:
        """The present state."""
        return OutputState(
            kind="push",
            label=self._address.label,
            is_working=self._is_working,
            problem=self._problem,
            sent=self._sent,
            dropped=self._frames.dropped,
            failures=self._failures,
        )

    def take_events(self) -> list[Event]:
        """Return the connections established and lost since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Send a frame."""
        self._give(shown)

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """State on the placeholder why there is no frame."""
        self._reason = status.reason

    def close(self) -> None:
        """Complete the stream; takes up to `END_S` seconds if the server does not respond."""
        self._cancel()
        if not self._ended.wait(END_S) and self._relay is not None:
            self._relay.kill()
        self._stages.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _give(self, shown: DisplayFrame) -> None:
        try:
            self._frames.put(shown)
        except HandoverClosed:
            return  # closing, or failed: `close` raises the error

    def _cancel(self) -> None:
        self._closing.set()
        self._frames.cancel()

    def _run(self) -> None:
        lower_thread_priority(TRACKING_NICENESS)
        retry_s = FIRST_RETRY_S
        try:
            while not self._closing.is_set():
                try:
                    self._send_all()
                except Exception as error:  # noqa: BLE001 - whatever fails, the session goes on and the push is retried
                    retry_s = FIRST_RETRY_S if self._is_working else min(2 * retry_s, LONGEST_RETRY_S)
                    self._failed(str(error) or type(error).__name__)
                self._closing.wait(retry_s)
        finally:
            self._is_working = False
            self._ended.set()

    def _send_all(self) -> None:
        """Send everything over one connection, until closed."""
        item = self._next()
        if self._size is None:
            self._size = SIZE_WITHOUT_FRAME if item is None else upright_size(item.frame)
        pictures, encoder = PushedPictures(self._size, self._config.style), _Encoder(self._size, self._config)
        with Relay(self._address) as self._relay:
            while not self._closing.is_set():
                if item is None:
                    clock = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
                    picture, at_s = pictures.placeholder(self._reason, clock=clock), monotonic()
                else:
                    picture, at_s = pictures.of_frame(item), item.frame.captured_at
                for packet in encoder.encode(picture, at_s=at_s - self._began_at):
                    self._put(packet)
                self._sent += 1
                item = self._next()

    def _next(self) -> DisplayFrame | None:
        """Wait for a frame; None if the placeholder is due, or when closed."""
        while True:
            due_s = self._frame_at + PLACEHOLDER_AFTER_S - monotonic()
            try:
                item = self._frames.get(timeout_s=max(due_s, PLACEHOLDER_EVERY_S))
            except (TimeoutError, HandoverClosed):
                return None
            if monotonic() - item.frame.captured_at < PLACEHOLDER_AFTER_S:  # older ones waited for a connection
                self._frame_at = monotonic()
                return item

    def _put(self, packet: "av.Packet[Any]") -> None:
        assert self._relay is not None
        if self._is_working:
            self._relay.send(packet)
            return
        self._relay.start(packet)
        self._is_working, self._problem = True, ""
        self._events.append(Event(kind=EventKind.OUTPUT_CONNECTED, details={"output": self._address.label}))
        self._on_notice(f"pushing to {self._address.label}")

    def _failed(self, reason: str) -> None:
        is_new = self._is_working or reason != self._problem
        self._is_working, self._problem = False, reason
        self._failures += 1
        if is_new:
            details = {"output": self._address.label, "reason": reason}
            self._events.append(Event(kind=EventKind.OUTPUT_FAILED, details=details))
            self._on_notice(f"{reason}; trying again")


class _Encoder:
    """H.264 for low delay, with parameters repeated in every key frame."""

    def __init__(self, size: Size, config: PushConfig) -> None:
        self._context = av.CodecContext.create("libx264", "w")
        context: Any = self._context
        context.width, context.height, context.pix_fmt = *size, PIXEL_FORMAT
        context.time_base, context.framerate = MILLISECOND, Fraction(30)
        context.flags |= Flags.global_header
        context.options = {
            "preset": "ultrafast",
            "tune": "zerolatency",
            "crf": "21",
            "maxrate": f"{config.bitrate_kbps}k",
            "bufsize": f"{config.bitrate_kbps // 2}k",
            "x264-params": "repeat-headers=1:force-cfr=0",
        }
        self._last_ms = -1
        self._key_at_s: float | None = None

    def encode(self, picture: VideoFrame, *, at_s: float) -> "list[av.Packet[Any]]":
        """Encode an image of this time, in seconds; times that do not increase are moved."""
        self._last_ms = max(round(at_s * 1000), self._last_ms + 1)
        picture.pts, picture.time_base = self._last_ms, MILLISECOND
        is_key = self._key_at_s is None or at_s - self._key_at_s >= KEY_FRAME_EVERY_S
        picture.pict_type = PictureType.I if is_key else PictureType.NONE
        self._key_at_s = at_s if is_key else self._key_at_s
        return list(self._context.encode(picture))
