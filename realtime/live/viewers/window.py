"""Window: an OpenCV window that receives frames from any thread and runs in the main thread."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from time import monotonic

import cv2

from polypstream.arrays import Bgr
from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.viewers.alerts import AlertConfig, Alerts
from polypstream.realtime.live.viewers.viewer import Action, Commands, LiveStatistics, Notice
from polypstream.realtime.live.viewers.window_layout import Arrangement, Readings, WindowPicture, letterboxed
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.statistics import Recent
from polypstream.threads import Delivery, Handover, HandoverClosed

TITLE = "polypstream live"
PATIENCE_S = 0.01
"""Interval in seconds for processing window events, even without frames."""
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
NOTICE_S = 4.0
"""Seconds for which a message is displayed."""
_PROBE_S = 20.0
_ESCAPE = 27
_NO_KEY = -1


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """Settings of the window."""

    width: int = 1280
    """Width of the contents in pixels; the window can be resized."""
    lost_after_s: float = 0.8
    """Seconds without a new frame after which the window reports the feed as lost."""
    style: MarkerStyle = field(default_factory=MarkerStyle)
    alerts: AlertConfig = field(default_factory=AlertConfig)

    def __post_init__(self) -> None:
        for name, low, high in (("width", 320, 8192), ("lost_after_s", 0.1, 60)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"the window's {name} is {value:g}; it must be between {low:g} and {high:g}")


class Window:
    """Viewer on the screen of this machine. Call `run` in the main thread; the rest may be called from any thread.

    Raises:
        ConfigError: No window can be opened.
    """

    def __init__(self, config: WindowConfig, commands: Commands) -> None:
        check_display()
        self._config, self._commands = config, commands
        self._newest: Handover[tuple[DisplayFrame | Status, LiveStatistics]] = Handover(
            capacity=1, delivery=Delivery.NEWEST
        )
        self._face = WindowPicture(width=config.width, style=config.style)
        self._arrangement = Arrangement()
        self._alerts = Alerts(config.alerts)
        self._rung = 0
        self._statistics: LiveStatistics | None = None
        self._newest_notice: Notice | None = None
        self._noticed_at = 0.0
        self._told = Status(light=Light.LOST, reason="no video yet")
        self._picture_at = self._drawn_at = monotonic()
        self.video_delay = Recent()
        """Seconds from the capture of a frame until it is passed to the window system."""

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Show a frame unless a newer one arrives first."""
        self._put((shown, statistics))

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Show the status while there is no frame."""
        self._put((status, statistics))

    def close(self) -> None:
        """End `run`."""
        self._newest.cancel()

    def run(self) -> None:
        """Open the window and show frames until `close`, or until the user closes it, which ends the session."""
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_FREERATIO | cv2.WINDOW_GUI_NORMAL)
        try:
            cv2.resizeWindow(TITLE, self._config.width, round(self._config.width * 0.66))
            while self._step():
                self._obey(cv2.pollKey())
                if cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                    self._commands.send(Action.QUIT)
                    return
        finally:
            cv2.destroyAllWindows()

    def _put(self, item: tuple[DisplayFrame | Status, LiveStatistics]) -> None:
        try:
            self._newest.put(item)
        except HandoverClosed:
            return  # the window is closed

    def _step(self) -> bool:
        """Draw the newest frame or its absence; returns whether to continue."""
        try:
            item = self._newest.get(timeout_s=PATIENCE_S)
        except TimeoutError:
            self._draw_absence()
        except HandoverClosed:
            return False
        else:
            shown, self._statistics = item
            self._notice(self._statistics.notice)
            if isinstance(shown, Status):
                self._told = shown
                self._draw_absence()
            else:
                self._draw(shown)
        return True

    def _draw(self, shown: DisplayFrame) -> None:
        self._told = shown.status
        is_marked = bool(shown.markers) and self._arrangement.overlay
        readings = self._readings(shown.status, is_marked=is_marked)
        self._imshow(self._face.of_frame(shown, readings, self._arrangement))
        self._picture_at = self._drawn_at
        self.video_delay.add(self._drawn_at - shown.frame.captured_at)

    def _draw_absence(self) -> None:
        """Show that there is no video once that is so, and update this a few times per second."""
        now = monotonic()
        absent_s = now - self._picture_at
        if absent_s < self._config.lost_after_s or now - self._drawn_at < self._config.lost_after_s / 4:
            return
        told = self._told
        if told.light is not Light.LOST or not told.reason:
            told = Status(light=Light.LOST, reason=f"no new frame for {absent_s:.0f} s")
        self._imshow(self._face.without_frame(self._readings(told)))

    def _notice(self, notice: Notice | None) -> None:
        """Show a new message for `NOTICE_S`."""
        if notice is not None and notice != self._newest_notice:
            self._newest_notice, self._noticed_at = notice, monotonic()

    def _imshow(self, contents: Bgr) -> None:
        _, _, width, height = cv2.getWindowImageRect(TITLE)
        cv2.imshow(TITLE, letterboxed(contents, width=width, height=height))
        self._drawn_at = monotonic()

    def _readings(self, status: Status, *, is_marked: bool = False) -> Readings:
        now = monotonic()
        is_recent = now - self._noticed_at < NOTICE_S
        chip = self._alerts.update(is_marked=is_marked, at_s=now, is_ready=status.light is Light.READY)
        if self._alerts.raised > self._rung:
            self._rung = self._alerts.raised
            if self._config.alerts.sound:
                print("\a", end="", file=sys.stderr, flush=True)  # the terminal's tone: OpenCV has none
        return Readings(
            status=status,
            statistics=self._statistics,
            video_delay=self.video_delay.delay(),
            chip=chip,
            chip_ago_s=self._alerts.since_shown_s(now),
            message=self._newest_notice.text if self._newest_notice is not None and is_recent else "",
        )

    def _obey(self, key: int) -> None:
        """Execute the action of a key, or pass it on."""
        if key == _NO_KEY:
            return
        seen = self._arrangement
        match chr(key & 0xFF).lower():
            case "o":
                self._arrangement = replace(seen, overlay=not seen.overlay)
                self._commands.send(Action.OVERLAY_OFF if seen.overlay else Action.OVERLAY_ON)
            case "s":
                self._arrangement = replace(seen, side_by_side=not seen.side_by_side)
                self._commands.send(Action.SIDE_BY_SIDE_OFF if seen.side_by_side else Action.SIDE_BY_SIDE_ON)
            case "r":
                is_recording = self._statistics is not None and self._statistics.recording
                self._commands.send(Action.RECORD_STOP if is_recording else Action.RECORD_START)
            case "a":
                self._alerts.acknowledge(at_s=monotonic())
                self._commands.send(Action.ALERT_ACKNOWLEDGED)
            case "x":
                is_full = cv2.getWindowProperty(TITLE, cv2.WND_PROP_FULLSCREEN) == cv2.WINDOW_FULLSCREEN
                wanted = cv2.WINDOW_NORMAL if is_full else cv2.WINDOW_FULLSCREEN
                cv2.setWindowProperty(TITLE, cv2.WND_PROP_FULLSCREEN, wanted)
            case letter if letter in _ACTIONS:
                self._commands.send(_ACTIONS[letter])


_ACTIONS = {
    "p": Action.OPERATING_POINT_NEXT,
    "+": Action.THRESHOLD_UP,
    "=": Action.THRESHOLD_UP,
    "-": Action.THRESHOLD_DOWN,
    "n": Action.SNAPSHOT,
    "m": Action.MISSED,
    "f": Action.FALSE_ALARM,
    "q": Action.QUIT,
    chr(_ESCAPE): Action.QUIT,
}


def check_display() -> None:
    """Raise `ConfigError` if no window can be opened; tested in a new process, which OpenCV may abort."""
    try:
        tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        pass
    else:
        if tried.returncode == 0:
            return
    raise ConfigError(
        "no window can be opened: there is no display, or this OpenCV is built without windows; "
        "use --view page or --serve to watch in a browser, or --view none"
    )
