"""Streams benchmark: several live feeds that share one model, each measured from the received pixels.

Run with `python -m benchmarks.streams [--streams 4] [--minutes 1] [--transport tcp|udp] [--clip CLIP.ts]`. For each
stream a process sends a numbered 1080p30 clip in real time, see `benchmarks.live`. Reported are the frames displayed,
the delays of each stream, and the ratio of the largest to the smallest number of inferences.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from threading import Thread

from benchmarks.camera import write_numbered_clip
from benchmarks.live import CLIP, SETTLING_S, Arrivals, camera, summary, urls, watch
from benchmarks.report import RESULTS, write_report
from polypstream.models import default_model
from polypstream.realtime.inference.segmenter import segmenter_from_onnx, time_per_image_ms
from polypstream.realtime.inference.shared import Lane, SharedSegmenter
from polypstream.scheduling import live_inference_threads, usable_cores


def measure(
    model: Path, clip: Path | None, *, backend: str, transport: str, streams: int, minutes: float
) -> dict[str, object]:
    """Run all streams at the same time; delays in milliseconds, over everything received after settling."""
    segmenter = segmenter_from_onnx(model, backend=backend, threads=live_inference_threads(), batches=streams > 1)
    bare_ms = time_per_image_ms(segmenter)
    seconds = minutes * 60 + SETTLING_S
    results: dict[int, tuple[Arrivals, dict[str, int]]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as opened:
        clip = clip or Path(folder) / "clip.ts"
        if not clip.exists():
            write_numbered_clip(clip, CLIP)
        shared = opened.enter_context(SharedSegmenter(segmenter))
        logs = [Path(folder) / f"sent-{index}.txt" for index in range(streams)]
        threads = []
        for index, log in enumerate(logs):
            send_url, receive_url = urls(transport)
            opened.enter_context(camera(clip, send_url, log, seconds=seconds + 30))
            lane = shared.lane()

            def run(index: int = index, url: str = receive_url, lane: Lane = lane) -> None:
                results[index] = watch(url, lane, seconds=seconds, turn=lane.turn)

            threads.append(Thread(target=run))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sent = [_sent(log) for log in logs]
    each = [summary(results[index][0], sent[index]) | results[index][1] for index in range(streams)]
    inferences = [float(str(one["inferred_fps"])) for one in each]
    return {
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "backend": backend,
        "feed": f"{CLIP.width}x{CLIP.height} at {CLIP.fps} fps, H.264 in MPEG-TS over {transport}",
        "cores": usable_cores(),
        "minutes": minutes,
        "bare_model_ms": bare_ms,
        "frames_sent": sum(int(str(one["frames_sent"])) for one in each),
        "frames_displayed": sum(int(str(one["frames_displayed"])) for one in each),
        "inferred_fps": inferences,
        "largest_by_smallest_share": max(inferences) / min(inferences),
        "streams": each,
    }


def _sent(log: Path) -> dict[int, float]:
    return {int(number): float(at) for number, at in map(str.split, log.read_text().splitlines())}


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--transport", choices=["tcp", "udp"], default="tcp")
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--clip", type=Path, help="where to store the numbered clip between runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    results = measure(
        options.model or default_model(),
        options.clip,
        backend=options.backend,
        transport=options.transport,
        streams=options.streams,
        minutes=options.minutes,
    )
    path = write_report("streams", results, folder=options.results)
    for name, value in results.items():
        if name != "streams":
            print(f"{name:26} {value}")
    for number, one in enumerate(results["streams"], start=1):  # type: ignore[arg-type, var-annotated]
        shown = ", ".join(f"{name} {one[name]}" for name in ("frames_sent", "frames_displayed", "not_displayed"))
        print(f"stream {number}: {shown}; video {one['video_delay_ms']}; markers {one['marker_delay_ms']}")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
