"""The page as users see it, in the pixels of a real browser."""

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.outputs.output import OutputState
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Action, Command, Commands
from polypstream.realtime.outlines.contours import polyp_from_contour
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.statistics import Delay
from polypstream.synthetic.counter import counter_from_rgb
from polypstream.threads import HandoverClosed
from tests.realtime.live.browser import chromium, light, pixels, text, wait_until
from tests.realtime.live.disks import disk_of, fill
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource
from tests.realtime.live.shown_frames import HEIGHT, STATISTICS, WIDTH, Showing, scene, shown

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

MARKER_RGB = (40, 255, 150)
pytestmark = [pytest.mark.slow, pytest.mark.realtime]


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: "Browser") -> "Iterator[Tab]":
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab
    context.close()
    assert not problems


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def page(commands: Commands) -> Iterator[Page]:
    with Page(PageConfig(port=0), commands) as page:
        yield page


def counter_on(tab: "Tab") -> int | None:
    return counter_from_rgb(pixels(tab, "picture")[..., :3])


def has_ink(tab: "Tab") -> bool:
    return bool(pixels(tab, "markers")[..., 3].any())


def marker_pixels_on_screen(tab: "Tab") -> int:
    """Number of pixels with the marker's color in a screenshot of the image."""
    png = np.frombuffer(tab.locator("#marked-view").screenshot(), np.uint8)
    rgb = cv2.cvtColor(cv2.imdecode(png, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    return int((np.abs(rgb.astype(int) - MARKER_RGB).max(axis=2) < 12).sum())


def test_the_page_shows_recent_frames_and_measures_their_delay(page: Page, tab: "Tab") -> None:
    with Showing(page) as showing:
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.wait_for_timeout(1500)
        before = showing.number
        seen = counter_on(tab)
        assert seen is not None
        assert seen >= before - 15
        assert counter_on(tab) != seen
        (client,) = page.clients
        measured = client.video_delay.delay(), client.marker_delay.delay()
        assert text(tab, "video-delay").isdigit()
    video, marker = measured
    assert isinstance(video, Delay)
    assert isinstance(marker, Delay)
    assert 0 < video.p50_ms < 500
    assert marker.p50_ms == pytest.approx(video.p50_ms + 40, abs=20)


def test_the_picture_has_the_colors_of_the_source_and_no_marker(page: Page, tab: "Tab") -> None:
    rgb, polyps = scene()
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        picture = pixels(tab, "picture")[..., :3]
    assert picture.shape == (HEIGHT, WIDTH, 3)
    above_counter = slice(0, round(0.88 * HEIGHT))
    error = picture[above_counter].astype(int) - rgb[above_counter]
    assert np.abs(error.mean(axis=(0, 1))).max() < 1.5
    line = np.zeros((HEIGHT, WIDTH), np.uint8)
    for polyp in polyps:
        cv2.polylines(line, [polyp.contour.round().astype(np.int32)], True, 1, 5)
    assert polyps
    assert np.abs(picture.astype(int) - rgb)[line > 0].mean() < 6


def test_markers_are_drawn_above_it_in_the_pixels_of_the_screen_until_switched_off(page: Page, tab: "Tab") -> None:
    _, polyps = scene()
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))
        ink = pixels(tab, "markers")
        size = tab.evaluate(
            "(() => { const b = document.getElementById('picture').getBoundingClientRect();"
            " return [b.width * devicePixelRatio, b.height * devicePixelRatio]; })()"
        )
        assert (ink.shape[1], ink.shape[0]) == pytest.approx(size, abs=1)
        scale = ink.shape[1] / WIDTH
        for x, y in polyps[0].contour[::7] * scale:
            near = ink[max(int(y) - 1, 0) : int(y) + 2, max(int(x) - 1, 0) : int(x) + 2].reshape(-1, 4)
            assert (np.abs(near - np.array([*MARKER_RGB, 255])).max(axis=1) < 40).any()
        line = np.zeros(ink.shape[:2], np.uint8)
        for polyp in polyps:
            cv2.polylines(line, [(polyp.contour * scale).round().astype(np.int32)], True, 1, 13)
        assert not ink[line == 0, 3].any()
        assert marker_pixels_on_screen(tab)
        tab.keyboard.press("o")
        tab.wait_for_timeout(200)
        assert not marker_pixels_on_screen(tab)
        assert (light(tab), text(tab, "reason")) == ("uncertain", "Markers are switched off")
        tab.keyboard.press("o")
        tab.wait_for_timeout(200)
        assert light(tab) == "ready"
        assert marker_pixels_on_screen(tab)


