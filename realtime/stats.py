"""Rates and latencies, measured from raw samples that are kept."""

from dataclasses import dataclass, field
from time import monotonic

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """The middle and the tail of a set of durations, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(kw_only=True)
class Samples:
    """Durations in seconds, in the order measured."""

    seconds: list[float] = field(default_factory=list)

    def add(self, seconds: float) -> None:
        """Keep one duration."""
        self.seconds.append(seconds)

    def percentiles(self) -> Percentiles | None:
        """p50, p95 and p99, or None before the first sample."""
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
        """Count one frame, now."""
        self.last_s = monotonic()
        if self.count == 0:
            self.first_s = self.last_s
        self.count += 1

    @property
    def fps(self) -> float | None:
        """Frames per second, or None before the second tick."""
        if self.count < 2 or self.last_s <= self.first_s:
            return None
        return (self.count - 1) / (self.last_s - self.first_s)
