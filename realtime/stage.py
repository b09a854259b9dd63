"""A thread of the pipeline that always ends, and whose error is never lost."""

from collections.abc import Callable, Sequence
from threading import Lock, Thread

from polypstream.realtime.handover import HandoverClosed


class Stages:
    """Named worker threads with one fate: the first error is kept, everything is cancelled, and `join` raises it.

    `cancel` must wake every thread that may be waiting; it is called from whichever thread failed.
    """

    def __init__(self, *, cancel: Callable[[], None]) -> None:
        self._cancel = cancel
        self._threads: list[Thread] = []
        self._first_error: BaseException | None = None
        self._lock = Lock()

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run `work` in a thread of its own until it returns. A closed hand-over is an ordinary end."""
        thread = Thread(target=self._run, args=(work,), name=f"polypstream-{name}")
        self._threads.append(thread)
        thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except HandoverClosed:
            pass
        except BaseException as error:  # noqa: BLE001 - kept, and raised again in the caller's thread
            with self._lock:
                self._first_error = self._first_error or error
            self._cancel()

    def join(self) -> None:
        """Wait until every thread has ended, then raise the first error with its own traceback, if there was one."""
        for thread in self._threads:
            thread.join()
        if self._first_error is not None:
            raise self._first_error

    def cancel_and_join(self) -> None:
        """End every thread early; used when the caller's own error is the one that counts."""
        self._cancel()
        for thread in self._threads:
            thread.join()

    @property
    def names_alive(self) -> Sequence[str]:
        """Names of the threads still running."""
        return [thread.name for thread in self._threads if thread.is_alive()]
