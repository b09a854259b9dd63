"""Priorities and time slices of threads, as any user may set them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from polypstream.scheduling import FRAME_SLICE_S, INFERENCE_SLICE_S, time_slice
from tests.slices import HAS_SLICES, slice_s

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux schedules threads separately")

WITHOUT_PRIVILEGES = """
import os, threading
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""

NICENESS = f"""
import sys
from polypstream.scheduling import lower_thread_priority
{WITHOUT_PRIVILEGES}
found = []

def work():
    for niceness in map(int, sys.argv[1:]):
        lower_thread_priority(niceness)
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

thread = threading.Thread(target=work)
thread.start()
thread.join()
print(*found, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
"""


@pytest.mark.parametrize("inherited", [0, 6, 19])
def test_a_threads_priority_is_lowered_from_the_inherited_one_by_any_user(inherited: int) -> None:
    """The program drops root privileges; raising a priority is then forbidden."""
    base = os.getpriority(os.PRIO_PROCESS, 0)
    more = max(inherited - base, 0)
    done = subprocess.run(
        ["nice", "-n", str(more), sys.executable, "-c", NICENESS, "5", "10"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    start = min(base + more, 19)
    assert [int(each) for each in done.stdout.split()] == [min(start + 5, 19), min(start + 15, 19), start]


SLICES = f"""
import sys
sys.path.insert(0, sys.argv[1])
from tests.slices import slice_s
from polypstream.scheduling import time_slice
{WITHOUT_PRIVILEGES}
found = [slice_s()]
with time_slice(0.0001):
    found.append(slice_s())
    with time_slice(0.003):
        found.append(slice_s())
found.append(slice_s())
print(*found, os.getpriority(os.PRIO_PROCESS, 0))
"""


@pytest.mark.skipif(not HAS_SLICES, reason="this kernel has no time slices per thread")
@pytest.mark.parametrize("more", [0, 3])
def test_any_user_can_request_a_time_slice_which_ends_with_the_block(more: int) -> None:
    base = os.getpriority(os.PRIO_PROCESS, 0)
    folder = str(Path(__file__).parent.parent)
    done = subprocess.run(
        ["nice", "-n", str(more), sys.executable, "-c", SLICES, folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    before, short, longer, after, niceness = map(float, done.stdout.split())
    assert (short, longer, after) == (FRAME_SLICE_S, INFERENCE_SLICE_S, before)
    assert niceness == min(base + more, 19)


@pytest.mark.skipif(not HAS_SLICES, reason="this kernel has no time slices per thread")
def test_the_slice_of_the_thread_that_requested_it_is_restored() -> None:
    before, inside = slice_s(), time_slice(FRAME_SLICE_S)
    inside.__enter__()
    other = threading.Thread(target=lambda: inside.__exit__(None, None, None))
    other.start()
    other.join()
    assert slice_s() == before


def test_another_scheduling_policy_is_kept() -> None:
    found = []

    def work() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with time_slice(FRAME_SLICE_S):
            found.append(os.sched_getscheduler(0))
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [os.SCHED_BATCH] * 2


def test_a_thread_that_has_ended_is_no_error() -> None:
    inside = time_slice(FRAME_SLICE_S)
    other = threading.Thread(target=inside.__enter__)
    other.start()
    other.join()
    inside.__exit__(None, None, None)
