"""Shared segmenter: one model for several streams, which take turns fairly.

The model runs in a thread of its own, which owns the GPU context. The stream with the fewest inferences so far is next;
one that paused does not catch up on what it missed. If the model takes batches, as many streams as fit into one have
their turn at the same time, and their images are inferred together.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Condition
from types import TracebackType
from typing import Self

import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError
from polypstream.realtime.inference.base import BatchSegmenter, reason_of
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.scheduling import INFERENCE_NICENESS, lower_thread_priority
from polypstream.threads import Handover, Stages

LOG = logging.getLogger(__name__)
LONGEST_WAIT_S = 0.002
"""Longest time in seconds for which an image waits for those of other streams that have a turn at the same time."""


class SharedSegmenter:
    """Runs a segmenter in its own thread for several streams. Use as a context manager.

    Turns are given while the model is idle, so that each stream can choose its newest image: up to `largest_batch` at
    the same time with a `BatchSegmenter`, otherwise one. The model begins when every stream that has a turn has handed
    over its image, or `LONGEST_WAIT_S` after the first of them; it never waits for streams without a turn.

    Args:
        segmenter: The model; its thread enters and leaves it.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._changed = Condition()
        self._waiting: list[Lane] = []
        self._holders: set[Lane] = set()
        self._images: dict[Lane, Rgb] = {}
        self._newest_turn = 0
        self._is_busy = self._is_closed = self._has_failing_batches = False
        self._stages = Stages(cancel=self._close)

    def lane(self) -> "Lane":
        """A segmenter for one more stream; valid while this context is open."""
        return Lane(self)

    def acquire(self, lane: "Lane") -> None:
        """Wait for a stream's turn."""
        with self._changed:
            lane.turns = max(lane.turns, self._newest_turn - 1)
            self._waiting.append(lane)
            self._give_turns()
            self._changed.wait_for(lambda: lane in self._holders)

    def release(self, lane: "Lane") -> None:
        """End a stream's turn."""
        with self._changed:
            self._holders.remove(lane)
            self._give_turns()

    def segment(self, lane: "Lane", rgb: Rgb) -> None:
        """Hand over the image of a stream that has a turn; the answer comes to the lane."""
        with self._changed:
            if self._is_closed:
                raise BackendError("the model that the streams share has ended")
            self._images[lane] = rgb
            self._changed.notify_all()

    def __enter__(self) -> Self:
        self._stages.start("shared-inference", self._run)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._stages.join()

    def _close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _give_turns(self) -> None:
        """Give turns to the waiting streams that had the fewest, while the model is idle and takes more images."""
        while self._waiting and not self._is_busy and len(self._holders) < self._largest_batch():
            lane = min(self._waiting, key=lambda lane: lane.turns)
            self._waiting.remove(lane)
            self._holders.add(lane)
            self._newest_turn = lane.turns
            lane.turns += 1
        self._changed.notify_all()

    def _largest_batch(self) -> int:
        if self._has_failing_batches or not isinstance(self.segmenter, BatchSegmenter):
            return 1
        return self.segmenter.largest_batch

    def _run(self) -> None:
        lower_thread_priority(INFERENCE_NICENESS)
        try:
            with self.segmenter:
                for images in self._batches():
                    self._answer(images, self._inferred(list(images.values())))
        except Exception as error:  # noqa: BLE001 - the model cannot be entered: every stream reports it
            for images in self._batches():
                self._answer(images, [error] * len(images))

    def _batches(self) -> Iterator[dict["Lane", Rgb]]:
        """Yield the images to infer together, until the context is left and none waits."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or bool(self._images))
                if not self._images:
                    return
                self._changed.wait_for(lambda: self._images.keys() == self._holders, LONGEST_WAIT_S)
                images, self._images = self._images, {}
                self._is_busy = True
            yield images

    def _answer(self, images: dict["Lane", Rgb], answers: Sequence[Probability | Exception]) -> None:
        with self._changed:
            self._is_busy = False
            self._give_turns()
        for lane, answer in zip(images, answers, strict=True):
            lane.answers.put(answer)

    def _inferred(self, images: list[Rgb]) -> list[Probability | Exception]:
        """Probability of each image, or its error: those of a batch that fails are inferred one by one.

        If none of them fails alone, batches as such do not work, and there are no more.
        """
        if not isinstance(self.segmenter, BatchSegmenter) or len(images) == 1:
            return [self._inferred_alone(image) for image in images]
        try:
            return list(self.segmenter.segment_batch(np.stack(images)))
        except Exception as error:  # noqa: BLE001 - a runtime fails with exceptions of any class
            answers = [self._inferred_alone(image) for image in images]
            if not any(isinstance(answer, Exception) for answer in answers):
                self._has_failing_batches = True
                LOG.warning(
                    "batches of images fail (%s); streams are inferred one by one from now on", reason_of(error)
                )
            return answers

    def _inferred_alone(self, rgb: Rgb) -> Probability | Exception:
        try:
            return self.segmenter.segment(rgb)
        except Exception as error:  # noqa: BLE001 - raised again in the stream that asked
            return error


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
            self._shared.release(self)

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
