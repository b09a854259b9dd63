"""The window without a screen: its contents, and the actions of its keys."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest

from polypstream.arrays import Bgr
from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.viewers import window as window_module
from polypstream.realtime.live.viewers.alerts import Chip
from polypstream.realtime.live.viewers.viewer import Action, Commands
from polypstream.realtime.live.viewers.window import Window, WindowConfig
from polypstream.realtime.live.viewers.window_layout import Arrangement, Readings, WindowPicture, letterboxed
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.statistics import Delay
from polypstream.synthetic.counter import counter_from_rgb
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.shown_frames import HEIGHT, READY, STATISTICS, WIDTH, Showing, scene, shown

pytestmark = pytest.mark.realtime

READINGS = Readings(status=READY, statistics=STATISTICS, video_delay=Delay(p50_ms=9.0, p99_ms=12.0))
PLAIN = Arrangement(overlay=False)


class Screen:
    """Replaces OpenCV's windows: records the contents, and presses keys."""

    def __init__(self) -> None:
        self.shown: list[Bgr] = []
        self.keys: list[str] = []
        self.is_open = False

    def open(self, *_: object) -> None:
        self.is_open = True

    def close(self) -> None:
        self.is_open = False

    def show(self, _: str, contents: Bgr) -> None:
        self.shown.append(contents)

    def key(self) -> int:
        return ord(self.keys.pop(0)) if self.keys else -1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    screen = Screen()
    monkeypatch.setattr(window_module, "check_display", lambda: None)
    monkeypatch.setattr(cv2, "namedWindow", screen.open)
    monkeypatch.setattr(cv2, "resizeWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyAllWindows", screen.close)
    monkeypatch.setattr(cv2, "imshow", screen.show)
    monkeypatch.setattr(cv2, "pollKey", screen.key)
    monkeypatch.setattr(cv2, "getWindowImageRect", lambda _: (0, 0, -1, -1))
    monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: float(screen.is_open))
    yield screen
    assert not screen.is_open


def test_the_picture_keeps_every_pixel_that_no_marker_covers() -> None:
    face = WindowPicture(width=WIDTH, style=MarkerStyle())
    item = shown(5)
    plain, marked = (face.of_frame(item, READINGS, Arrangement(overlay=overlay)) for overlay in (False, True))
    line = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polyp in scene()[1]:
        cv2.polylines(line, [polyp.contour.round().astype(np.int32)], True, 1, 9)
    differs = (plain[:HEIGHT] != marked[:HEIGHT]).any(axis=2)
    assert differs.any()
    assert not differs[line == 0].any()
    assert np.abs(plain[:432, :, ::-1].astype(int) - scene()[0][:432]).mean() < 2
    assert counter_from_rgb(plain[:HEIGHT, :, ::-1]) == 5


def test_the_shown_frame_itself_stays_untouched() -> None:
    item = shown(5)
    before = item.frame.picture.to_ndarray().copy()
    WindowPicture(width=WIDTH, style=MarkerStyle()).of_frame(item, READINGS, Arrangement())
    assert (item.frame.picture.to_ndarray() == before).all()


def test_side_by_side_has_the_untouched_picture_on_the_left() -> None:
    face = WindowPicture(width=1280, style=MarkerStyle())
    both = face.of_frame(shown(0), READINGS, Arrangement(side_by_side=True))
    plain = face.of_frame(shown(0), READINGS, Arrangement(side_by_side=True, overlay=False))
    assert both.shape == face.of_frame(shown(0), READINGS, Arrangement()).shape  # the window keeps its shape
    assert (both[:HEIGHT, :640] == plain[:HEIGHT, :640]).all()
    assert (plain[:HEIGHT, :640] == plain[:HEIGHT, 640:]).all()
    assert (both[:HEIGHT, 640:] != plain[:HEIGHT, 640:]).any()


