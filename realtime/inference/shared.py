"""Shared segmenter: one model for several streams, which take turns fairly.

The model runs in a thread of its own, which owns the GPU context. The stream with the fewest inferences so far is next;
one that paused does not catch up on what it missed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition
from types import TracebackType
from typing import Self

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.threads import INFERENCE_NICENESS, Handover, HandoverClosed, Stages, lower_thread_priority


class SharedSegmenter:
    """Runs a segmenter in its own thread for several streams. Use as a context manager.

    Args:
        segmenter: The model; its thread enters and leaves it.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._changed = Condition()
        self._waiting: list[Lane] = []
        self._holder: Lane | None = None
        self._newest_turn = 0
        self._images: Handover[tuple[Lane, Rgb]] = Handover(capacity=1)
        self._stages = Stages(cancel=self._images.cancel)

    def lane(self) -> "Lane":
        """A segmenter for one more stream; valid while this context is open."""
        return Lane(self)

    def acquire(self, lane: "Lane") -> None:
        """Wait for a stream's turn."""
        with self._changed:
            lane.turns = max(lane.turns, self._newest_turn - 1)
            self._waiting.append(lane)
            self._changed.wait_for(lambda: self._holder is None and self._next() is lane)
            self._waiting.remove(lane)
            self._holder, self._newest_turn = lane, lane.turns
            lane.turns += 1

    def release(self) -> None:
        """End the turn."""
        with self._changed:
            self._holder = None
            self._changed.notify_all()

    def segment(self, lane: "Lane", rgb: Rgb) -> None:
        """Hand over an image; the answer comes to the lane."""
        try:
            self._images.put((lane, rgb))
        except HandoverClosed:
            raise BackendError("the model that the streams share has ended") from None

    def __enter__(self) -> Self:
        self._stages.start("shared-inference", self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._images.close()
        self._stages.join()

    def _next(self) -> "Lane":
        return min(self._waiting, key=lambda lane: lane.turns)

    def _run(self) -> None:
        lower_thread_priority(INFERENCE_NICENESS)
        try:
            with self.segmenter:
                for lane, rgb in self._images:
                    try:
                        lane.answers.put(self.segmenter.segment(rgb))
                    except Exception as error:  # noqa: BLE001 - raised again in the stream that asked
                        lane.answers.put(error)
        except Exception as error:  # noqa: BLE001 - the model cannot be entered: every stream reports it
            for lane, _ in self._images:
                lane.answers.put(error)


class Lane:
    """The part of one stream in a `SharedSegmenter`: a segmenter for one thread."""

    def __init__(self, shared: SharedSegmenter) -> None:
        self._shared = shared
        self.contract: ModelContract = shared.segmenter.contract
        self.turns = 0
        """Turns taken, raised for those missed during a pause."""
        self.answers: Handover[Probability | Exception] = Handover(capacity=1)
        self._has_turn = False

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until it is this stream's turn; `segment` within this context does not wait for other streams."""
        self._shared.acquire(self)
        self._has_turn = True
        try:
            yield
        finally:
            self._has_turn = False
            self._shared.release()

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3); see `Segmenter.segment`."""
        if not self._has_turn:
            with self.turn():
                return self.segment(rgb)
        self._shared.segment(self, rgb)
        answer = self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self._shared.segmenter.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the selection of the backend."""
        return self._shared.segmenter.notices

    @property
    def height(self) -> int:
        """Height of the network's input in pixels."""
        return self._shared.segmenter.height

    @property
    def width(self) -> int:
        """Width of the network's input in pixels."""
        return self._shared.segmenter.width

    def in_parallel(self) -> Sequence[Segmenter]:
        """Only this one."""
        return (self,)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to release: the model belongs to the `SharedSegmenter`."""
