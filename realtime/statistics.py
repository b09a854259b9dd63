"""Rates and latencies: over all samples of a job, or over the last few seconds of a live session."""

from collections import deque
from dataclasses import dataclass, field
from time import monotonic

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Median and tail of a set of durations, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(kw_only=True)
class Samples:
    """Durations in seconds, in order of measurement."""

    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Add one duration in seconds."""
        self.seconds.append(seconds)

    def percentiles(self) -> Percentiles | None:
        """Return p50, p95 and p99 in milliseconds; None before the first sample."""
        if not self.seconds:
            return None
        p50, p95, p99 = (float(value) * 1000 for value in np.percentile(self.seconds, [50, 95, 99]))
        return Percentiles(p50_ms=p50, p95_ms=p95, p99_ms=p99)


@dataclass(kw_only=True)
class Rate:
    """Frames per second between the first and the last tick: (n − 1) / (t_last − t_first)."""

    count: int = 0
    first_s: float = 0.0
    last_s: float = 0.0

    def tick(self) -> None:
        """Count one frame at the current time."""
        self.last_s = monotonic()
        if self.count == 0:
            self.first_s = self.last_s
        self.count += 1

    @property
    def fps(self) -> float | None:
        """Return the frames per second; None before the second tick."""
        if self.count < 2 or self.last_s <= self.first_s:
            return None
        return (self.count - 1) / (self.last_s - self.first_s)


WINDOW_S = 5.0
"""Length of the window for live statistics, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Delay:
    """Median and tail of a delay, in milliseconds."""

    p50_ms: float
    p99_ms: float


class Recent:
    """Timestamped samples within a sliding window. One thread may add samples, any thread may read."""

    def __init__(self, *, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, value: float = 0.0, *, at_s: float | None = None) -> None:
        """Add a sample, with the current time unless `at_s` is given."""
        now = monotonic() if at_s is None else at_s
        self._samples.append((now, value))
        while self._samples[0][0] < now - self._window_s:
            self._samples.popleft()

    def _within(self, now: float | None) -> list[tuple[float, float]]:
        since = (monotonic() if now is None else now) - self._window_s
        return [sample for sample in self._samples.copy() if sample[0] >= since]

    def per_second(self, *, now: float | None = None) -> float:
        """Return the samples per second between the first and the last in the window; 0 before the second one."""
        times = [at_s for at_s, _ in self._within(now)]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def delay(self, *, now: float | None = None) -> Delay | None:
        """Return p50 and p99 of samples that are durations in seconds; None if the window is empty."""
        seconds = [value for _, value in self._within(now)]
        if not seconds:
            return None
        p50, p99 = (float(value) * 1000 for value in np.percentile(seconds, [50, 99]))
        return Delay(p50_ms=p50, p99_ms=p99)