def test_pixels_that_are_wider_than_high_are_shown_so(page: Page, tab: "Tab") -> None:
    def wide(number: int) -> DisplayFrame:
        item = shown(number)
        return replace(item, frame=replace(item.frame, sample_aspect_ratio=Fraction(4, 3)))

    with Showing(page, make=wide):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))
        ink = pixels(tab, "markers")
    height, width = ink.shape[:2]
    assert width / height == pytest.approx(WIDTH * 4 / 3 / HEIGHT, rel=0.01)
    line = np.zeros((height, width), np.uint8)
    for polyp in scene()[1]:
        on_screen = polyp.contour * (width / WIDTH, height / HEIGHT)
        cv2.polylines(line, [on_screen.round().astype(np.int32)], True, 1, 15)
    assert not ink[line == 0, 3].any()


def test_a_marked_polyp_brings_the_chip_and_bright_corners_until_acknowledged(
    page: Page, tab: "Tab", commands: Commands
) -> None:
    is_marked = Event()
    is_marked.set()

    def corner() -> str:
        return str(tab.evaluate("getComputedStyle(document.querySelector('.corner')).borderTopColor"))

    with Showing(page, make=lambda number: shown(number, polyps=None if is_marked.is_set() else [])):
        tab.goto(page.url)
        wait_until(lambda: tab.evaluate("document.body.dataset.chip") == "on")
        assert tab.locator("#chip").is_visible()
        assert corner() == "rgb(79, 200, 255)"
        assert text(tab, "word") == "Ready"
        assert tab.evaluate("getComputedStyle(document.getElementById('word')).color") != corner()
        tab.keyboard.press("a")
        wait_until(lambda: tab.evaluate("document.body.dataset.chip") == "quiet")
        assert tab.locator("#chip").is_visible()
        assert corner() != "rgb(79, 200, 255)"
        assert "quiet for 30 s" in text(tab, "chip-note")
        wait_until(lambda: Action.ALERT_ACKNOWLEDGED in commands.waiting())
        tab.keyboard.press("o")
        wait_until(lambda: tab.evaluate("document.body.dataset.chip") == "off")
        tab.keyboard.press("o")
        is_marked.clear()
        wait_until(lambda: tab.evaluate("document.body.dataset.chip") == "recent")
        assert "s ago" in text(tab, "chip-note")


def test_alert_settings_are_saved_as_presets_in_the_browser(page: Page, tab: "Tab") -> None:
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("e")
        tab.get_by_label("Alert once a polyp has been marked for").fill("9")
        tab.get_by_label("Quiet after an acknowledgment for").fill("9999")  # more than allowed
        tab.get_by_label("Sound a short tone").check()
        tab.get_by_role("button", name="Save as…").click()
        tab.get_by_label("Name", exact=True).fill("Calm")
        tab.get_by_role("button", name="Save", exact=True).click()
        tab.reload()
        wait_until(lambda: light(tab) == "ready")
        assert tab.evaluate("document.body.dataset.chip") == "off"  # marked for less than nine seconds
        tab.keyboard.press("e")
        assert tab.get_by_label("Preset").input_value() == "Calm"
        assert tab.get_by_label("Quiet after an acknowledgment for").input_value() == "30"
        assert tab.get_by_label("Sound a short tone").is_checked()
        tab.get_by_label("Preset").select_option("Default")
        assert tab.get_by_label("Alert once a polyp has been marked for").input_value() == "0"
        wait_until(lambda: tab.evaluate("document.body.dataset.chip") == "on")


def test_a_frozen_picture_stays_and_never_claims_to_be_ready(page: Page, tab: "Tab") -> None:
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready" and counter_on(tab) is not None)
        tab.keyboard.press(" ")
        seen = counter_on(tab)
        tab.wait_for_timeout(400)
        assert counter_on(tab) == seen
        assert light(tab) == "uncertain"
        assert "The picture has been frozen for" in text(tab, "reason")
        assert "Frozen" in text(tab, "picture-state")
        tab.keyboard.press(" ")
        wait_until(lambda: light(tab) == "ready" and counter_on(tab) != seen)


