"""Images of streams that wait at the same time are inferred together, if the model takes batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from threading import Semaphore, Thread
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.errors import BackendError
from polypstream.realtime.inference import shared as shared_module
from polypstream.realtime.inference.averaged import AveragedSegmenter
from polypstream.realtime.inference.base import BatchSegmenter
from polypstream.realtime.inference.fallback import Candidate, FallbackSegmenter, Notices
from polypstream.realtime.inference.shared import SharedSegmenter
from polypstream.realtime.live.deadline import AdaptiveSegmenter, ThreadControl
from tests.models import contract

SIZE, LIMIT_S = 32, 60.0


def picture(stream: int, count: int) -> Rgb:
    return np.full((SIZE, SIZE, 3), (stream, count, 0), np.uint8)


def answer_to(rgb: Rgb) -> float:
    return float(rgb[0, 0, 0]) / 256 + float(rgb[0, 0, 1]) / 65536


class SingleModel:
    """Takes single images. Its answers depend on the image; one with the `bad` red value, or any if `broken`, fails."""

    contract = contract(height=SIZE, width=SIZE)
    height = width = SIZE
    backend, notices = "test", ()

    def __init__(self, *, bad: int = -1, broken: bool = False) -> None:
        self.bad, self.broken = bad, broken
        self.batches: list[list[int]] = []

    def __enter__(self) -> "SingleModel":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to release."""

    def in_parallel(self) -> Sequence["SingleModel"]:
        return (self,)

    def segment(self, rgb: Rgb) -> Probability:
        return self.inferred(rgb[None])[0]

    def inferred(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        streams = [int(image[0, 0, 0]) for image in images]
        self.batches.append(streams)
        if self.broken or self.bad in streams:
            raise BackendError(f"cannot infer {streams}")
        return np.stack([np.full((SIZE, SIZE), answer_to(image), np.float32) for image in images])


class Model(SingleModel):
    """The same with batches."""

    def __init__(self, largest_batch: int, **problems: Any) -> None:
        super().__init__(**problems)
        self.largest_batch = largest_batch

    def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert 1 < len(images) <= self.largest_batch
        return self.inferred(images)


class GatedModel(Model):
    """Tells when an inference begins, and ends it when it is allowed to."""

    def __init__(self, largest_batch: int, **problems: Any) -> None:
        super().__init__(largest_batch, **problems)
        self.begun, self.may_end = Queue[list[int]](), Semaphore(0)

    def inferred(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.begun.put([int(image[0, 0, 0]) for image in images])
        assert self.may_end.acquire(timeout=LIMIT_S)
        return super().inferred(images)


class Streams:
    """Threads with a lane each, which infer an image when told to."""

    def __init__(self, shared: SharedSegmenter, count: int) -> None:
        self.shared = shared
        self.lanes = [shared.lane() for _ in range(count)]
        self._orders = [Queue[int]() for _ in range(count)]
        self._answers = [Queue[tuple[int, Any]]() for _ in range(count)]
        self.threads = [Thread(target=self._run, args=(number,)) for number in range(count)]
        for thread in self.threads:
            thread.start()

    def _run(self, number: int) -> None:
        lane = self.lanes[number]
        while (count := self._orders[number].get()) >= 0:
            try:
                with lane.turn():
                    answer: Any = lane.segment(picture(number, count))
            except BackendError as error:
                answer = error
            self._answers[number].put((count, answer))

    def order(self, number: int, count: int = 0) -> None:
        self._orders[number].put(count)

    def answer(self, number: int) -> Any:
        """The answer to the order, checked to be of the right image, or the error."""
        count, answer = self._answers[number].get(timeout=LIMIT_S)
        if not isinstance(answer, Exception):
            assert answer.shape == (SIZE, SIZE)
            assert (answer == np.float32(answer_to(picture(number, count)))).all()
        return answer

    def wait_for(self, count: int) -> None:
        """Until so many streams wait for their turn."""
        until(lambda: len(self.shared._waiting) == count)

    def end(self) -> None:
        for orders in self._orders:
            orders.put(-1)
        for thread in self.threads:
            thread.join()


def until(condition: Callable[[], bool]) -> None:
    ends_at = monotonic() + LIMIT_S
    while not condition():
        assert monotonic() < ends_at
        sleep(0.0005)


@contextmanager
def streams_of(model: Model, count: int) -> Iterator[Streams]:
    """Streams of a model that waits for all turns, so that batches do not depend on the speed of this machine."""
    with pytest.MonkeyPatch.context() as patch, SharedSegmenter(model) as shared:
        patch.setattr(shared_module, "LONGEST_WAIT_S", LIMIT_S)
        streams = Streams(shared, count)
        try:
            yield streams
        finally:
            if isinstance(model, GatedModel):
                model.may_end.release(1000)
            streams.end()


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 6),
    largest=st.integers(1, 8),
    arrivals=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=1, max_size=10),
)
def test_streams_that_wait_together_form_batches_and_get_their_own_answers(
    count: int, largest: int, arrivals: list[set[int]]
) -> None:
    """Each set of streams arrives while the model works on the batch before."""
    model = GatedModel(largest)
    with streams_of(model, count) as streams:
        lanes, waiting, running = streams.lanes, set[int](), list[int]()
        for number, some in enumerate([*arrivals, *[set[int]()] * count]):
            coming = sorted({stream % count for stream in some} - waiting - set(running))
            if coming and not running:
                streams.order(coming[0], number)
                running = model.begun.get(timeout=LIMIT_S)
                assert running == [coming.pop(0)], "a stream that is alone waits for no other"
            for stream in coming:
                streams.order(stream, number)
            waiting.update(coming)
            streams.wait_for(len(waiting))
            if running:
                model.may_end.release()
            for stream in running:
                streams.answer(stream)
            running = model.begun.get(timeout=LIMIT_S) if waiting else []
            assert len(running) == min(largest, len(waiting)), "all that wait, as long as they fit"
            assert len(set(running)) == len(running), "never two images of a stream"
            waiting -= set(running)
            turns_before = [lanes[stream].turns - 1 for stream in running]
            assert not waiting or max(turns_before) <= min(lanes[stream].turns for stream in waiting)
        assert not waiting
        assert not running


