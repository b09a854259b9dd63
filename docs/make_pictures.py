"""Makes the pictures of the documentation from synthetic clips: `python docs/make_pictures.py` (needs Chromium)."""

import shutil
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
from playwright.sync_api import sync_playwright

import polypstream as ps
from polypstream.models import default_model
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.sources import AtEnd, SourceConfig, source_from_address
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.synthetic import SyntheticClip, write_clip
from polypstream.threads import Stages

HERE = Path(__file__).parent
SHOWN = (1 / 6, 3 / 6, 5 / 6)
"""Positions of the frames of the demo clip, as fractions of its length; not selected by content."""
WATCHED_MS = 8000
ATTEMPTS = 40
"""A slow machine may draw another frame while the picture is taken."""
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def demo_picture(clip: Path) -> None:
    """Three frames of the annotated demo clip."""
    with tempfile.TemporaryDirectory() as folder:
        done = ps.annotate(clip, folder)
        with av.open(str(done.overlay)) as container:
            pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    sheet = np.hstack([pictures[int(share * len(pictures))] for share in SHOWN])
    cv2.imwrite(str(HERE / "demo.jpg"), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])


def report_picture(clip: Path) -> None:
    """Screenshot of the report of the demo clip, after a click on the first polyp."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        done = ps.annotate(clip, folder, report=True)
        assert done.report is not None
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        tab = browser.new_page(viewport={"width": 1180, "height": 900})
        tab.goto(done.report.as_uri())
        tab.locator(".card").first.click()
        tab.wait_for_function("document.querySelector('video').currentTime > 0.1")
        tab.evaluate("document.querySelector('video').pause()")
        tab.mouse.move(0, 0)
        tab.wait_for_timeout(500)
        clip_box = {"x": 0, "y": 0, "width": 1180, "height": 1640}
        tab.screenshot(path=HERE / "report.jpg", type="jpeg", quality=82, full_page=True, clip=clip_box)
        browser.close()


def page_picture(clip: Path) -> None:
    """Screenshot of the page of a live session, some seconds after the start."""
    source = source_from_address(str(clip), SourceConfig(at_end=AtEnd.LOOP))
    segmenter = segmenter_from_onnx(default_model)
    tracker = Tracker(TrackerConfig(operating_point=segmenter.contract.operating_point()))
    live = LivePipeline(source, segmenter, tracker)
    commands = Commands()
    folder = tempfile.TemporaryDirectory()
    recorder = SessionRecorder(
        Path(folder.name), source, record=Record.FEED, style=MarkerStyle(), on_notice=lambda _: None
    )
    page = Page(PageConfig(port=0, label="Demo"), commands, source="demo.mp4", record=lambda: recorder.opened_record)
    session = Session(source, live, viewers=[page], commands=commands, recorder=recorder)
    stages = Stages(cancel=session.close)

    def run() -> None:
        session.run()

    stages.start("session", run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(page.url)
        tab.wait_for_timeout(WATCHED_MS)
        marked = tab.locator("body[data-chip=on][data-light=ready]")
        for _ in range(ATTEMPTS):
            marked.wait_for()
            tab.screenshot(path=HERE / "page.jpg", type="jpeg", quality=88)
            if marked.count():
                break  # still so: the picture shows it
        browser.close()
    stages.cancel_and_join()
    folder.cleanup()


def main() -> None:
    """Make all pictures, next to this file."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "demo.mp4"
        write_clip(clip, SyntheticClip())
        demo_picture(clip)
        report_picture(clip)
        page_picture(clip)


if __name__ == "__main__":
    main()
