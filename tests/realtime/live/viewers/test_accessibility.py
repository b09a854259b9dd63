"""Every state of the pages at the size of a wall screen, a laptop, a tablet, and a phone in both orientations.

None has a serious accessibility problem, is wider than the screen, or has controls outside of it.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.review import SessionReview
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands
from tests.realtime.live.browser import chromium, light, violations, wait_until
from tests.realtime.live.ended_sessions import ended_session
from tests.realtime.live.shown_frames import STATISTICS, Showing, shown

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = [pytest.mark.slow, pytest.mark.realtime]
SIZES = ((1920, 1080), (1280, 800), (820, 1180), (390, 844), (844, 390))
_OUTSIDE = """() => [...document.querySelectorAll('button, a, input, select, h1, [role=status], [role=alert]')]
  .filter((each) => each.checkVisibility({ visibilityProperty: true }) && each.textContent.trim())
  .filter((each) => !each.closest('#strip, dialog, [id=streams], main.report, .scroll, .spoken'))
  .map((each) => [each.id || each.textContent.trim().slice(0, 30), each.getBoundingClientRect()])
  .filter(([, box]) => box.width > 1 && (box.left < -1 || box.right > innerWidth + 1))
  .map(([name]) => name)"""


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: "Browser") -> "Iterator[Tab]":
    tab = browser.new_page()
    yield tab
    tab.close()


_LABELS = """() => { const spans = [...document.querySelectorAll('nav button span')];
  const all = spans.map((each) => each.getBoundingClientRect()).filter((each) => each.width > 1);
  const overlap = (one, other) => one.left < other.right && other.left < one.right
    && one.top < other.bottom && other.top < one.bottom;
  return all.some((one, i) => all.slice(i + 1).some((other) => overlap(one, other))); }"""
_COVERED = """() => ['word', 'chip'].filter((id) => { const each = document.getElementById(id);
  if (!each || !document.getElementById('settings').open) return false;
  const one = each.getBoundingClientRect(), other = document.getElementById('settings').getBoundingClientRect();
  return one.top < other.bottom && other.top < one.bottom && one.left < other.right && other.left < one.right; })"""
_NULLS = """() => [...document.querySelectorAll('dd, b')]
  .filter((each) => each.checkVisibility() && ['null', 'undefined', 'NaN'].includes(each.textContent.trim()))
  .map((each) => each.id)"""
_CUT_OFF = """() => ['saving-problem', 'reason'].filter((id) => { const each = document.getElementById(id);
  return each && each.scrollHeight > each.clientHeight + 2; })"""


def check(tab: "Tab", state: str) -> None:
    """Check the present state at every width."""
    found: list[str] = []
    for width, height in SIZES:
        tab.set_viewport_size({"width": width, "height": height})
        problems = violations(tab)
        if tab.evaluate("document.documentElement.scrollWidth > innerWidth"):
            problems.append("wider than the screen")
        problems += [f"outside of the screen: {name}" for name in tab.evaluate(_OUTSIDE)]
        problems += ["labels overlap"] if tab.evaluate(_LABELS) else []
        problems += [f"covered by the settings: {name}" for name in tab.evaluate(_COVERED)]
        problems += [f"without a value: {name}" for name in tab.evaluate(_NULLS)]
        problems += [f"cut off: {name}" for name in tab.evaluate(_CUT_OFF)]
        found += [f"{state} at {width}: {problem}" for problem in problems]
    assert found == []


def test_every_state_of_the_live_page(tab: "Tab") -> None:
    config = PageConfig(port=0, label="Room 2, case 17", token="controltoken")
    with Page(config, Commands(), source="rtsp://room2.example.org:8554/scope") as page:
        with Showing(page, fps=10) as showing:
            tab.goto(page.url)
            wait_until(lambda: light(tab) == "ready")
            check(tab, "ready, a polyp is marked")
            tab.keyboard.press("o")
            check(tab, "markers off")
            tab.keyboard.press("o")
            tab.set_viewport_size({"width": 820, "height": 600})
            for key, name in (("e", "settings"), ("?", "help")):
                tab.keyboard.press(key)
                wait_until(partial(tab.evaluate, f"document.getElementById('{name}').open"))
                assert tab.evaluate("name => document.getElementById(name).scrollTop", name) == 0
                check(tab, name)
                tab.keyboard.press(key)
            blurred = Status(light=Light.UNCERTAIN, reason="blurred for 2 s: hold the scope still or clean the lens")
            showing.make = lambda number: shown(number, status=blurred, polyps=[])
            wait_until(lambda: light(tab) == "uncertain")
            check(tab, "uncertain")
            showing.make = shown
            showing.statistics = replace(
                STATISTICS,
                saving_problem="recording to /srv/sessions/2026-01-31_09-30-00/overlay.mkv has stopped (No space left "
                "on device); the disk is full: free some space, or choose another folder",
            )
            wait_until(lambda: tab.locator("#saving-problem").is_visible())
            check(tab, "a full disk")
        wait_until(lambda: light(tab) == "lost")
        check(tab, "lost")


def test_the_grid_of_several_sources(tab: "Tab") -> None:
    with ExitStack() as opened:
        hub = opened.enter_context(Page(PageConfig(port=0), Commands()))
        pages = [opened.enter_context(Page(PageConfig(port=0), Commands(), source=f"room {n}", hub=hub)) for n in "123"]
        for page in pages[:2]:
            opened.enter_context(Showing(page, fps=10))
        tab.goto(hub.url)
        wait_until(lambda: tab.locator("#streams a[data-light=ready]").count() == 2)
        check(tab, "grid")


def test_the_review_of_an_incomplete_session_and_its_report(tab: "Tab", tmp_path: Path) -> None:
    folder = ended_session(tmp_path)
    (folder / "session.json").unlink()
    commands = Commands()
    with SessionReview(folder, on_notice=print) as session:
        config = PageConfig(port=0, label="Room 2")
        with Page(config, commands, record=lambda: session.record, home="review.html") as page:
            tab.goto(page.url)
            wait_until(lambda: tab.locator("#frame[data-number]").count() == 1)
            check(tab, "review")
            tab.click("#missing summary")
            check(tab, "review, with what is missing")
        commands.close()
        session.run(commands)
        session.finish()
    tab.goto((folder / "report.html").as_uri())
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        check(tab, f"report, {scheme}")
