"""Record, review and report of a session in a real browser, and the accessibility of every page."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.threads import HandoverClosed
from tests.realtime.live.browser import chromium, light, text, violations, wait_until
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = [pytest.mark.slow, pytest.mark.realtime]


@dataclass
class Watched:
    page: Page
    recorder: SessionRecorder
    source: ScriptedSource
    end: Event


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
    tab.on("console", lambda line: problems.append(line.text) if "Content Security Policy" in line.text else None)
    yield tab
    context.close()
    assert not problems


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A session with a polyp on every frame, shown on a page until the test or `end` ends it."""
    commands, source, end = Commands(), ScriptedSource(), Event()
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(tmp_path, source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=print)
    page = Page(PageConfig(port=0, label="Room 2"), commands, source="scripted", record=lambda: recorder.opened_record)
    session = Session(source, live, viewers=[page], commands=commands, recorder=recorder, label="Room 2")

    def feed() -> None:
        with suppress(HandoverClosed):
            while not end.wait(0.04):
                source.give()
        source.end()

    threads = [Thread(target=feed), Thread(target=session.run)]
    for thread in threads:
        thread.start()
    yield Watched(page=page, recorder=recorder, source=source, end=end)
    end.set()
    for thread in threads:
        thread.join()


def saved(recorder: SessionRecorder) -> list[dict[str, object]]:
    try:
        listed: list[dict[str, object]] = json.loads((recorder.folder / "sightings.json").read_text())["sightings"]
    except (OSError, ValueError):
        return []
    return listed


def test_a_sighting_is_shown_reviewed_corrected_and_exported(watched: Watched, tab: "Tab") -> None:
    tab.goto(watched.page.url)
    wait_until(lambda: tab.locator("#strip button").count() == 1, within_s=20)
    wait_until(lambda: tab.evaluate("document.querySelector('#strip img').naturalWidth > 0"))
    tab.keyboard.press("m")
    wait_until(lambda: tab.locator("#strip button").count() == 2)
    wait_until(lambda: "no compressed packets" in text(tab, "toast"))
    tab.keyboard.press("f")
    wait_until(lambda: tab.locator("#strip [data-kind=false]").count() == 1)
    assert violations(tab) == []
    tab.keyboard.press("e")
    assert violations(tab) == []
    tab.keyboard.press("e")
    tab.click("#strip button")
    wait_until(lambda: tab.evaluate("document.getElementById('sighting-image').naturalWidth > 0"))
    assert violations(tab) == []
    tab.keyboard.press("Escape")

    tab.goto(watched.page.url + "review")
    wait_until(lambda: text(tab, "progress") == "0 of 2 reviewed")
    wait_until(lambda: tab.evaluate("document.getElementById('frame').width > 300"))
    wait_until(lambda: not tab.locator("#accept").is_disabled())
    assert violations(tab) == []
    tab.keyboard.press("Enter")
    wait_until(lambda: text(tab, "progress") == "1 of 2 reviewed")
    wait_until(lambda: text(tab, "current-title") == "Missed polyp 2")
    tab.keyboard.press("Enter")
    assert "Draw the outline" in text(tab, "toast")  # there is nothing to accept
    tab.wait_for_timeout(300)
    tab.keyboard.press("d")
    box = tab.locator("#frame").bounding_box()
    assert box is not None
    for x, y in ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)):
        tab.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
    tab.keyboard.press("Enter")
    wait_until(lambda: text(tab, "progress") == "2 of 2 reviewed")
    contour = np.array(saved(watched.recorder)[1]["contour"])
    assert contour == pytest.approx(np.array([[64, 48], [192, 48], [128, 144]]), abs=1.5)
    tab.get_by_role("button", name="Export").click()
    coco = watched.recorder.folder / "review" / "review_coco" / "annotations" / "instances_default.json"
    wait_until(lambda: "2 reviewed frames exported" in text(tab, "toast"), within_s=20)
    assert [each["image_id"] for each in json.loads(coco.read_text())["annotations"]] == [1, 2]


