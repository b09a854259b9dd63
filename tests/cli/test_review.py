"""`polypstream review` on folders of sessions: decisions in a real browser, kills, damage, and folders in use."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.realtime.live.browser import chromium, text, wait_until
from tests.realtime.live.ended_sessions import begin, ended_session, recorder_in

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = [pytest.mark.slow, pytest.mark.realtime]


class Reviewing:
    """The command in a process of its own."""

    def __init__(self, folder: Path) -> None:
        arguments = ["review", str(folder), "--serve", "127.0.0.1:0"]
        code = "from polypstream.cli import main; main()"
        self.process = subprocess.Popen([sys.executable, "-c", code, *arguments], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.lines: list[str] = []
        for line in self.process.stderr:
            self.lines.append(line.strip())
            if line.startswith("Ctrl-C"):
                break
        self.url = next((line.split()[-1] for line in self.lines if line.startswith("the page is at")), "")

    def end(self, number: int = signal.SIGINT) -> list[str]:
        """Send a signal; returns the lines that follow."""
        self.process.send_signal(number)
        _, rest = self.process.communicate(timeout=60)
        return rest.splitlines()


@contextmanager
def reviewing(folder: Path) -> Iterator[Reviewing]:
    review = Reviewing(folder)
    try:
        yield review
    finally:
        if review.process.poll() is None:
            review.process.kill()
        review.process.communicate()


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: "Browser") -> "Iterator[Tab]":
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    yield tab
    tab.close()
    assert not problems


def saved(folder: Path) -> dict[int, dict[str, Any]]:
    try:
        listed = json.loads((folder / "sightings.json").read_text())["sightings"]
    except ValueError:  # the damaged record, which the first decision replaces
        return {}
    return {each["number"]: each for each in listed}


def opened(tab: "Tab", review: Reviewing) -> None:
    tab.goto(review.url)
    wait_until(lambda: tab.locator("#strip button").count() == 2)
    wait_until(lambda: not tab.locator("#accept").is_disabled())
    wait_until(lambda: tab.evaluate("document.getElementById('frame').width > 300"))


def test_decisions_survive_a_kill_and_end_in_the_export_and_the_report(tmp_path: Path, tab: "Tab") -> None:
    folder = ended_session(tmp_path)
    before, report = saved(folder), (folder / "report.html").read_text()
    assert "0 of 2" in report
    with reviewing(folder) as review:
        opened(tab, review)
        assert tab.locator("#missing").is_hidden()
        wait_until(lambda: tab.evaluate("[...document.querySelectorAll('#strip img')].every(i => i.naturalWidth > 0)"))
        tab.fill("#note", "flat, 5 mm")
        tab.keyboard.press("Enter")  # leaves the field, and saves it
        wait_until(lambda: saved(folder)[1]["note"] == "flat, 5 mm")
        tab.keyboard.press("Enter")
        wait_until(lambda: tab.get_attribute("#frame", "data-number") == "2")
        tab.keyboard.press("d")
        wait_until(lambda: tab.locator("#draw[aria-pressed=true]").count() == 1)
        box = tab.locator("#frame").bounding_box()
        assert box is not None
        for x, y in ((0.25, 0.25), (0.75, 0.25), (0.5, 0.75)):
            tab.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])
        tab.keyboard.press("Enter")
        wait_until(lambda: text(tab, "progress") == "2 of 2 reviewed")
        review.end(signal.SIGKILL)
        wait_until(lambda: "No connection" in text(tab, "connection"))
    after = saved(folder)
    assert after[1] == before[1] | {"verdict": "accepted", "note": "flat, 5 mm", "is_current": False}
    assert after[2]["verdict"] == "accepted"
    assert after[2]["time"] == before[2]["time"]
    with reviewing(folder) as review:
        opened(tab, review)
        assert text(tab, "progress") == "2 of 2 reviewed"
        assert tab.input_value("#note") == "flat, 5 mm"
        tab.click("#strip button >> nth=1")
        tab.keyboard.press("Delete")
        wait_until(lambda: saved(folder)[2]["verdict"] == "deleted")
        tab.get_by_role("button", name="Export").click()
        wait_until(lambda: "2 reviewed frames exported" in text(tab, "toast"), within_s=20)
        lines = review.end()
        assert review.process.returncode == 0
    assert "2 of 2 sightings reviewed: 1 accepted, 1 no polyp" in lines[-1]
    coco = json.loads((folder / "review" / "review_coco" / "annotations" / "instances_default.json").read_text())
    assert [each["image_id"] for each in coco["annotations"]] == [1]
    tab.goto((folder / "report.html").as_uri())
    assert "flat, 5 mm" in tab.locator("#sighting-1").inner_text()
    assert "no polyp" in tab.locator("#sighting-2").inner_text()
    assert "2 of 2" in tab.locator(".totals").inner_text()
    assert tab.locator(".curve").count() == report.count('class="chart curve"')
    assert tab.locator(".strip i[title^='no signal']").count() == 1
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("sighting_reviewed") == 4
    assert not any("flat" in str(event) for event in events)  # events are sent to other machines
    assert events[-1]["session_s"] > 0


def test_a_killed_and_damaged_session_is_shown_with_what_is_missing(tmp_path: Path, tab: "Tab") -> None:
    with recorder_in(tmp_path) as recorder:
        begin(recorder)
        recorder.finish()
    folder = recorder.folder
    (folder / "sightings" / "001.jpg").write_bytes(b"\xff\xd8 damaged")
    (folder / "feed.partial.mkv").write_bytes(b"x")
    (folder / "report.html").write_text("of an earlier version")
    with (folder / "events.jsonl").open("a") as log:
        log.write('{"event":"polyp_app')
    with reviewing(folder) as review:
        tab.goto(review.url)
        wait_until(lambda: tab.locator("#missing li").count() == 5)
        shown = text(tab, "missing")
        tab.click("#strip button >> nth=1")
        wait_until(lambda: tab.evaluate("document.getElementById('frame').width > 300"))
        tab.keyboard.press("Delete")
        wait_until(lambda: saved(folder)[2]["verdict"] == "deleted")
        lines = review.end()
    for words in (
        "frame of sighting 1",
        "feed.partial.mkv",
        "session.json is missing",
        "did not end regularly",
        "1 lines of events.jsonl",
    ):
        assert words in shown
        assert any(words in line for line in review.lines), words
    assert "1 of 2 sightings reviewed" in lines[-1]
    report = (folder / "report.html").read_text()
    assert "did not end regularly" in report
    assert "<dd>unknown</dd><dt>of the time uncertain or lost" in report
    assert "Status over time" not in report
    assert (folder / "report_before_review.html").read_text() == "of an earlier version"


def test_a_damaged_record_is_kept_and_the_frames_are_shown(tmp_path: Path, tab: "Tab") -> None:
    folder = ended_session(tmp_path)
    (folder / "sightings.json").write_text('{"sightings": [{"number": 1,')
    with reviewing(folder) as review:
        opened(tab, review)
        tab.keyboard.press("Delete")
        wait_until(lambda: saved(folder).get(1, {}).get("verdict") == "deleted")
        assert review.end()
    assert (folder / "sightings_damaged.json").read_text() == '{"sightings": [{"number": 1,'


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    with recorder_in(tmp_path) as recorder:
        begin(recorder)
        with reviewing(recorder.folder) as review:
            assert review.process.wait(60) == 1
        assert "its session is running or someone reviews it" in " ".join(review.lines)
        recorder.finish()
    with reviewing(recorder.folder) as first:
        assert first.url
        with reviewing(recorder.folder) as second:
            assert second.process.wait(60) == 1
        assert "is in use" in " ".join(second.lines)
        first.end(signal.SIGTERM)
        assert first.process.returncode == 0


def test_a_folder_without_a_session_is_an_error_and_stays_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    session = ended_session(tmp_path)
    for folder, words in (
        (tmp_path / "empty", "contains no session"),
        (tmp_path / "nowhere", "is not a folder"),
        (tmp_path, f"such as {session}"),
    ):
        with reviewing(folder) as review:
            assert review.process.wait(60) == 1
        assert words in " ".join(review.lines)
    assert not list((tmp_path / "empty").iterdir())


def test_a_record_names_no_files_outside_its_folder(tmp_path: Path) -> None:
    from polypstream.realtime.live.recording.session_folder import read_session

    folder = ended_session(tmp_path)
    values = json.loads((folder / "sightings.json").read_text())
    values["sightings"][0]["clip"] = "../../secret.mkv"
    values["sightings"][1]["contour"] = [[1, 2], [3]]
    (folder / "sightings.json").write_text(json.dumps(values))
    session = read_session(folder)
    assert session.sightings[0].clip == ""
    assert session.sightings[1].contour is None  # only its frame is known
    assert any("entry 2 of sightings.json is damaged" in line for line in session.facts.missing)
