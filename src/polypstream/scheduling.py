"""Scheduling of threads: priorities, time slices, Python's switch interval, and the number of CPU cores to use."""

import ctypes
import os
import platform
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SWITCH_S = 0.0001
"""Interval at which Python's threads switch; with the default of 5 ms, one of them could delay a frame that long."""
TRACKING_NICENESS, INFERENCE_NICENESS = 5, 10
"""Niceness of the tracking and the inference thread, relative to the thread that displays frames."""
HIGHEST_NICENESS = 19
FRAME_SLICE_S, INFERENCE_SLICE_S = 0.0001, 0.003
"""Time slices of the threads that handle frames, the shortest that Linux permits, and of the inference thread, twice
the usual one; see `time_slice`."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, by processor."""


def live_inference_threads() -> int:
    """Number of threads for the network in a live session: one core is reserved for the frames."""
    return max(1, usable_cores() - 1)


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let Python's threads switch more often while in this context."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def lower_thread_priority(niceness: int) -> None:
    """Lower the priority of this thread, relative to the one it has.

    The niceness is added to that of the process, which `nice` or a service manager may have set. Without permission, or
    on a system without thread priorities, nothing changes.

    Args:
        niceness: Amount by which the thread's niceness is raised.
    """
    if not sys.platform.startswith("linux"):
        return
    thread = threading.get_native_id()
    with suppress(OSError):
        present = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(present + niceness, HIGHEST_NICENESS))


@contextmanager
def time_slice(seconds: float) -> Iterator[None]:
    """Request another time slice for this thread while in this context.

    A thread that wakes up interrupts one with a longer slice, even if their priorities are equal; its share of the
    time stays the same. No privileges are needed. Nothing changes on Linux before 6.12, and on other systems.

    Threads that are started meanwhile inherit the slice.

    Args:
        seconds: Between 0.0001 and 0.1.
    """
    thread = threading.get_native_id()
    _request_slice(thread, seconds)
    try:
        yield
    finally:
        _request_slice(thread, 0.0)


def _request_slice(thread: int, seconds: float) -> None:
    """Set the time slice of a thread with ordinary scheduling; 0 is the system's default."""
    number = _SCHED_SETATTR.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None:
        return
    with suppress(OSError):  # the thread may have ended
        if os.sched_getscheduler(thread) == os.SCHED_OTHER:
            niceness = os.getpriority(os.PRIO_PROCESS, thread)
            # struct sched_attr: size, policy, flags, niceness, real-time priority, and slice, deadline, period in ns
            attributes = struct.pack("=IIQiIQQQ", 48, os.SCHED_OTHER, 0, niceness, 0, round(seconds * 1e9), 0, 0)
            ctypes.CDLL(None).syscall(number, thread, attributes, 0)  # without it, only delays are longer


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Take back real-time scheduling that a library gives to the calling thread and to threads that it starts.

    As root, SVT-AV1 does so when an encoder is opened, with the highest priority there is: everything else on the
    machine would have to wait.
    """
    before = _realtime_threads()
    try:
        yield
    finally:
        for thread in _realtime_threads() - before:
            with suppress(OSError):  # it may have ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _realtime_threads() -> set[int]:
    found = set[int]()
    if sys.platform.startswith("linux"):
        for thread in (int(each.name) for each in Path("/proc/self/task").iterdir()):
            with suppress(OSError):
                if os.sched_getscheduler(thread) in {os.SCHED_FIFO, os.SCHED_RR}:
                    found.add(thread)
    return found


MOST_SIDE_BY_SIDE = 4
"""Maximum number of parallel segmenters; more only need memory, as each has several cores already."""


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shares_of_cores(cores: int) -> list[int]:
    """Numbers of threads of the segmenters that should run in parallel on this number of cores.

    Single-threaded segmenters never wait; several threads on one frame synchronize at every layer.
    """
    count = min(cores, MOST_SIDE_BY_SIDE)
    return [cores // count + (index < cores % count) for index in range(count)]
