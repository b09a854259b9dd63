"""How the cores of this machine are shared out among segmenters that work side by side."""

import os

MOST_SIDE_BY_SIDE = 4
"""More would only cost memory: by then each has several cores of its own."""


def usable_cores() -> int:
    """How many cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares_of_cores(cores: int) -> list[int]:
    """Threads for each of the segmenters that should work side by side on so many cores.

    A thread that computes a whole picture never waits for another; several on one picture do, at every layer.
    """
    count = min(cores, MOST_SIDE_BY_SIDE)
    return [cores // count + (index < cores % count) for index in range(count)]
