"""The HTML report: its figures, and the page in a real browser."""

import json
import re
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import av
import cv2
import numpy as np
import pytest

from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationReport, annotate_video
from polypstream.realtime.annotate.report import write_index
from polypstream.realtime.annotate.report.data import Findings, findings_of
from polypstream.realtime.annotate.summary import read_summary, summary_path
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.stills import stills
from polypstream.realtime.video.writer import Encoding
from tests.clips import make_clip
from tests.models import write_green_finder
from tests.realtime.live.browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser

WIDTH, HEIGHT, FRAMES = 192, 144, 150
FIRST, SECOND = range(10, 40), range(80, 120)
"""Frames with the first polyp and with the second."""
RED = range(50, 70)
"""Frames of a red-out."""


def write_withdrawal(path: Path) -> Path:
    """Six seconds: a polyp, a red-out, another polyp."""
    noise = np.random.default_rng(1).integers(-40, 40, (HEIGHT, WIDTH, 1))
    mucosa = np.uint8(np.clip(np.array([190, 110, 90]) + noise, 0, 255))
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=25, options={"crf": "10", "g": "50", "bf": "2"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for index in range(FRAMES):
            rgb = mucosa.copy()
            if index in RED:
                rgb[:] = (200, 30, 20)
            if index in FIRST:
                cv2.circle(rgb, (60, 70), 10 + (index - FIRST.start) // 2, (30, 190, 60), -1)
            if index in SECOND:
                cv2.circle(rgb, (130, 60), 20, (30, 190, 60), -1)
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, 25)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def annotated(folder: Path) -> AnnotationReport:
    """A recording whose name would break a page that does not escape it."""
    video = write_withdrawal(folder / "a <b>'clip' & more #1.mp4")
    model = write_green_finder(folder / "green.onnx")
    config = AnnotateConfig(encoding=Encoding(preset="ultrafast"), report=True)
    return annotate_video(video, folder / "out", segmenter_from_onnx(model), config)


@pytest.fixture(scope="module")
def report(annotated: AnnotationReport) -> Path:
    assert annotated.report is not None
    return annotated.report


@pytest.fixture(scope="module")
def findings(annotated: AnnotationReport) -> Findings:
    summary = read_summary(summary_path(annotated.records))
    return findings_of(summary, annotated.records, annotated.video)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as opened:
        yield opened


def test_the_view_of_each_frame_is_recorded(annotated: AnnotationReport) -> None:
    records = [json.loads(line) for line in annotated.records.read_text().splitlines()]
    assert [record["index"] for record in records if record.get("visibility") == "red_out"] == list(RED)
    assert read_summary(summary_path(annotated.records)).is_visibility_measured


def test_intervals_curves_and_best_frames_are_those_of_the_recording(findings: Findings) -> None:
    (interval,) = findings.intervals
    assert interval.kind == "red_out"
    assert interval.start_s == pytest.approx(RED.start / 25)
    assert RED.stop / 25 <= interval.end_s <= RED.stop / 25 + 0.35  # ends when it has stayed away for a moment
    assert findings.duration_s == pytest.approx(FRAMES / 25)
    assert set(findings.curves) == set(findings.thumbnails) == set(findings.best_s) == {1, 2}
    (area,) = findings.curves[1].area
    assert (area[0][0], area[-1][0]) == pytest.approx((FIRST.start / 25, (FIRST.stop - 1) / 25))
    assert area[-1][1] == pytest.approx(100 * np.pi * 24.5**2 / (WIDTH * HEIGHT), rel=0.15)
    assert SECOND.start / 25 <= findings.best_s[2] < SECOND.stop / 25


def test_stills_are_the_frames_at_their_times(tmp_path: Path) -> None:
    for name, changes in (("b.mp4", {"options": {"bf": "2", "g": "40"}}), ("s.ts", {"audio": "mp2"})):
        clip = make_clip(tmp_path / name, frames=60, **changes)
        with VideoReader(clip) as source:
            frames = [(frame.pts_s, frame.image) for frame in source.frames()]
        wanted = dict(frames[index] for index in (0, 1, 17, 40, 59))
        found = {time_s: frame.image for time_s, frame in stills(clip, list(wanted))}
        assert list(found) == list(wanted)
        for time_s, image in found.items():
            assert np.array_equal(image, wanted[time_s])


def test_the_report_is_one_file_that_names_no_address(report: Path) -> None:
    page = report.read_text(encoding="utf-8")
    assert "http" not in page.replace("http-equiv", "")
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert page.count("data:image/jpeg;base64,") == 2
    assert "<b>'clip'" not in page
    assert "red-out" in page.lower()
    assert "tiny 1" in page


def test_a_click_on_a_polyp_plays_it(browser: "Browser", report: Path, annotated: AnnotationReport) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    problems: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelector('video').readyState >= 1")
    page.locator(".bar", has_text="2").click()
    page.wait_for_function("document.querySelector('video').currentTime >= 3.2")
    assert page.evaluate("document.querySelector('video').currentTime") < 6
    page.evaluate("document.querySelector('video').pause()")
    page.locator(".bar", has_text="1").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('video').currentTime < 3")
    assert annotated.overlay is not None
    assert set(asked) == {report.as_uri(), annotated.overlay.as_uri()}
    assert not problems
    assert page.locator(".bar.now").inner_text() == "1"
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(browser: "Browser", report: Path, scheme: str) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert (light > 600) == (scheme == "light")
    for bar in page.locator(".bar").all():
        box = bar.bounding_box()
        assert box is not None
        assert box["height"] >= 36
        assert box["x"] + box["width"] <= 390
    page.close()


def test_without_its_video_the_page_shows_what_to_do(browser: "Browser", report: Path, tmp_path: Path) -> None:
    alone = tmp_path / "report.html"
    shutil.copy(report, alone)
    page = browser.new_page()
    page.goto(alone.as_uri())
    page.locator(".bar").first.click()
    page.locator("#player-note").wait_for(state="visible")
    assert "next to this page" in page.locator("#player-note").inner_text()
    assert page.locator("video").is_hidden()
    page.close()


def test_the_index_lists_every_report(browser: "Browser", report: Path) -> None:
    index = write_index(report.parent)
    page = browser.new_page()
    page.goto(index.as_uri())
    page.locator("tbody a").click()
    page.wait_for_url(report.as_uri())
    assert page.title().startswith("a <b>'clip' & more #1.mp4")
    page.close()