@pytest.mark.parametrize(
    ("light", "bgr"), [(Light.READY, (143, 229, 52)), (Light.UNCERTAIN, (56, 185, 255)), (Light.LOST, (82, 90, 255))]
)
def test_the_light_is_below_the_picture(light: Light, bgr: tuple[int, int, int]) -> None:
    face = WindowPicture(width=1280, style=MarkerStyle())
    readings = Readings(status=Status(light=light, reason="why"), statistics=None, video_delay=None)
    bar = face.of_frame(shown(0), readings, replace(PLAIN, overlay=True))[-115:]
    assert bar.shape == (115, 1280, 3)
    assert (bar[46, 34] == bgr).all()


@pytest.mark.parametrize(
    ("light", "displayed"),
    [(Light.READY, Light.UNCERTAIN), (Light.UNCERTAIN, Light.UNCERTAIN), (Light.LOST, Light.LOST)],
)
def test_with_markers_switched_off_the_light_is_never_ready(light: Light, displayed: Light) -> None:
    face = WindowPicture(width=1280, style=MarkerStyle())
    readings = Readings(status=Status(light=light, reason="why"), statistics=None, video_delay=None)
    bar = face.of_frame(shown(0), readings, replace(PLAIN, overlay=False))[-115:]
    reason = "markers are switched off; why" if light is Light.READY else "why"
    expected = Readings(status=Status(light=displayed, reason=reason), statistics=None, video_delay=None)
    np.testing.assert_array_equal(bar, face.of_frame(shown(0), expected, PLAIN)[-115:])


def test_pixels_that_are_wider_than_high_are_shown_so() -> None:
    face = WindowPicture(width=WIDTH, style=MarkerStyle())
    item = shown(0)
    square = face.of_frame(item, READINGS, PLAIN)
    wide = replace(item, frame=replace(item.frame, sample_aspect_ratio=Fraction(4, 3)))
    bar = square.shape[0] - HEIGHT
    assert face.of_frame(wide, READINGS, PLAIN).shape[0] - bar == pytest.approx(HEIGHT * 3 / 4, abs=1)


def test_without_a_frame_the_last_one_is_dark_and_has_no_marker() -> None:
    face = WindowPicture(width=WIDTH, style=MarkerStyle())
    lost = Readings(status=Status(light=Light.LOST, reason="no signal"), statistics=STATISTICS, video_delay=None)
    assert face.without_frame(lost).shape[1] == WIDTH
    face.of_frame(shown(0), READINGS, PLAIN)
    unmarked = face.without_frame(lost)
    face.of_frame(shown(0), READINGS, Arrangement())
    assert (face.without_frame(lost) == unmarked).all()
    assert unmarked[:150].max() < 80