def test_those_who_may_only_watch_see_the_record_and_change_nothing(tmp_path: Path, tab: "Tab") -> None:
    from polypstream.realtime.live.recording.session_record import SessionRecord
    from tests.live_frames import live_frame, marker

    with SessionRecord(tmp_path, MarkerStyle(), on_problem=print) as record:
        record.show(live_frame(0, markers=(marker(),)))
        wait_until(lambda: record.thumbnail(1))
        config = PageConfig(port=0, token="controltoken", view_token="viewtoken1")
        commands = Commands()
        with Page(config, commands, record=lambda: record) as page:
            assert tab.goto(f"http://127.0.0.1:{page.port}/record").status == 403  # type: ignore[union-attr]
            for name in (
                "review",
                "record/image/1",
                "record/thumbnail/1",
                "record/marked/1",
                "record/clip/1",
                "qr.svg",
            ):
                answer = tab.goto(f"http://127.0.0.1:{page.port}/{name}")
                assert answer is not None
                assert answer.status == 403, name
                assert "default-src 'self'" in answer.headers["content-security-policy"]
            tab.goto(str(page.view_url))
            tab.goto(f"http://127.0.0.1:{page.port}/review")
            wait_until(lambda: text(tab, "progress") == "0 of 1 reviewed")
            wait_until(lambda: tab.locator("#accept").is_disabled())
            tab.keyboard.press("Delete")
            tab.evaluate(
                "new Promise(done => {"
                "const s = new WebSocket(location.origin.replace('http', 'ws') + '/watch?commands');"
                "s.onopen = () => { s.send(JSON.stringify({kind: 'review', number: 1, verdict: 'deleted'}));"
                " setTimeout(done, 300); }; })"
            )
            assert commands.waiting() == []
            assert tab.goto(f"http://127.0.0.1:{page.port}/qr.svg").status == 404  # type: ignore[union-attr]


def test_the_report_at_the_end_has_the_sightings_and_what_went_wrong(watched: Watched, tab: "Tab") -> None:
    tab.goto(watched.page.url)
    wait_until(lambda: light(tab) == "ready" and tab.locator("#strip button").count() == 1, within_s=20)
    watched.source.lose("no signal on /dev/video0")
    tab.keyboard.press("m")
    wait_until(lambda: len(saved(watched.recorder)) == 2)
    watched.end.set()
    report = watched.recorder.folder / "report.html"
    wait_until(report.exists, within_s=20)
    tab.goto(report.as_uri())
    assert tab.locator("h1").inner_text() == "Room 2"
    assert tab.locator(".card").count() == 2
    image = tab.locator(".card img").first
    assert image.evaluate("each => each.naturalWidth") > 0
    assert "Missed polyp 2" in tab.locator("#sighting-2").inner_text()
    assert "Polyp missed" in tab.locator("table").inner_text()
    assert tab.locator(".curve").count() >= 2
    tab.locator("a.bar").first.click()
    assert tab.url.endswith("#sighting-1")
    assert violations(tab) == []
    for scheme in ("dark", "light"):
        tab.emulate_media(color_scheme=scheme)
        assert violations(tab) == []
    assert cv2.imread(str(watched.recorder.folder / "sightings" / "001.jpg")).shape == (192, 256, 3)


def test_the_qr_code_of_the_address_to_watch_is_for_those_who_control(tab: "Tab") -> None:
    pytest.importorskip("segno")
    config = PageConfig(port=0, token="controltoken", view_token="viewtoken1", public_url="http://lab.example/scope/")
    with Page(config, Commands()) as page:
        address = f"http://127.0.0.1:{page.port}/scope/"
        for token, status in (("viewtoken1", 404), ("wrongtoken", 403), ("controltoken", 200)):
            answer = tab.request.get(f"{address}qr.svg?token={token}")
            assert answer.status == status, token
        assert answer.headers["content-type"].startswith("image/svg+xml")
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        assert b"<svg" in answer.body()
