"""Several streams on one server: a grid of all, and a page for each below its own address."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Action, Command, Commands
from tests.realtime.live.browser import chromium, light
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.shown_frames import Showing

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.slow, pytest.mark.realtime]
TOKEN = "abcdefgh12345678"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


def status_of(url: str) -> int:
    try:
        with urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def test_grid_shows_all_streams_and_links_to_their_pages(browser: "Browser") -> None:
    config = PageConfig(port=0, token=TOKEN)
    queues = Commands(), Commands()
    with ExitStack() as opened:
        hub = opened.enter_context(Page(config, Commands()))
        first, second = (
            opened.enter_context(Page(config, commands, source=f"room {number}", hub=hub))
            for number, commands in enumerate(queues, start=1)
        )
        opened.enter_context(Showing(first, fps=10))
        showing = opened.enter_context(Showing(second, fps=10))
        base = hub.url.partition("?")[0]
        assert second.url == f"{base}stream/2/?token={TOKEN}"
        assert [status_of(base + path) for path in ("", "stream/1/", "stream/3/", "stream/2/watch")] == [
            403,
            403,
            404,
            403,
        ]

        tab = browser.new_page()
        tab.goto(hub.url)
        tiles = tab.locator("#streams a")
        wait_until(lambda: tiles.count() == 2)
        wait_until(lambda: tiles.evaluate_all("all => all.map(one => one.dataset.light)") == ["ready", "ready"])
        assert tiles.locator("b").all_text_contents() == ["room 1", "room 2"]
        assert tiles.evaluate_all("all => all.map(one => one.dataset.polyp)") == ["yes", "yes"]
        levels = tab.evaluate(
            "() => { const c = document.querySelector('canvas');"
            " return [...new Set(c.getContext('2d').getImageData(0, c.height / 2, c.width, 1).data)].length; }"
        )
        assert levels > 20
        showing.pause()
        wait_until(lambda: tiles.evaluate_all("all => all.map(one => one.dataset.light)") == ["ready", "lost"])
        showing.go_on()

        tiles.nth(1).click()
        wait_until(lambda: tab.url.endswith("/stream/2/"))
        wait_until(lambda: light(tab) == "ready")
        tab.get_by_role("link", name="All sources").click()
        wait_until(lambda: tiles.count() == 2)
        tiles.nth(1).click()
        wait_until(lambda: light(tab) == "ready")
        tab.keyboard.press("n")
        sent: list[Command] = []
        wait_until(lambda: sent.extend(queues[1].waiting()) or Action.SNAPSHOT in sent)
        assert queues[0].waiting() == []
        second.close()  # one that has ended leaves the others alone
        tab.goto(base)
        wait_until(lambda: tiles.evaluate_all("all => all.map(one => one.dataset.light)")[:1] == ["ready"])
        tab.close()