def test_crop_and_zoom_move_the_picture_and_its_markers_together(page: Page, tab: "Tab") -> None:
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    rgb[48:432, 160:640] = (180, 110, 95)
    square = polyp_from_contour(np.array([[360, 200], [440, 200], [440, 280], [360, 280]], np.float32), score=0.9)

    def centers() -> tuple[float, float]:
        ink = pixels(tab, "markers")[..., 3] > 0
        rows, columns = np.nonzero(ink)
        return float(columns.mean() / ink.shape[1]), float(rows.mean() / ink.shape[0])

    with Showing(page, make=lambda number: shown(number, rgb=rgb, polyps=[square])):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))
        assert centers() == pytest.approx((400 / 640, 0.5), abs=0.01)
        tab.keyboard.press("c")
        wait_until(lambda: pixels(tab, "picture").shape[1] < WIDTH)
        height, width = pixels(tab, "picture").shape[:2]
        assert (width, height) == pytest.approx((480, 384), abs=48)  # the bar code is beyond the tissue
        wait_until(lambda: centers() == pytest.approx((0.5, 0.5), abs=0.06))
        x, y = centers()
        tab.keyboard.press("z")
        tab.keyboard.press("z")  # twice as large
        wait_until(lambda: centers() == pytest.approx((2 * x - 0.5, 2 * y - 0.5), abs=0.02))
        tab.keyboard.press("ArrowRight")
        wait_until(lambda: centers() == pytest.approx((2 * x - 0.6, 2 * y - 0.5), abs=0.02))


def test_h264_shows_each_marker_on_its_own_frame_and_jpeg_continues_where_it_fails(page: Page, tab: "Tab") -> None:
    pytest.importorskip("aiortc")
    frame_and_image = (
        "[Number(document.body.dataset.frame), document.getElementById('picture').toDataURL('image/png').split(',')[1]]"
    )
    with Showing(page, fps=15):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("e")
        tab.get_by_label("Transfer").select_option("video")
        (client,) = page.clients
        wait_until(lambda: client.has_video)
        encoded = page.encoded
        tab.wait_for_timeout(2000)
        assert tab.get_by_label("Transfer").input_value() == "video"
        assert page.encoded <= encoded + 5  # no JPEG while nobody asks for it
        for _ in range(10):
            number, png = tab.evaluate(frame_and_image)
            bgr = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
            assert counter_from_rgb(np.asarray(bgr[..., ::-1], np.uint8)) == number
        error = pixels(tab, "picture")[: round(0.88 * HEIGHT), :, :3].astype(int) - scene()[0][: round(0.88 * HEIGHT)]
        assert np.abs(error.mean(axis=(0, 1))).max() < 4
        assert has_ink(tab)
        assert light(tab) == "ready"
        assert client.video_delay.delay() is not None
        page._server.end_video()  # as after an error of the encoder
        wait_until(lambda: not client.has_video)
        wait_until(lambda: tab.get_by_label("Transfer").input_value() == "jpeg", within_s=15)
        wait_until(lambda: light(tab) == "ready")


def test_side_by_side_shows_the_same_picture_untouched(page: Page, tab: "Tab") -> None:
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("s")
        wait_until(lambda: pixels(tab, "plain").shape[0] == HEIGHT)
        both = tab.evaluate("['plain', 'picture'].map(id => document.getElementById(id).toDataURL())")
    assert both[0] == both[1]


def test_keys_and_buttons_become_commands(page: Page, tab: "Tab", commands: Commands) -> None:
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        for key in "osp+-=nr":
            tab.keyboard.press(key)
        tab.keyboard.press("Control+s")
        tab.click("button[data-key=n]")
        expected: list[Command] = [
            Action.OVERLAY_OFF,
            Action.SIDE_BY_SIDE_ON,
            Action.OPERATING_POINT_NEXT,
            Action.THRESHOLD_UP,
            Action.THRESHOLD_DOWN,
            Action.THRESHOLD_UP,
            Action.SNAPSHOT,
            Action.RECORD_START,
            Action.SNAPSHOT,
        ]
        taken: list[Command] = []
        wait_until(lambda: taken.extend(commands.waiting()) or len(taken) >= len(expected))
    assert taken == expected


def test_frames_that_stop_are_lost_within_a_second_and_found_again(page: Page, tab: "Tab") -> None:
    with Showing(page) as showing:
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))
        showing.pause()
        assert wait_until(lambda: light(tab) == "lost") < 1.5
        assert not has_ink(tab)
        assert "No new frame" in text(tab, "alarm-reason")
        showing.go_on()
        assert wait_until(lambda: light(tab) == "ready" and has_ink(tab)) < 2


def test_the_reason_for_a_lost_line_is_shown(page: Page, tab: "Tab") -> None:
    tab.goto(page.url)
    wait_until(lambda: page.clients)
    page.tell(Status(light=Light.LOST, reason="no signal on /dev/video0"), STATISTICS)
    wait_until(lambda: text(tab, "alarm-reason") == "No signal on /dev/video0")
    assert light(tab) == "lost"


