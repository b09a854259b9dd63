"""Background work: a thread that processes items without delaying the caller, and always ends."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from threading import Event
from types import TracebackType
from typing import Generic, Self, TypeVar

from polypstream.errors import PolypstreamError
from polypstream.files import OnStopped
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

T = TypeVar("T")


class Background(ABC, Generic[T]):
    """Passes items to `_work` in a separate thread; adding an item returns immediately and never raises.

    If `_work` is more than `capacity` items behind, the oldest item is dropped and counted. If it raises an error of
    this package, `on_stopped` is called with the message, and later items are ignored. Any other exception is a bug
    and is raised by `close`. Subclasses must call `__init__` last, as it starts the thread. Use as a context manager.
    """

    def __init__(self, name: str, *, capacity: int, on_stopped: OnStopped) -> None:
        self._on_stopped = on_stopped
        self._items: Handover[T] = Handover(capacity=capacity, delivery=Delivery.NEWEST)
        self._stages = Stages(cancel=self._items.cancel)
        self._ended = Event()
        self._stages.start(name, self._run)

    @property
    def dropped(self) -> int:
        """Number of items dropped because the work was too slow."""
        return self._items.dropped

    @property
    def is_running(self) -> bool:
        """Whether new items will be processed."""
        return not self._ended.is_set()

    def _give(self, item: T) -> None:
        """Add an item; ignored once the work has ended."""
        with suppress(HandoverClosed):
            self._items.put(item)

    def _fail(self, error: PolypstreamError) -> None:
        """End the work early because of an error outside of it."""
        if self.is_running:
            self._ended.set()
            self._items.cancel()
            self._on_stopped(str(error))

    @abstractmethod
    def _work(self, items: Iterator[T]) -> None:
        """Process items until there are no more."""

    def end(self) -> None:
        """Accept no more items, without waiting for the remaining ones; `close` still has to be called."""
        self._items.close()

    def close(self) -> None:
        """Process the remaining items, and wait until that is done."""
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
