"""What holds for every test: no thread is left behind, and a live feed may need another try on a busy machine."""

import faulthandler
import os
import sys
import threading
from collections.abc import Iterator
from time import monotonic

import pytest

GRACE_S = 5.0
"""So long a thread that was told to end may take."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """A feed is sent in real time, however busy the machine is; what is wrong with the code fails three times."""
    if item.get_closest_marker("realtime") is not None:
        item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=2))


def _of_ours() -> set[threading.Thread]:
    """What Python would wait for at its end, besides the main thread and the idle pools that it ends itself."""
    alive = (thread for thread in threading.enumerate() if thread is not threading.main_thread())
    return {thread for thread in alive if not thread.daemon and not thread.name.startswith("ThreadPoolExecutor")}


@pytest.fixture(autouse=True)
def _every_thread_ends() -> Iterator[None]:
    before = _of_ours()
    yield
    deadline = monotonic() + GRACE_S
    for thread in _of_ours() - before:
        thread.join(max(0, deadline - monotonic()))
    left = sorted(thread.name for thread in _of_ours() - before)
    assert not left, f"these threads still run: {', '.join(left)}"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = exitstatus


def pytest_unconfigure(config: pytest.Config) -> None:
    """End here if a thread that hangs would keep the interpreter waiting for ever."""
    if left := _of_ours():
        sys.stdout.flush()
        print(f"\nthese threads never ended: {', '.join(sorted(thread.name for thread in left))}", file=sys.stderr)
        faulthandler.dump_traceback(file=sys.__stderr__)
        os._exit(int(config.stash.get(_STATUS, 1)) or 1)


_STATUS = pytest.StashKey[int]()