def test_an_uncertain_picture_says_why(page: Page, tab: "Tab") -> None:
    status = Status(light=Light.UNCERTAIN, reason="the image is blurred")
    with Showing(page, make=lambda number: shown(number, polyps=[], status=status)):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "uncertain")
        assert text(tab, "reason") == "The image is blurred"
        assert not has_ink(tab)


def test_a_server_that_ends_is_lost_and_recovers_when_it_is_back(tab: "Tab", commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Page(PageConfig(port=port), commands) as page, Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
    assert wait_until(lambda: light(tab) == "lost") < 1
    assert not has_ink(tab)
    assert "continues when polypstream is started again" in text(tab, "alarm-reason")
    with Page(PageConfig(port=port), commands) as page, Showing(page):
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))


def test_two_viewers_watch_one_encoding(page: Page, tab: "Tab", browser: "Browser") -> None:
    context = browser.new_context(viewport={"width": 800, "height": 600})
    other = context.new_page()
    with Showing(page, fps=15) as showing:
        for each in (tab, other):
            each.goto(page.url)
        wait_until(lambda: light(tab) == "ready" == light(other))
        wait_until(lambda: min(client.drawn for client in page.clients) > 10)
        assert page.encoded <= showing.number
    context.close()


@contextmanager
def session_on(page: Page, commands: Commands, folder: Path) -> Iterator[SessionRecorder]:
    """A session that shows its frames on the page and saves in a folder, until left."""
    source = ScriptedSource()
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(folder, source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=print)
    session = Session(source, live, viewers=[page], commands=commands, recorder=recorder)
    left = Event()

    def feed() -> None:
        with suppress(HandoverClosed):  # the session may be ended by its user
            while not left.wait(0.04):
                source.give()
        source.end()

    threads = [Thread(target=feed), Thread(target=session.run)]
    for thread in threads:
        thread.start()
    try:
        yield recorder
    finally:
        left.set()
        for thread in threads:
            thread.join()


def test_a_full_disk_is_shown_by_the_record_button_the_message_and_the_snapshot(
    tab: "Tab", commands: Commands, tmp_path: Path
) -> None:
    with (
        disk_of(tmp_path / "small", kilobytes=300) as disk,
        Page(PageConfig(port=0), commands) as page,
        session_on(page, commands, disk),
    ):
        tab.goto(page.url)
        wait_until(lambda: tab.evaluate("document.body.dataset.saving") == "ok")
        assert not tab.locator("#saving-problem").is_visible()
        tab.keyboard.press("n")
        wait_until(lambda: "snapshot: " in text(tab, "toast").lower())
        tab.keyboard.press("r")
        wait_until(lambda: text(tab, "record-label") == "Recording" and any(disk.rglob("overlay.mkv")))
        ballast = fill(disk)
        wait_until(lambda: text(tab, "record-label") == "Not saving", within_s=20)
        assert tab.evaluate("document.body.dataset.recording") == "no"
        assert tab.locator("#saving-problem").is_visible()
        assert "the disk is full" in text(tab, "saving-problem")
        tab.keyboard.press("n")
        wait_until(lambda: ".png could not be saved" in text(tab, "toast"))
        assert "problem" in (tab.get_attribute("#toast", "class") or "")
        ballast.unlink()
        tab.keyboard.press("r")
        wait_until(lambda: text(tab, "record-label") == "Recording")
        tab.keyboard.press("n")
        wait_until(lambda: tab.evaluate("document.body.dataset.saving") == "ok", within_s=20)
        assert not tab.locator("#saving-problem").is_visible()


def test_an_output_that_fails_is_named_until_it_works_again(page: Page, tab: "Tab") -> None:
    push = OutputState(kind="push", label="rtsp://media/scope", is_working=False, problem="connection refused")
    hook = OutputState(kind="webhook", label="https://host/events", is_working=False)  # still being connected
    with Showing(page) as showing:
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        assert not tab.locator("#output-problem").is_visible()
        showing.statistics = replace(STATISTICS, outputs=(push, hook))
        wait_until(lambda: tab.locator("#output-problem").is_visible())
        assert text(tab, "output-problem") == "Not sending (push rtsp://media/scope): connection refused"
        assert not tab.locator("#saving-problem").is_visible()
        showing.statistics = replace(STATISTICS, outputs=(replace(push, is_working=True, problem=""), hook))
        wait_until(lambda: not tab.locator("#output-problem").is_visible())


