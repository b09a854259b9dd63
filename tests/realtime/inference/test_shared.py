"""Streams share a model fairly, and an error of one concerns only that one."""

import threading
from collections.abc import Sequence
from time import sleep

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.errors import BackendError
from polypstream.realtime.inference.shared import Lane, SharedSegmenter
from tests.models import contract

SIZE = 32
BLACK: Rgb = np.zeros((SIZE, SIZE, 3), np.uint8)


class Model:
    """Takes single images. Answers with the mean of the image; fails for a white one."""

    contract = contract(height=SIZE, width=SIZE)
    height = width = SIZE
    backend, notices = "test", ()

    def __init__(self) -> None:
        self.threads: set[str] = set()
        self.problem: Exception | None = None

    def __enter__(self) -> "Model":
        if self.problem is not None:
            raise self.problem
        self.threads.add(threading.current_thread().name)
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.add(threading.current_thread().name)

    def segment(self, rgb: Rgb) -> Probability:
        self.threads.add(threading.current_thread().name)
        sleep(0.001)
        if rgb.min() == 255:
            raise BackendError("white")
        return np.full((SIZE, SIZE), rgb.mean() / 255, np.float32)

    def in_parallel(self) -> Sequence["Model"]:
        return (self,)


class BatchModel(Model):
    """The same with batches, of which one white image fails the whole."""

    def __init__(self, largest_batch: int) -> None:
        super().__init__()
        self.largest_batch = largest_batch

    def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert 1 < len(images) <= self.largest_batch
        return np.stack([self.segment(image) for image in images])


def run(lane: Lane, stop: threading.Event, counts: list[int], index: int, pause_s: float) -> None:
    while not stop.wait(pause_s):
        with lane.turn():
            lane.segment(BLACK)
        counts[index] += 1


@pytest.mark.parametrize(("model", "times"), [(Model(), 1), (BatchModel(2), 1), (BatchModel(3), 2)])
def test_streams_that_always_want_the_model_get_equal_shares(model: Model, times: int) -> None:
    with SharedSegmenter(model) as shared:
        pauses = (0, 0, 0.0005, 0.001) * times  # what a stream does between two inferences takes time too
        stop, counts = threading.Event(), [0] * len(pauses)
        threads = [
            threading.Thread(target=run, args=(shared.lane(), stop, counts, index, pause))
            for index, pause in enumerate(pauses)
        ]
        for thread in threads:
            thread.start()
        while min(counts) < 100:
            sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert max(counts) <= 1.2 * min(counts)
    assert model.threads == {"polypstream-shared-inference"}


def test_stream_that_paused_does_not_catch_up() -> None:
    with SharedSegmenter(Model()) as shared:
        first, second = shared.lane(), shared.lane()
        for _ in range(50):
            first.segment(BLACK)
        second.segment(BLACK)
        assert first.turns - 1 <= second.turns <= first.turns


def test_error_reaches_only_the_stream_that_caused_it() -> None:
    with SharedSegmenter(Model()) as shared:
        good, bad = shared.lane(), shared.lane()
        with pytest.raises(BackendError, match="white"):
            bad.segment(np.full_like(BLACK, 255))
        assert good.segment(BLACK).max() == 0
        assert bad.segment(BLACK).max() == 0


def test_batches_that_fail_are_reported_once_and_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    class NoBatches(BatchModel):
        tried = 0

        def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
            self.tried += 1
            raise BackendError("out of memory")

    model = NoBatches(2)
    with SharedSegmenter(model) as shared:
        stop, counts = threading.Event(), [0, 0]
        threads = [
            threading.Thread(target=run, args=(shared.lane(), stop, counts, index, 0.0)) for index in range(len(counts))
        ]
        for thread in threads:
            thread.start()
        while not model.tried or min(counts) < 50:
            sleep(0.01)
        stop.set()
        for thread in threads:
            thread.join()
    assert model.tried == 1
    assert [record.getMessage() for record in caplog.records] == [
        "batches of images fail (out of memory); streams are inferred one by one from now on"
    ]


def test_image_that_fails_in_a_batch_does_not_end_batches() -> None:
    both_have_a_turn = threading.Barrier(2, timeout=30)  # which is impossible without batches
    answers: dict[str, object] = {}

    def ask(name: str, lane: Lane, rgb: Rgb) -> None:
        with lane.turn():
            both_have_a_turn.wait()
            try:
                answers[name] = lane.segment(rgb)
            except BackendError as error:
                answers[name] = error

    with SharedSegmenter(BatchModel(2)) as shared:
        lanes = shared.lane(), shared.lane()
        for _ in range(5):
            threads = [
                threading.Thread(target=ask, args=("good", lanes[0], BLACK)),
                threading.Thread(target=ask, args=("bad", lanes[1], np.full_like(BLACK, 255))),
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert isinstance(answers["bad"], BackendError)
            assert not isinstance(answers["good"], BackendError)


def test_model_that_cannot_be_opened_is_an_error_in_every_stream() -> None:
    model = Model()
    model.problem = BackendError("no GPU")
    with SharedSegmenter(model) as shared:
        for lane in (shared.lane(), shared.lane()):
            with pytest.raises(BackendError, match="no GPU"):
                lane.segment(BLACK)