def together(model: GatedModel, count: int, *, inferences: int) -> list[Any]:
    """Answers to streams 1 to `count`, which wait together while the model works for stream 0."""
    with streams_of(model, count + 1) as streams:
        streams.order(0)
        model.begun.get(timeout=LIMIT_S)
        for number in range(1, count + 1):
            streams.order(number)
        streams.wait_for(count)
        model.may_end.release(1 + inferences)
        return [streams.answer(number) for number in range(1, count + 1)]


def test_error_of_one_image_in_a_batch_reaches_only_its_stream() -> None:
    model = GatedModel(3, bad=2)
    first, second, third = together(model, 3, inferences=4)
    assert isinstance(second, BackendError)
    assert str(second) == "cannot infer [2]"
    assert not isinstance(first, Exception)
    assert not isinstance(third, Exception)
    assert sorted(model.batches[1]) == [1, 2, 3]
    assert sorted(model.batches[2:]) == [[1], [2], [3]]


def test_error_of_the_model_reaches_every_stream_of_a_batch() -> None:
    model = GatedModel(2, broken=True)
    assert [str(error) for error in together(model, 2, inferences=3)] == ["cannot infer [1]", "cannot infer [2]"]


def test_an_image_waits_for_a_stream_that_has_its_turn() -> None:
    model = Model(2)
    with streams_of(model, 2) as streams:
        first, second = streams.lanes
        with first.turn(), second.turn():
            thread = Thread(target=first.segment, args=(picture(0, 0),))
            thread.start()
            until(lambda: bool(streams.shared._images or model.batches))
            sleep(0.05)  # time to begin without the second
            second.segment(picture(1, 0))
            thread.join()
    assert model.batches == [[0, 1]]


def test_stream_that_pauses_or_fails_in_its_turn_does_not_block_the_others() -> None:
    model = Model(2)
    with SharedSegmenter(model) as shared:
        slow, other = shared.lane(), shared.lane()
        with slow.turn():
            for count in range(3):
                assert other.segment(picture(1, count)).max() == np.float32(answer_to(picture(1, count)))
            assert slow.segment(picture(0, 7)).max() == np.float32(answer_to(picture(0, 7)))
        with pytest.raises(ZeroDivisionError), slow.turn():
            raise ZeroDivisionError
        with other.turn(), shared.lane().turn():
            other.segment(picture(1, 0))
    assert model.batches == [[1], [1], [1], [0], [1]]


def test_automatic_backend_takes_batches_as_long_as_its_backend_does() -> None:
    first, rest = Model(3, bad=2), [Candidate(name="single", open=lambda _: SingleModel())]
    with FallbackSegmenter(first, rest, notices=Notices()) as segmenter:
        images = np.stack([picture(stream, 0) for stream in range(3)])
        assert isinstance(segmenter, BatchSegmenter)
        assert segmenter.largest_batch == 3
        assert segmenter.segment_batch(images[:2]).shape == (2, SIZE, SIZE)
        with pytest.raises(BackendError):
            segmenter.segment_batch(images)
        assert not segmenter.notices, "a batch may fail where a single image does not"
        segmenter.segment(images[2])
        assert "continuing with single" in segmenter.notices[0]
        assert segmenter.largest_batch == 1
        assert segmenter.segment_batch(images)[:, 0, 0].tolist() == [np.float32(answer_to(each)) for each in images]


def test_segmenters_that_infer_image_by_image_offer_no_batches() -> None:
    model = Model(8)
    control = ThreadControl(threads=1, most=2)
    assert not isinstance(AveragedSegmenter(model), BatchSegmenter)
    assert not isinstance(AdaptiveSegmenter(model, lambda _: model, control), BatchSegmenter)
