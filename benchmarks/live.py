"""A live session over loopback, measured from the pixels that arrive: nothing lost, nothing late, nothing that grows.

Run with `python -m benchmarks.live [--minutes 10] [--transport tcp|udp] [--clip CLIP.ts]`; `--soak HOURS` goes on
for hours. Another process sends a numbered 1080p30 clip in real time. The picture's bar code, read where a sink is
handed the frame, tells which frame it is; the sender's log tells when that one was sent. Both clocks are the system's
monotonic one. The video delay runs from the decoded picture to the hand-over; beside it stand the same with decoding,
from the arrival of the frame's last packet, and from the moment of sending.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.camera import write_numbered_clip
from benchmarks.report import RESULTS, write_report
from polypstream.models import default_model
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.setup import live_threads, quick_switching
from polypstream.realtime.live.shown import LiveFrame
from polypstream.realtime.live.sources import source_from_address
from polypstream.realtime.live.tracker import Tracker
from polypstream.realtime.segmenter import Segmenter, segmenter_from_onnx, time_per_picture_ms
from polypstream.synthetic import SyntheticClip, counter_from_rgb

CLIP = SyntheticClip(width=1920, height=1080, fps=30, seconds=10, counter=True)
SETTLING_S = 20.0
"""The first seconds count for nothing: connecting, warming up, filling caches."""
SHARE = 0.1
"""The beginning and the end that are compared with each other, as shares of the session."""


@dataclass(kw_only=True)
class Arrivals:
    """What reached the sink, in order; times in monotonic seconds.

    Arrays of plain numbers, lest the notes of a long session count as its memory.
    """

    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    """Read from the pixels, and counted on where the clip begins again; -1 where unreadable."""
    shown_at: "array[float]" = field(default_factory=lambda: array("d"))
    captured_at: "array[float]" = field(default_factory=lambda: array("d"))
    """When the last packet of the frame had arrived."""
    decoded_at: "array[float]" = field(default_factory=lambda: array("d"))
    marked_at: "array[float]" = field(default_factory=lambda: array("d"))
    """When the first frame with new evidence was handed over."""
    marker_s: "array[float]" = field(default_factory=lambda: array("d"))
    """How old that evidence was."""
    weighed_at: "array[float]" = field(default_factory=lambda: array("d"))
    memory_mb: "array[float]" = field(default_factory=lambda: array("d"))


def number_in(frame: Frame) -> int | None:
    """The frame's number within the clip, from the luma samples of its bar code."""
    plane: Any = frame.picture.planes[0]
    luma = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]
    return counter_from_rgb(np.broadcast_to(luma[..., None], (*luma.shape, 3)))


@contextmanager
def camera(clip: Path, url: str, log: Path, *, seconds: float) -> Iterator[None]:
    """The sender, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.camera", str(clip), url, str(log), str(seconds)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def watch(url: str, segmenter: Segmenter, *, seconds: float) -> tuple[Arrivals, dict[str, int]]:
    """Receive for so long; the sink only reads the number."""
    arrivals, loops, before = Arrivals(), 0, -1
    evidence: float | None = None
    with quick_switching(), LivePipeline(source_from_address(url), segmenter, Tracker()) as live:
        began: float | None = None
        for shown in live:
            now = monotonic()
            if isinstance(shown, LiveFrame):
                began = began or now
                number = number_in(shown.frame)
                loops += number is not None and before - number > CLIP.frame_count // 2
                before = before if number is None else number
                arrivals.numbers.append(-1 if number is None else loops * CLIP.frame_count + number)
                arrivals.shown_at.append(now)
                arrivals.captured_at.append(shown.frame.captured_at)
                arrivals.decoded_at.append(shown.decoded_at or shown.frame.captured_at)
                if (
                    shown.evidence_age_s is not None
                    and (at := shown.frame.captured_at - shown.evidence_age_s) != evidence
                ):
                    evidence = at
                    arrivals.marked_at.append(now)
                    arrivals.marker_s.append(now - at)
            if not arrivals.weighed_at or now - arrivals.weighed_at[-1] > 1:
                arrivals.weighed_at.append(now)
                arrivals.memory_mb.append(memory_mb())
            if began is not None and now - began > seconds:
                break
        counts = {"not_shown": live.dropped, "not_judged": live.not_judged}
    return arrivals, counts


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(model: Path, clip: Path | None, *, backend: str, transport: str, minutes: float) -> dict[str, object]:
    """One session; delays in milliseconds, over all that came after settling."""
    segmenter = segmenter_from_onnx(model, backend=backend, threads=live_threads())
    bare_ms = time_per_picture_ms(segmenter)
    seconds = minutes * 60 + SETTLING_S
    with tempfile.TemporaryDirectory() as folder:
        clip, log = clip or Path(folder) / "clip.ts", Path(folder) / "sent.txt"
        if not clip.exists():
            write_numbered_clip(clip, CLIP)
        send_url, receive_url = _urls(transport)
        with camera(clip, send_url, log, seconds=seconds + 30):
            arrivals, counts = watch(receive_url, segmenter, seconds=seconds)
        sent = {int(number): float(at) for number, at in map(str.split, log.read_text().splitlines())}
    return {
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "precision": segmenter.contract.precision,
        "input": f"{segmenter.width}x{segmenter.height}",
        "backend": backend,
        "feed": f"{CLIP.width}x{CLIP.height} at {CLIP.fps} fps, H.264 in MPEG-TS over {transport}",
        "minutes": minutes,
        "bare_model_ms": bare_ms,
        **summary(arrivals, sent),
        **counts,
    }


def summary(arrivals: Arrivals, sent: dict[int, float]) -> dict[str, object]:
    """The figures, from the raw samples after settling."""
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
        "judged_fps": len(marker_ms) / (shown[counted][-1] - shown[counted][0]),
        "end_against_beginning": {
            "video_delay_p50": _growth(video_ms),
            "marker_delay_p50": _growth(marker_ms),
            "memory": _growth(settled),
        },
        "memory_mb": spread(settled),
    }


def spread(values: np.ndarray) -> dict[str, float]:
    """Middle, tail and extreme."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99]).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "largest": float(values.max())}


def _growth(values: np.ndarray) -> float:
    """Median of the end over median of the beginning."""
    count = max(1, int(len(values) * SHARE))
    return float(np.median(values[-count:]) / np.median(values[:count]))


def _urls(transport: str) -> tuple[str, str]:
    """Where the sender sends to and where the receiver listens, on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    if transport == "tcp":
        return f"tcp://127.0.0.1:{port}?listen=1&tcp_nodelay=1", f"tcp://127.0.0.1:{port}"
    return f"udp://127.0.0.1:{port}?pkt_size=1316", f"udp://127.0.0.1:{port}"


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="ONNX model; the one in the package where none is given")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--transport", choices=["tcp", "udp"], default="tcp")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--soak", type=float, metavar="HOURS", help="go on for so many hours")
    parser.add_argument("--clip", type=Path, help="where the numbered clip is kept from one run to the next")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    minutes = options.soak * 60 if options.soak else options.minutes
    model = options.model or default_model()
    results = measure(model, options.clip, backend=options.backend, transport=options.transport, minutes=minutes)
    path = write_report("live", results, folder=options.results)
    for name, value in results.items():
        print(f"{name:24} {value}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