def test_the_window_shows_frames_and_turns_keys_into_commands(screen: Screen) -> None:
    commands = Commands()
    window = Window(WindowConfig(width=WIDTH), commands)
    screen.keys[:] = "os+-pnmfarzq"
    with Showing(window) as showing:
        threading.Timer(1.0, window.close).start()
        window.run()
        assert showing.number > 10
        assert sorted(showing.show_s)[len(showing.show_s) // 2] < 1 / 30
    assert len(screen.shown) > 10
    assert window.video_delay.delay() is not None
    assert commands.waiting() == [
        Action.OVERLAY_OFF,
        Action.SIDE_BY_SIDE_ON,
        Action.THRESHOLD_UP,
        Action.THRESHOLD_DOWN,
        Action.OPERATING_POINT_NEXT,
        Action.SNAPSHOT,
        Action.MISSED,
        Action.FALSE_ALARM,
        Action.ALERT_ACKNOWLEDGED,
        Action.RECORD_START,
        Action.QUIT,
    ]


def test_a_marked_polyp_fills_the_chip_until_it_is_acknowledged_or_gone() -> None:
    face = WindowPicture(width=1280, style=MarkerStyle())
    polyp = (255, 200, 79)
    filled = {}
    for chip in Chip:
        bar = face.of_frame(shown(0), replace(READINGS, chip=chip), Arrangement())[-115:]
        filled[chip] = float((bar[15:75, 360:510] == polyp).all(axis=2).mean())
    assert filled[Chip.ON] > 0.6
    assert 0 < filled[Chip.QUIET] < 0.4
    assert filled[Chip.OFF] == filled[Chip.RECENT] == 0


def test_frames_that_stop_are_lost_within_a_second(screen: Screen) -> None:
    window = Window(WindowConfig(width=WIDTH, lost_after_s=0.3), Commands())
    window.show(shown(0), STATISTICS)
    threading.Timer(0.6, window.close).start()
    window.run()
    assert len(screen.shown) >= 2
    assert (screen.shown[-1][-30:] != screen.shown[0][-30:]).any()
    assert screen.shown[-1][:150].max() < 80


def test_closing_the_window_asks_to_quit(screen: Screen) -> None:
    commands = Commands()
    window = Window(WindowConfig(width=WIDTH), commands)
    window.show(shown(0), STATISTICS)
    threading.Timer(0.3, screen.close).start()
    window.run()
    assert commands.waiting() == [Action.QUIT]


def test_without_a_screen_the_alternatives_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(ConfigError, match="--serve"):
        Window(WindowConfig(), Commands())


@pytest.mark.parametrize("setting", [{"width": 10}, {"lost_after_s": 0.0}])
def test_invalid_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="the window's"):
        WindowConfig(**setting)  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "height"), [(800, 400), (400, 800), (640, 480), (333, 777)])
def test_a_window_of_another_shape_has_black_borders_around_undistorted_contents(width: int, height: int) -> None:
    contents = np.full((120, 160, 3), 200, np.uint8)
    shown_there = letterboxed(contents, width=width, height=height)
    rows, columns = shown_there.shape[:2]
    assert columns / rows == pytest.approx(width / height, rel=0.02)
    ys, xs = np.nonzero(shown_there[..., 0])
    assert (np.ptp(ys) + 1, np.ptp(xs) + 1) == (120, 160)
    assert set(np.unique(shown_there)) <= {0, 200}
    assert letterboxed(contents, width=-1, height=-1) is contents


def test_the_window_says_what_is_not_saved_or_not_sent_and_what_was_saved() -> None:
    face = WindowPicture(width=1280, style=MarkerStyle())
    usual = face.of_frame(shown(0), READINGS, PLAIN)
    failing = replace(READINGS, statistics=replace(STATISTICS, saving_problem="the disk is full"))
    said = face.of_frame(shown(0), failing, PLAIN)
    assert (usual[:HEIGHT] == said[:HEIGHT]).all()
    amber = (np.abs(said[-115:].astype(int) - (56, 185, 255)).max(axis=2) < 30).sum()
    assert amber > 100
    push = OutputState(kind="push", label="rtsp://media/scope", is_working=False, problem="connection refused")
    for output, is_named in ((push, True), (replace(push, problem=""), False), (replace(push, is_working=True), False)):
        readings = replace(READINGS, statistics=replace(STATISTICS, outputs=(output,)))
        assert (face.of_frame(shown(0), readings, PLAIN) != usual).any() == is_named
    message = face.of_frame(shown(0), replace(READINGS, message="snapshot: a.png"), PLAIN)
    assert (message != usual).any()


def test_r_starts_a_new_recording_after_one_that_stopped_by_itself(screen: Screen) -> None:
    commands = Commands()
    window = Window(WindowConfig(width=WIDTH), commands)
    screen.keys[:] = "rq"
    window.show(shown(0), replace(STATISTICS, recording=False, saving_problem="the disk is full"))
    thread = threading.Thread(target=window.run)
    thread.start()
    taken: list[object] = []
    wait_until(lambda: taken.extend(commands.waiting()) or Action.QUIT in taken)
    window.close()
    thread.join()
    assert taken == [Action.RECORD_START, Action.QUIT]
