"""The native module against the Python code: scaling to the network's input and drawing, on one core.

    python -m benchmarks.native

The contestants take turns on one synthetic 1080p frame, and ratios are medians over the rounds.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import av
import numpy as np

from benchmarks.report import RESULTS, write_report
from polypstream.arrays import Probability
from polypstream.realtime import native
from polypstream.realtime.outlines.contours import polyps_from_probability
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle, draw_markers, marker_band
from polypstream.realtime.video.color import color_values
from polypstream.realtime.video.planes import planes_of
from polypstream.realtime.video.resize import ModelInputScaler

WIDTH, HEIGHT, MODEL_SIDE = 1920, 1080, 352
SHARES = {"preprocess": 0.8, "draw": 1.0}
"""Most that the native module may take of the Python code's time."""


def main() -> None:
    """Measure, print the ratios and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not native.is_available():
        raise SystemExit("the native module is not built here; install a C++ compiler, then polypstream again")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    results = measure(rounds=options.rounds)
    path = write_report("native", results, folder=options.results)
    print(json.dumps({"ms": results["ms"], "ratios": results["ratios"]}, indent=2))
    print(path)


def measure(*, rounds: int) -> dict[str, object]:
    """Run all contestants alternately; returns milliseconds, ratios and the rounds."""
    frame, probability = synthetic_frame(), synthetic_map()
    scaler, style = ModelInputScaler(), MarkerStyle()
    polyps = polyps_from_probability(probability, threshold=0.5, width=WIDTH, height=HEIGHT)
    planes, band = planes_of(frame), marker_band(style, height=HEIGHT)
    line, casing = color_values(frame, style.rgb), color_values(frame, CASING_RGB)

    def mark() -> None:
        native.mark(planes, probability, threshold=0.5, band=band, line=line, casing=casing)

    both: dict[str, Callable[[], object]] = {
        "preprocess": lambda: scaler.scale(frame, (MODEL_SIDE, MODEL_SIDE)),
        "draw": lambda: draw_markers(frame, polyps, style),
    }
    made = []
    for _ in range(rounds):
        times = {f"{name}, native": best_ms(work) for name, work in both.items()}
        with turned_off():
            times |= {f"{name}, Python": best_ms(work) for name, work in both.items()}
        made.append({**times, "mark, native": best_ms(mark)})
    ratios = {
        f"{name}, native / Python": statistics.median(
            each[f"{name}, native"] / each[f"{name}, Python"] for each in made
        )
        for name in both
    }
    return {
        "frame": f"{WIDTH}x{HEIGHT} {frame.format.name}",
        "input": f"{MODEL_SIDE}x{MODEL_SIDE}",
        "polyps": len(polyps),
        "cores_used": 1,
        "ms": {name: statistics.median(each[name] for each in made) for name in made[0]},
        "ratios": ratios,
        "most": SHARES,
        "rounds": made,
    }


def best_ms(work: Callable[[], object], *, repeats: int = 3) -> float:
    """Time of the quickest of a few calls, in milliseconds."""
    times = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        times.append((perf_counter() - began) * 1000)
    return min(times)


@contextmanager
def turned_off() -> Iterator[None]:
    """Without the native module."""
    os.environ[native.SWITCH] = "0"
    try:
        yield
    finally:
        del os.environ[native.SWITCH]


def synthetic_frame() -> av.VideoFrame:
    """A 1080p frame with values in the limited range."""
    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    rng = np.random.default_rng(0)
    for plane in frame.planes:
        samples = np.frombuffer(plane, np.uint8)  # type: ignore[call-overload]
        samples[:] = rng.integers(60, 180, samples.shape)
    return frame


def synthetic_map() -> Probability:
    """Two polyps, a large and a small one, in a map of the network's size."""
    rows, columns = np.mgrid[:MODEL_SIDE, :MODEL_SIDE]
    level = np.full((MODEL_SIDE, MODEL_SIDE), -9.0)
    for x, y, radius in ((120, 150, 60), (280, 250, 30)):
        angle = np.arctan2(rows - y, columns - x)
        level = np.maximum(level, (radius - np.hypot(columns - x, rows - y) * (1 + 0.15 * np.sin(3 * angle))) / 3)
    return np.asarray(1 / (1 + np.exp(-level)), np.float32)


if __name__ == "__main__":
    main()
