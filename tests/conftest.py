"""Rules for all tests: no thread is left behind; live feeds have the machine to themselves and are retried."""

import faulthandler
import fcntl
import os
import sys
import threading
from collections.abc import Generator, Iterator
from time import monotonic

import pylibsrtp  # noqa: F401 - once TensorFlow is loaded, loading this (through aiortc) ends the process
import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

settings.register_profile("polypstream", deadline=None)  # a test says nothing about time; the machine may be busy
settings.load_profile("polypstream")

GRACE_S = 5.0
"""Seconds that a thread may take to end after it was stopped."""


def pytest_itemcollected(item: pytest.Item) -> None:
    """A feed is sent in real time even on a busy machine; real failures occur three times."""
    if item.get_closest_marker("realtime") is not None:
        item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=2))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the time limit: waiting does not count
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test of a live feed alone; others run beside each other in the workers of pytest-xdist."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    folder = item.config.cache.mkdir("locks")
    alone = item.get_closest_marker("realtime") is not None
    # Whoever waits holds the turn, so that a stream of shared locks never keeps an exclusive one waiting.
    with (folder / "turn").open("a") as turn, (folder / "run").open("a") as run:
        fcntl.flock(turn, fcntl.LOCK_EX)
        fcntl.flock(run, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(turn, fcntl.LOCK_UN)
        return (yield)


class _ByFile(LoadScopeScheduling):
    """Gives each worker whole files, and all of `tests/export`, whose files share exported networks."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "tests/export" if file.startswith("tests/export/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Applies with `pytest -n`."""
    return _ByFile(config, log)


def _of_ours() -> set[threading.Thread]:
    """Threads for which Python would wait at exit, except the main thread and idle pools."""
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
    assert os.sched_getscheduler(0) == os.SCHED_OTHER, "the main thread was left with real-time scheduling"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = exitstatus


def pytest_unconfigure(config: pytest.Config) -> None:
    """Exit immediately if a hanging thread would keep the interpreter waiting forever."""
    if left := _of_ours():
        sys.stdout.flush()
        print(f"\nthese threads never ended: {', '.join(sorted(thread.name for thread in left))}", file=sys.stderr)
        faulthandler.dump_traceback(file=sys.__stderr__)
        os._exit(int(config.stash.get(_STATUS, 1)) or 1)


_STATUS = pytest.StashKey[int]()
