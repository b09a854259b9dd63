"""What a live session measures of itself, over the last few seconds."""

from collections import deque
from dataclasses import dataclass
from time import monotonic

import numpy as np

WINDOW_S = 5.0
"""How far back a gauge looks."""


@dataclass(frozen=True, kw_only=True)
class Delay:
    """The middle and the tail of a delay, in milliseconds."""

    p50_ms: float
    p99_ms: float


class Recent:
    """Samples with their times; those older than the window are forgotten. For one thread to add and any to read."""

    def __init__(self, *, window_s: float = WINDOW_S) -> None:
        self._window_s = window_s
        self._samples: deque[tuple[float, float]] = deque()

    def add(self, value: float = 0.0, *, at_s: float | None = None) -> None:
        """Keep one sample, taken now unless told otherwise."""
        now = monotonic() if at_s is None else at_s
        self._samples.append((now, value))
        while self._samples[0][0] < now - self._window_s:
            self._samples.popleft()

    def _within(self, now: float | None) -> list[tuple[float, float]]:
        since = (monotonic() if now is None else now) - self._window_s
        return [sample for sample in self._samples.copy() if sample[0] >= since]

    def per_second(self, *, now: float | None = None) -> float:
        """Samples per second between the first and the last within the window; 0 before the second."""
        times = [at_s for at_s, _ in self._within(now)]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def delay(self, *, now: float | None = None) -> Delay | None:
        """p50 and p99 of samples that are durations in seconds; None where there are none within the window."""
        seconds = [value for _, value in self._within(now)]
        if not seconds:
            return None
        p50, p99 = (float(value) * 1000 for value in np.percentile(seconds, [50, 99]))
        return Delay(p50_ms=p50, p99_ms=p99)
