"""Work that must not hold up the picture: done in a thread of its own, which ends in every case."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import Generic, Self, TypeVar

from polypstream.errors import PolypstreamError
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.recording.failure import OnStopped
from polypstream.realtime.stage import Stages

T = TypeVar("T")


class Background(ABC, Generic[T]):
    """What feeds items to `_work` in a thread of its own. A context manager. Giving returns at once, raises nothing.

    When `_work` falls behind by `capacity` items the oldest is dropped and counted. When it raises an error of this
    package, `on_stopped` is told the text, and what is given from then on goes nowhere. Any other error is a bug, and
    comes out of `close`. A subclass calls `__init__` last: the thread then runs.
    """

    def __init__(self, name: str, *, capacity: int, on_stopped: OnStopped) -> None:
        self._on_stopped = on_stopped
        self._items: Handover[T] = Handover(capacity=capacity, delivery=Delivery.NEWEST)
        self._stages = Stages(cancel=self._items.cancel)
        self._ended = Event()
        self._stages.start(name, self._run)

    @property
    def dropped(self) -> int:
        """How many items there was no time for."""
        return self._items.dropped

    @property
    def is_running(self) -> bool:
        """Whether what is given will be worked on."""
        return not self._ended.is_set()

    def _give(self, item: T) -> None:
        """Hand an item over; ignored once the work has ended."""
        with suppress(HandoverClosed):
            self._items.put(item)

    def _fail(self, error: PolypstreamError) -> None:
        """End the work early for a reason found outside it."""
        if self.is_running:
            self._ended.set()
            self._items.cancel()
            self._on_stopped(str(error))

    @abstractmethod
    def _work(self, items: Iterator[T]) -> None:
        """Take items until there are no more."""

    def close(self) -> None:
        """Have what was given worked on, and wait until that is done."""
        self._items.close()
        self._stages.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            self._work(iter(self._items))
        except PolypstreamError as error:
            self._fail(error)
        finally:
            self._ended.set()
            self._items.cancel()
