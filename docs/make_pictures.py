"""Makes the README's pictures from synthetic clips: `python docs/make_pictures.py`. Needs `.[dev]` and Chromium."""

import shutil
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
from playwright.sync_api import sync_playwright

from polypstream.models import default_model
from polypstream.realtime.annotate import AnnotateConfig, annotate_video
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.sources import AtEnd, SourceConfig, source_from_address
from polypstream.realtime.live.tracker import Tracker
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewing import Commands
from polypstream.realtime.segmenter import segmenter_from_onnx
from polypstream.realtime.stage import Stages
from polypstream.synthetic import SyntheticClip, write_clip

HERE = Path(__file__).parent
SHOWN = (1 / 6, 3 / 6, 5 / 6)
"""Frames of the demo clip, as shares of its length, side by side; not chosen by what is on them."""
WATCHED_MS = 8000
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


def demo_picture(clip: Path) -> None:
    """Three frames of the annotated demo clip."""
    with tempfile.TemporaryDirectory() as folder:
        done = annotate_video(clip, Path(folder), segmenter_from_onnx(default_model), AnnotateConfig())
        with av.open(str(done.overlay)) as container:
            pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    sheet = np.hstack([pictures[int(share * len(pictures))] for share in SHOWN])
    cv2.imwrite(str(HERE / "demo.jpg"), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])


def page_picture(clip: Path) -> None:
    """The page of a live session, as a browser shows it some seconds after the start."""
    source = source_from_address(str(clip), SourceConfig(at_end=AtEnd.LOOP))
    live = LivePipeline(source, segmenter_from_onnx(default_model), Tracker())
    commands = Commands()
    page = Page(PageConfig(port=0), commands)
    session = Session(source, live, viewers=[page], commands=commands)
    stages = Stages(cancel=session.close)

    def run() -> None:
        session.run()

    stages.start("session", run)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
        tab = browser.new_page(viewport={"width": 1440, "height": 900})
        tab.goto(page.url)
        tab.wait_for_timeout(WATCHED_MS)
        tab.screenshot(path=HERE / "page.jpg", type="jpeg", quality=88)
        browser.close()
    stages.cancel_and_join()


def main() -> None:
    """Make both, beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "demo.mp4"
        write_clip(clip, SyntheticClip())
        demo_picture(clip)
        page_picture(clip)


if __name__ == "__main__":
    main()