def test_the_number_of_threads_and_late_markers_are_shown(page: Page, tab: "Tab") -> None:
    with Showing(page) as showing:
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        assert tab.evaluate("document.getElementById('threads-row').hidden")
        assert "late" not in text(tab, "details")
        showing.statistics = replace(STATISTICS, inference_threads=2, is_late=True)
        wait_until(lambda: text(tab, "inference-threads") == "2")
        assert not tab.evaluate("document.getElementById('threads-row').hidden")
        wait_until(lambda: "markers are late: this machine is too slow" in text(tab, "details"))


def test_dropped_frames_are_shown(page: Page, tab: "Tab") -> None:
    with Showing(page) as showing:
        tab.goto(page.url)
        wait_until(lambda: text(tab, "frames-dropped") == "0")
        assert "dropped" not in text(tab, "details")
        showing.statistics = replace(STATISTICS, dropped_frames=14)
        wait_until(lambda: text(tab, "frames-dropped") == "14")
        wait_until(lambda: "14 frames dropped" in text(tab, "details"))


def test_keys_do_nothing_behind_the_help(page: Page, tab: "Tab", commands: Commands) -> None:
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("?")
        assert tab.evaluate("document.getElementById('help').open")
        for key in "osp+-nrf":
            tab.keyboard.press(key)
        tab.keyboard.press("?")
        assert not tab.evaluate("document.getElementById('help').open")
        tab.keyboard.press("n")
        taken: list[Command] = []
        wait_until(lambda: taken.extend(commands.waiting()) or taken)
    assert taken == [Action.SNAPSHOT]


def test_every_button_has_a_name_at_every_width(page: Page, tab: "Tab") -> None:
    names = ["Markers", "Freeze", "Zoom", "Crop", "Compare", "Snapshot", "Missed", "False", "Record", "Settings"]
    names += ["Help", "Next operating point", "Lower threshold", "Higher threshold"]
    with Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("e")
        for width in (1920, 1600, 1280, 800, 390):
            tab.set_viewport_size({"width": width, "height": 800})
            for name in names:
                assert tab.get_by_role("button", name=name, exact=True).count() == 1, (name, width)


def test_the_page_beyond_the_last_free_place_says_so(tab: "Tab", browser: "Browser", commands: Commands) -> None:
    with Page(PageConfig(port=0, max_viewers=1), commands) as page, Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        context = browser.new_context()
        other = context.new_page()
        other.goto(page.url)
        wait_until(lambda: "1 pages are already open" in text(other, "alarm-reason"))
        tab.goto("about:blank")
        wait_until(lambda: light(other) == "ready", within_s=20)
        context.close()


def test_after_a_restart_with_another_token_the_page_says_so_and_a_reload_asks_for_it(
    tab: "Tab", commands: Commands
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Page(PageConfig(port=port, token="firsttoken"), commands) as page, Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
        assert "token" not in tab.url
        tab.reload()
        wait_until(lambda: light(tab) == "ready")
    with Page(PageConfig(port=port, token="secondtoken"), commands) as page, Showing(page):
        wait_until(lambda: "another token" in text(tab, "alarm-reason"), within_s=20)
        tab.reload()
        assert "token is missing or wrong" in text(tab, "refusal")
        tab.get_by_label("Token").fill("secondtoken")
        tab.get_by_role("button", name="Open").click()
        wait_until(lambda: light(tab) == "ready")


@pytest.mark.parametrize(("ended", "reason"), [("source", "The source has ended"), ("user", "The session was stopped")])
def test_the_end_of_a_session_is_not_a_lost_connection(
    tab: "Tab", commands: Commands, tmp_path: Path, ended: str, reason: str
) -> None:
    with Page(PageConfig(port=0), commands) as page, session_on(page, commands, tmp_path):
        tab.goto(page.url)
        wait_until(lambda: light(tab) != "lost")
        if ended == "user":
            commands.send(Action.QUIT)
            wait_until(lambda: text(tab, "alarm-reason").startswith(reason))
    wait_until(lambda: text(tab, "alarm-reason").startswith(reason))
    assert "No connection" not in text(tab, "alarm-reason")


def test_an_address_that_is_for_viewing_only_offers_nothing_else(tab: "Tab", commands: Commands) -> None:
    with Page(PageConfig(port=0, token="controltoken"), commands) as page, Showing(page):
        assert page.view_url is not None
        tab.goto(page.view_url)
        wait_until(lambda: light(tab) == "ready")
        assert tab.get_by_role("button", name="Record", exact=True).is_disabled()
        assert tab.get_by_role("button", name="Markers", exact=True).is_enabled()
        for key in "rnp+-":
            tab.keyboard.press(key)
        wait_until(lambda: text(tab, "toast") == "This address is for viewing only")
        assert commands.waiting() == []
