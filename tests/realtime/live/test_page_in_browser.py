"""The page as a user sees it, from the pixels of a real browser."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from polypstream.realtime.live.gauges import Delay
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewing import Action, Command, Commands
from polypstream.synthetic.counter import counter_from_rgb
from tests.realtime.live.browser import chromium, light, pixels, text, wait_until
from tests.realtime.live.shown_frames import HEIGHT, WIDTH, Showing, scene, shown

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
    """How many pixels of a screenshot of the picture have the marker's colour."""
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
        (watcher,) = page.watchers
        measured = watcher.video_delay.delay(), watcher.marker_delay.delay()
        assert text(tab, "video-delay").isdigit()
    video, marker = measured
    assert isinstance(video, Delay)
    assert isinstance(marker, Delay)
    assert 0 < video.p50_ms < 500
    assert marker.p50_ms == pytest.approx(video.p50_ms + 40, abs=20)


def test_the_picture_has_the_colours_of_the_source_and_no_marker(page: Page, tab: "Tab") -> None:
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
        tab.keyboard.press("o")
        tab.wait_for_timeout(200)
        assert marker_pixels_on_screen(tab)


def test_pixels_that_are_wider_than_high_are_shown_so(page: Page, tab: "Tab") -> None:
    def wide(number: int) -> LiveFrame:
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
        assert "No new picture" in text(tab, "alarm-reason")
        showing.go_on()
        assert wait_until(lambda: light(tab) == "ready" and has_ink(tab)) < 2


def test_the_reason_for_a_lost_line_is_shown(page: Page, tab: "Tab") -> None:
    tab.goto(page.url)
    wait_until(lambda: page.watchers)
    page.tell(Status(light=Light.LOST, reason="no signal on /dev/video0"))
    wait_until(lambda: text(tab, "alarm-reason") == "No signal on /dev/video0")
    assert light(tab) == "lost"


def test_an_uncertain_picture_says_why(page: Page, tab: "Tab") -> None:
    status = Status(light=Light.UNCERTAIN, reason="the picture is blurred")
    with Showing(page, make=lambda number: shown(number, polyps=[], status=status)):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "uncertain")
        assert text(tab, "reason") == "The picture is blurred"
        assert not has_ink(tab)


def test_a_server_that_ends_is_lost_and_recovers_when_it_is_back(tab: "Tab", commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Page(PageConfig(port=port), commands) as page, Showing(page):
        tab.goto(page.url)
        wait_until(lambda: light(tab) == "ready")
    assert wait_until(lambda: light(tab) == "lost") < 1
    assert not has_ink(tab)
    assert "No connection" in text(tab, "alarm-reason")
    with Page(PageConfig(port=port), commands) as page, Showing(page):
        wait_until(lambda: light(tab) == "ready" and has_ink(tab))


def test_two_viewers_watch_one_encoding(page: Page, tab: "Tab", browser: "Browser") -> None:
    context = browser.new_context(viewport={"width": 800, "height": 600})
    other = context.new_page()
    with Showing(page, fps=15) as showing:
        for each in (tab, other):
            each.goto(page.url)
        wait_until(lambda: light(tab) == "ready" == light(other))
        wait_until(lambda: min(watcher.drawn for watcher in page.watchers) > 10)
        assert page.encoded <= showing.number
    context.close()
