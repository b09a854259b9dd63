"""Times steps and whole streams: samples, percentiles, frames per second."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from threading import Barrier
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from benchmarks.gpu.progress import Result

OpenLane = TypeVar("OpenLane", bound=AbstractContextManager[Any])
FEWEST_SAMPLES = 5
WARM_UP = 3
"""Untimed calls before timing; the CUDA graph is captured in the second."""


def seconds_of(work: Callable[[], object], *, repeats: int) -> float:
    """Return the median seconds of `work`, after a warm-up."""
    work()
    samples = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        samples.append(perf_counter() - began)
    return float(np.median(samples))


def samples_of(
    work: Callable[[], object], *, seconds: float, before: Callable[[], object] | None = None
) -> list[float]:
    """Return the seconds of each call within a time; `before` runs untimed before each call."""
    samples: list[float] = []
    ends_at = perf_counter() + seconds
    while len(samples) < WARM_UP + FEWEST_SAMPLES or perf_counter() < ends_at:
        if before is not None:
            before()
        began = perf_counter()
        work()
        samples.append(perf_counter() - began)
    return samples[WARM_UP:]


def spread_ms(samples: list[float]) -> Result:
    """Return percentiles in milliseconds, and the number of samples."""
    p50, p95, p99 = (np.percentile(samples, [50, 95, 99]) * 1000).tolist()
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "samples": len(samples)}


@dataclass(frozen=True, kw_only=True)
class StreamTimes:
    """When each frame of a stream was done, and how long it took, in seconds."""

    ends: list[float]
    latencies: list[float]


def run_streams(
    open_lane: Callable[[], OpenLane], step: Callable[[OpenLane], object], *, count: int, seconds: float
) -> Result:
    """Run streams at the same time, each in a thread with a lane of its own, and count the frames of all.

    All begin together, after the warm-up of the last. If one fails, its error is raised.
    """
    start = Barrier(count)

    def stream(_: int) -> StreamTimes:
        try:
            with open_lane() as lane:
                for _ in range(WARM_UP):
                    step(lane)
                start.wait()
                ends: list[float] = []
                latencies: list[float] = []
                ends_at = perf_counter() + seconds
                while len(ends) < FEWEST_SAMPLES or perf_counter() < ends_at:
                    began = perf_counter()
                    step(lane)
                    ends.append(perf_counter())
                    latencies.append(ends[-1] - began)
                return StreamTimes(ends=ends, latencies=latencies)
        except BaseException:
            start.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(stream, index) for index in range(count)]
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise next((error for error in errors if str(error)), errors[0])
    times = [future.result() for future in futures]
    ends = sorted(end for each in times for end in each.ends)
    latencies = [latency for each in times for latency in each.latencies]
    frames = [len(each.ends) for each in times]
    return {
        "fps": (len(ends) - 1) / (ends[-1] - ends[0]),
        "latency": spread_ms(latencies),
        "largest_by_smallest_share": max(frames) / min(frames),
    }
