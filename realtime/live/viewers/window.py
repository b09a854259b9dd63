"""The window: OpenCV's, fed from any thread and run in the main one."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from time import monotonic

import cv2

from polypstream.errors import ConfigError
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.gauges import Recent
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.viewers.window_picture import Arrangement, Bgr, Readings, WindowPicture
from polypstream.realtime.live.viewing import Action, Commands, Gauges
from polypstream.realtime.overlay import MarkerStyle

TITLE = "polypstream live"
PATIENCE_S = 0.01
"""A window must look after its events this often, picture or no picture."""
_PROBE = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
_PROBE_S = 20.0
_ESCAPE = 27
_NO_KEY = -1


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How the window looks."""

    width: int = 1280
    """Of its contents, in pixels; the window can be stretched."""
    lost_after_s: float = 0.8
    """Without a new picture for so long, the window says that the feed is lost."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        for name, low, high in (("width", 320, 8192), ("lost_after_s", 0.1, 60)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"the window's {name} is {value:g}; it should be from {low:g} to {high:g}")


class Window:
    """A viewer on this machine's own screen. `run` belongs to the main thread; the rest may be called from any.

    Raises `ConfigError` where there is no screen.
    """

    def __init__(self, config: WindowConfig, commands: Commands) -> None:
        _check_screen()
        self._config, self._commands = config, commands
        self._newest: Handover[tuple[LiveFrame, Gauges] | Status] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._face = WindowPicture(width=config.width, style=config.style)
        self._arrangement = Arrangement()
        self._gauges: Gauges | None = None
        self._told = Status(light=Light.LOST, reason="no picture yet")
        self._picture_at = self._drawn_at = monotonic()
        self.video_delay = Recent()
        """Seconds from the capture of a frame to its hand-over to the window system."""

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Show a frame, unless a newer one comes first."""
        self._put((shown, gauges))

    def tell(self, status: Status) -> None:
        """Show how things stand."""
        self._put(status)

    def close(self) -> None:
        """Have `run` return."""
        self._newest.cancel()

    def run(self) -> None:
        """Open the window, and show what comes until `close`, or until the user closes it, which asks to quit."""
        cv2.namedWindow(TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        try:
            cv2.resizeWindow(TITLE, self._config.width, round(self._config.width * 0.66))
            while self._step():
                self._obey(cv2.pollKey())
                if cv2.getWindowProperty(TITLE, cv2.WND_PROP_VISIBLE) < 1:
                    self._commands.send(Action.QUIT)
                    return
        finally:
            cv2.destroyAllWindows()

    def _put(self, item: tuple[LiveFrame, Gauges] | Status) -> None:
        try:
            self._newest.put(item)
        except HandoverClosed:
            return  # nobody looks any more

    def _step(self) -> bool:
        """Draw what has come, or what has not; whether to go on."""
        try:
            item = self._newest.get(timeout_s=PATIENCE_S)
        except TimeoutError:
            self._draw_absence()
        except HandoverClosed:
            return False
        else:
            if isinstance(item, Status):
                self._told = item
                self._draw_absence()
            else:
                self._draw(*item)
        return True

    def _draw(self, shown: LiveFrame, gauges: Gauges) -> None:
        self._told, self._gauges = shown.status, gauges
        self._imshow(self._face.of_frame(shown, self._readings(shown.status), self._arrangement))
        self._picture_at = self._drawn_at
        self.video_delay.add(self._drawn_at - shown.frame.captured_at)

    def _draw_absence(self) -> None:
        """Say that there is no picture, once that is so, and then a few times a second."""
        now = monotonic()
        absent_s = now - self._picture_at
        if absent_s < self._config.lost_after_s or now - self._drawn_at < self._config.lost_after_s / 4:
            return
        told = self._told
        if told.light is not Light.LOST or not told.reason:
            told = Status(light=Light.LOST, reason=f"no new picture for {absent_s:.0f} s")
        self._imshow(self._face.without_frame(self._readings(told)))

    def _imshow(self, contents: Bgr) -> None:
        cv2.imshow(TITLE, contents)
        self._drawn_at = monotonic()

    def _readings(self, status: Status) -> Readings:
        return Readings(status=status, gauges=self._gauges, video_delay=self.video_delay.delay())

    def _obey(self, key: int) -> None:
        """Do what a key asks for, or hand it on."""
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
                is_recording = self._gauges is not None and self._gauges.recording
                self._commands.send(Action.RECORD_STOP if is_recording else Action.RECORD_START)
            case "f":
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
    "q": Action.QUIT,
    chr(_ESCAPE): Action.QUIT,
}


def _check_screen() -> None:
    """Raise `ConfigError` where no window can be opened; tried in a process of its own, which OpenCV would abort."""
    try:
        tried = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, check=False, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        pass
    else:
        if tried.returncode == 0:
            return
    raise ConfigError(
        "no window can be opened: there is no screen here, or this OpenCV is one without windows; "
        "use --view page or --serve to watch in a browser, or --view none"
    )
