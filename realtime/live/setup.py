"""How a process is set up such that the picture comes before the network."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from polypstream.realtime.backends.cores import usable_cores

SWITCH_S = 0.0005
"""Python's threads give way to each other so often; at its own 5 ms, one of them could delay a picture by as much."""

FOLLOWING_NICENESS, INFERENCE_NICENESS = 5, 10
"""By so much are the threads that carry markers, and the network's, lower in priority than the picture's."""


def live_threads() -> int:
    """Threads for the network: one core is left to the picture."""
    return max(1, usable_cores() - 1)


@contextmanager
def quick_switching() -> Iterator[None]:
    """Have Python's threads give way to each other more often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def give_way(niceness: int) -> None:
    """Lower this thread's priority by so much, where the system has one for threads."""
    if sys.platform.startswith("linux"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
