"""Live benchmark: losses, delays and growth of a live session over loopback, measured from the received pixels.

Run with `python -m benchmarks.live [--minutes 10] [--transport tcp|udp] [--clip CLIP.ts]`; `--soak HOURS` runs for
hours. Another process sends a numbered 1080p30 clip in real time. The bar code in the image, read when a viewer
receives the frame, identifies the frame; the sender's log has the time when it was sent. Both clocks are the system's
monotonic clock. The video delay is measured from the decoded frame to the viewer; in addition it is reported with
decoding, from the arrival of the frame's last packet, and from the time of sending. `--taken 0.5` takes away half of
one core, as on a slower machine: a process beside the session computes for this share of the time, in periods of 20 ms.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.camera import write_numbered_clip
from benchmarks.report import RESULTS, write_report
from polypstream.models import default_model
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx, time_per_image_ms
from polypstream.realtime.live.deadline import MARKER_DEADLINE_MS, within_deadline
from polypstream.realtime.live.display_frame import DisplayFrame
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.sources import source_from_address
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.video.frame import Frame
from polypstream.scheduling import live_inference_threads, short_switch_interval
from polypstream.synthetic import SyntheticClip, counter_from_rgb

CLIP = SyntheticClip(width=1920, height=1080, fps=30, seconds=10, counter=True)
SETTLING_S = 20.0
"""Seconds at the start that are ignored: connecting, warming up, filling caches."""
SHARE = 0.1
"""Start and end of the session that are compared with each other, as shares of its length."""


@dataclass(kw_only=True)
class Arrivals:
    """What the viewer received, in order; times in monotonic seconds.

    Arrays of plain numbers, so that the records of a long session hardly increase the measured memory.
    """

    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    """Frame numbers from the pixels, continued when the clip restarts; -1 if unreadable."""
    shown_at: "array[float]" = field(default_factory=lambda: array("d"))
    captured_at: "array[float]" = field(default_factory=lambda: array("d"))
    """Arrival times of the last packet of each frame."""
    decoded_at: "array[float]" = field(default_factory=lambda: array("d"))
    marked_at: "array[float]" = field(default_factory=lambda: array("d"))
    """Times when the first frame with new evidence was received."""
    marker_s: "array[float]" = field(default_factory=lambda: array("d"))
    """Age of that evidence."""
    weighed_at: "array[float]" = field(default_factory=lambda: array("d"))
    memory_mb: "array[float]" = field(default_factory=lambda: array("d"))


def number_in(frame: Frame) -> int | None:
    """Read the frame's number within the clip from the luma samples of its bar code."""
    plane: Any = frame.picture.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return counter_from_rgb(np.broadcast_to(luma[..., None], (*luma.shape, 3)))


