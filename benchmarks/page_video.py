"""Page benchmark: JPEG and H.264 side by side, in a real browser (`python -m benchmarks.page_video`).

A synthetic clip is shown on the page at a steady rate, without inference, to one viewer after the other. Bytes per
viewer are those that its browser receives; delays are measured by the page, from the capture of a frame to its drawing,
both within one machine, whose cores also run the browser. Encoding is the processor time of the page's encoder thread.
"""

import argparse
import shutil
from fractions import Fraction
from threading import Event, Thread
from time import monotonic, thread_time

import av

from benchmarks.report import write_report
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.viewers.messages import FrameMessages
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands, LiveStatistics
from polypstream.realtime.live.viewers.webrtc import PacketEncoder
from polypstream.realtime.video.frame import Frame
from polypstream.synthetic import SyntheticClip, frame_at

FRAMES = 60
"""Different frames, shown forward and backward."""
STATISTICS = LiveStatistics(operating_point="sensitive", threshold=0.5)
READY = Status(light=Light.READY)
CHROMIUM = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
SETTLING_S = 4.0


def pictures(width: int, height: int) -> list[av.VideoFrame]:
    """Frames of the synthetic clip as yuv420p."""
    clip = SyntheticClip(width=width, height=height, fps=30, seconds=10)
    forward = [
        av.VideoFrame.from_ndarray(frame_at(clip, index).rgb, format="rgb24").reformat(format="yuv420p")
        for index in range(FRAMES)
    ]
    return forward + forward[-2:0:-1]


def shown(number: int, images: list[av.VideoFrame]) -> DisplayFrame:
    """One frame as a session shows it now."""
    frame = Frame(
        index=number, picture=images[number % len(images)], time_base=Fraction(1, 30), captured_at=monotonic()
    )
    return DisplayFrame(frame=frame, markers=(), status=READY, inference_age_s=None)


def encoding_ms(images: list[av.VideoFrame], config: PageConfig) -> dict[str, float]:
    """Processor time per frame of both encoders, in milliseconds."""
    jpeg, video = FrameMessages(max_width=config.max_width, quality=config.quality), PacketEncoder()
    times = {}
    for name, encode in (
        ("jpeg", lambda item: jpeg.of_frame(item, STATISTICS)),
        ("h264", lambda item: video.encode(item.frame)),
    ):
        encode(shown(0, images))
        started = thread_time()
        for number in range(1, FRAMES):
            encode(shown(number, images))
        times[name] = 1000 * (thread_time() - started) / (FRAMES - 1)
    return times


def watched(
    transfer: str, images: list[av.VideoFrame], *, seconds: float, fps: float, config: PageConfig
) -> dict[str, object]:
    """What one browser receives and measures with one kind of transfer."""
    from playwright.sync_api import sync_playwright

    ended, result = Event(), dict[str, object]()
    with Page(config, Commands()) as page, sync_playwright() as playwright:

        def show() -> None:
            number, due = 0, monotonic()
            while not ended.wait(max(due - monotonic(), 0)):
                due += 1 / fps
                page.show(shown(number, images), STATISTICS)
                number += 1

        thread = Thread(target=show)
        thread.start()
        try:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=CHROMIUM)
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            tab.add_init_script(f"localStorage.setItem('polypstream-transfer', '{transfer}')")
            tab.goto(page.url)
            tab.wait_for_timeout(1000 * SETTLING_S)
            (client,) = page.clients
            drawn, rates = client.drawn, []
            for _ in range(round(seconds)):
                tab.wait_for_timeout(1000)
                rate = tab.locator("#bytes").text_content() or ""
                if rate[:1].isdigit():  # else the page has no live picture at this moment
                    rates.append(float(rate))
            delay = client.video_delay.delay()
            result |= {
                "is_h264": client.has_video,
                "mbit_per_s": sum(rates) / max(len(rates), 1),
                "video_delay_p50_ms": None if delay is None else delay.p50_ms,
                "video_delay_p99_ms": None if delay is None else delay.p99_ms,
                "fps_drawn": (client.drawn - drawn) / seconds,
            }
            browser.close()
        finally:
            ended.set()
            thread.join()
    return result


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="time for which each kind is measured")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720), metavar=("WIDTH", "HEIGHT"))
    arguments = parser.parse_args()
    config, images = PageConfig(port=0), pictures(*arguments.size)
    results: dict[str, object] = {
        "size": list(arguments.size),
        "fps": arguments.fps,
        "jpeg_quality": config.quality,
        "encoding_ms": encoding_ms(images, config),
    }
    for name, transfer in (("jpeg", "jpeg"), ("h264", "video")):
        results[name] = watched(transfer, images, seconds=arguments.seconds, fps=arguments.fps, config=config)
        print(name, results[name])
    print("encoding", results["encoding_ms"])
    print(write_report("page_video", results))


if __name__ == "__main__":
    main()