@contextmanager
def camera(clip: Path, url: str, log: Path, *, seconds: float) -> Iterator[None]:
    """Start the sender in a separate process."""
    command = [sys.executable, "-m", "benchmarks.camera", str(clip), url, str(log), str(seconds)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def taken(share: float) -> Iterator[None]:
    """Let another process take a share of one core, at the priority of the session, until the block ends."""
    if not share:
        yield
        return
    code = (
        "import time\n"
        "while True:\n"
        f"    end = time.monotonic() + {0.02 * share}\n"
        "    while time.monotonic() < end: pass\n"
        f"    time.sleep({0.02 * (1 - share)})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def watch(
    url: str,
    segmenter: Segmenter,
    *,
    seconds: float,
    turn: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> tuple[Arrivals, dict[str, int]]:
    """Receive for a number of seconds; the viewer only reads the frame number. See `LivePipeline` for `turn`."""
    arrivals, loops, before = Arrivals(), 0, -1
    evidence: float | None = None
    tracker = Tracker(TrackerConfig(operating_point=segmenter.contract.operating_point()))
    with short_switch_interval(), LivePipeline(source_from_address(url), segmenter, tracker, turn=turn) as live:
        began: float | None = None
        for shown in live:
            now = monotonic()
            if isinstance(shown, DisplayFrame):
                began = began or now
                number = number_in(shown.frame)
                loops += number is not None and before - number > CLIP.frame_count // 2
                before = before if number is None else number
                arrivals.numbers.append(-1 if number is None else loops * CLIP.frame_count + number)
                arrivals.shown_at.append(now)
                arrivals.captured_at.append(shown.frame.captured_at)
                arrivals.decoded_at.append(shown.decoded_at or shown.frame.captured_at)
                if (
                    shown.inference_age_s is not None
                    and (at := shown.frame.captured_at - shown.inference_age_s) != evidence
                ):
                    evidence = at
                    arrivals.marked_at.append(now)
                    arrivals.marker_s.append(now - at)
            if not arrivals.weighed_at or now - arrivals.weighed_at[-1] > 1:
                arrivals.weighed_at.append(now)
                arrivals.memory_mb.append(memory_mb())
            if began is not None and now - began > seconds:
                break
        counts = {"not_displayed": live.dropped, "not_inferred": live.not_inferred}
    return arrivals, counts


def memory_mb() -> float:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(
    model: Path, clip: Path | None, *, backend: str, transport: str, minutes: float, share: float = 0.0
) -> dict[str, object]:
    """Run one session; delays in milliseconds, over everything received after settling."""
    segmenter = segmenter_from_onnx(model, backend=backend, threads=live_inference_threads())
    bare_ms = time_per_image_ms(segmenter)
    notices: list[str] = []
    adaptive = within_deadline(segmenter, model, deadline_ms=MARKER_DEADLINE_MS, on_notice=notices.append)
    seconds = minutes * 60 + SETTLING_S
    with tempfile.TemporaryDirectory() as folder:
        clip, log = clip or Path(folder) / "clip.ts", Path(folder) / "sent.txt"
        if not clip.exists():
            write_numbered_clip(clip, CLIP)
        send_url, receive_url = urls(transport)
        with camera(clip, send_url, log, seconds=seconds + 30), taken(share):
            arrivals, counts = watch(receive_url, adaptive, seconds=seconds)
        sent = {int(number): float(at) for number, at in map(str.split, log.read_text().splitlines())}
    return {
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "precision": segmenter.contract.precision,
        "input": f"{segmenter.width}x{segmenter.height}",
        "backend": backend,
        "feed": f"{CLIP.width}x{CLIP.height} at {CLIP.fps} fps, H.264 in MPEG-TS over {transport}",
        "minutes": minutes,
        "share_of_a_core_taken": share,
        "bare_model_ms": bare_ms,
        "notices": notices,
        **summary(arrivals, sent),
        **counts,
    }


def summary(arrivals: Arrivals, sent: dict[int, float]) -> dict[str, object]:
    """Compute the figures from the raw samples after settling."""
    numbers, shown = np.array(arrivals.numbers), np.array(arrivals.shown_at)
    captured, decoded = np.array(arrivals.captured_at), np.array(arrivals.decoded_at)
    counted = (shown > shown[0] + SETTLING_S) & (numbers >= 0)
    first, last = numbers[counted].min(), numbers[counted].max()
    unreadable = int(np.count_nonzero((numbers < 0) & (shown > shown[0] + SETTLING_S)))
    video_ms, with_decoding_ms = (shown - decoded)[counted] * 1000, (shown - captured)[counted] * 1000
    sent_at = np.array([sent[number] for number in numbers[counted].tolist()])
    marker_ms = np.array(arrivals.marker_s)[np.array(arrivals.marked_at) > shown[0] + SETTLING_S] * 1000
    settled = np.array(arrivals.memory_mb)[np.array(arrivals.weighed_at) > shown[0] + SETTLING_S]
    return {
        "frames_sent": int(last - first + 1),
        "frames_displayed": len(set(numbers[counted].tolist())),
        "frames_unreadable": unreadable,
        "video_delay_ms": spread(video_ms),
        "video_delay_with_decoding_ms": spread(with_decoding_ms),
        "sent_to_sink_ms": spread((shown[counted] - sent_at) * 1000),
        "marker_delay_ms": spread(marker_ms),
        "inferred_fps": len(marker_ms) / (shown[counted][-1] - shown[counted][0]),
        "end_against_beginning": {
            "video_delay_p50": _growth(video_ms),
            "marker_delay_p50": _growth(marker_ms),
            "memory": _growth(settled),
        },
        "memory_mb": spread(settled),
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Return median, tail and maximum."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "largest": float(values.max())}


def _growth(values: np.ndarray) -> float:
    """Return the median at the end divided by the median at the start."""
    count = max(1, int(len(values) * SHARE))
    return float(np.median(values[-count:]) / np.median(values[:count]))


def urls(transport: str) -> tuple[str, str]:
    """Return the addresses of sender and receiver, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if transport == "tcp":
        return f"tcp://127.0.0.1:{port}?listen=1&tcp_nodelay=1", f"tcp://127.0.0.1:{port}"
    return f"udp://127.0.0.1:{port}?pkt_size=1316", f"udp://127.0.0.1:{port}"


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--transport", choices=["tcp", "udp"], default="tcp")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--taken", type=float, default=0.0, metavar="SHARE", help="share of one core to take away")
    parser.add_argument("--soak", type=float, metavar="HOURS", help="run for this many hours")
    parser.add_argument("--clip", type=Path, help="where to store the numbered clip between runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    minutes = options.soak * 60 if options.soak else options.minutes
    model = options.model or default_model()
    results = measure(
        model, options.clip, backend=options.backend, transport=options.transport, minutes=minutes, share=options.taken
    )
    path = write_report("live_taken" if options.taken else "live", results, folder=options.results)
    for name, value in results.items():
        print(f"{name:24} {value}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
