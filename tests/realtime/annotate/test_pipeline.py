"""The pipeline always ends, loses no frame, and raises the first error."""

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import count

import av
import numpy as np
import pytest

from polypstream.arrays import Probability, Rgb
from polypstream.errors import BackendError, ConfigError, SourceError
from polypstream.realtime.annotate.pipeline import Pipeline, Segmented
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket
from polypstream.threads import Delivery
from tests.models import contract

SIZE = 16


class MeanSegmenter:
    """Returns the mean brightness of the image; records which threads opened and closed it."""

    height = width = SIZE
    contract = contract(height=SIZE, width=SIZE)

    def __init__(self, *, fail_at: int | None = None) -> None:
        self.fail_at, self.calls = fail_at, 0
        self.opened_in: list[str] = []
        self.closed_in: list[str] = []

    def __enter__(self) -> "MeanSegmenter":
        self.opened_in.append(threading.current_thread().name)
        return self

    def __exit__(self, *_: object) -> None:
        self.closed_in.append(threading.current_thread().name)

    def in_parallel(self) -> Sequence["MeanSegmenter"]:
        return (self,)

    def segment(self, rgb: Rgb) -> Probability:
        if self.calls == self.fail_at:
            raise BackendError("the network broke")
        self.calls += 1
        return np.full((SIZE, SIZE), rgb.mean() / 255, np.float32)


def grey_frame(index: int) -> Frame:
    picture = av.VideoFrame.from_ndarray(np.full((32, 48), index % 256, np.uint8), format="gray")
    picture.pts, picture.time_base = index, Fraction(1, 25)
    return Frame(index=index, picture=picture, time_base=Fraction(1, 25))


def frames(number: int, *, then: Exception | None = None) -> Iterator[Frame]:
    yield from map(grey_frame, range(number))
    if then is not None:
        raise then


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def test_every_frame_comes_out_once_in_order_with_its_own_map() -> None:
    with Pipeline(frames(60), MeanSegmenter(), capacity=2) as pipeline:
        out = [item for item in pipeline if isinstance(item, Segmented)]
    assert [item.frame.index for item in out] == list(range(60))
    levels = [float(item.probability[0, 0]) for item in out]
    assert levels == sorted(levels)
    assert levels[-1] > levels[0] + 0.15
    assert pipeline.dropped == 0


class Uneven(MeanSegmenter):
    """Inference time varies between frames."""

    def segment(self, rgb: Rgb) -> Probability:
        threading.Event().wait(0.004 * (int(rgb[0, 0, 0]) % 3))
        return super().segment(rgb)


@pytest.mark.parametrize("count_of_lanes", [2, 3])
def test_several_segmenters_share_the_frames_and_the_order_stays(count_of_lanes: int) -> None:
    segmenters = [Uneven() for _ in range(count_of_lanes)]
    source = list[Frame | StreamPacket](map(grey_frame, range(40)))
    packets = {at: StreamPacket(packet=av.Packet(b"sound")) for at in (0, 1, 7, 8, 9, 30, 43)}
    for at, packet in packets.items():
        source.insert(at, packet)
    source += [StreamPacket(packet=av.Packet(b"end")) for _ in range(3)]
    with Pipeline(source, *segmenters, capacity=2) as pipeline:
        out = [item.frame if isinstance(item, Segmented) else item for item in pipeline]
    assert out == source
    assert all(segmenter.calls in (40 // count_of_lanes, 40 // count_of_lanes + 1) for segmenter in segmenters)


def test_the_failure_of_one_of_several_segmenters_ends_them_all() -> None:
    segmenters = MeanSegmenter(), MeanSegmenter(fail_at=5), MeanSegmenter()
    with (
        pytest.raises(BackendError, match="broke"),
        Pipeline(map(grey_frame, count()), *segmenters) as pipeline,
    ):
        deque(pipeline)
    assert all(len(segmenter.closed_in) == 1 for segmenter in segmenters)


def test_newest_frames_only_go_to_a_single_segmenter() -> None:
    for segmenters in ((), (MeanSegmenter(), MeanSegmenter())):
        with pytest.raises(ConfigError, match=f"newest frames for {len(segmenters)} segmenters"):
            Pipeline(frames(1), *segmenters, delivery=Delivery.NEWEST)


def test_packets_of_other_streams_pass_in_their_place() -> None:
    packets = [StreamPacket(packet=av.Packet(b"sound")) for _ in range(3)]
    source = [packets[0], grey_frame(0), packets[1], packets[2], grey_frame(1)]
    with Pipeline(source, MeanSegmenter()) as pipeline:
        out = [item.frame.index if isinstance(item, Segmented) else item for item in pipeline]
    assert out == [packets[0], 0, packets[1], packets[2], 1]


def test_the_inference_thread_opens_and_closes_the_segmenter() -> None:
    segmenter = MeanSegmenter()
    with Pipeline(frames(3), segmenter) as pipeline:
        assert len(list(pipeline)) == 3
    assert segmenter.opened_in == segmenter.closed_in == ["polypstream-inference"]


def test_a_source_that_raises_ends_all_and_is_raised() -> None:
    error = SourceError("the cable was pulled")
    with pytest.raises(SourceError) as caught, Pipeline(frames(5, then=error), MeanSegmenter()) as pipeline:
        list(pipeline)
    assert caught.value is error
    assert "frames" in [entry.name for entry in caught.traceback]


def test_a_network_that_raises_ends_all_and_is_raised_even_from_an_endless_source() -> None:
    segmenter = MeanSegmenter(fail_at=7)
    with (
        pytest.raises(BackendError, match="the network broke"),
        Pipeline(map(grey_frame, count()), segmenter) as pipeline,
    ):
        list(pipeline)
    assert segmenter.calls == 7
    assert segmenter.closed_in == ["polypstream-inference"]


def test_a_segmenter_that_cannot_open_is_raised() -> None:
    class Broken(MeanSegmenter):
        def __enter__(self) -> "MeanSegmenter":
            raise BackendError("no device")

    with pytest.raises(BackendError, match="no device"), Pipeline(map(grey_frame, count()), Broken()) as pipeline:
        list(pipeline)


@pytest.mark.parametrize("error", [ValueError("the sink is closed"), KeyboardInterrupt()])
def test_the_callers_error_ends_the_threads_and_stays_the_one_raised(error: BaseException) -> None:
    segmenter = MeanSegmenter()

    def use() -> None:
        with Pipeline(map(grey_frame, count()), segmenter) as pipeline:
            for item in pipeline:
                if isinstance(item, Segmented) and item.frame.index == 10:
                    raise error

    with pytest.raises(type(error)) as caught:
        use()
    assert caught.value is error
    assert segmenter.closed_in == ["polypstream-inference"]


def test_leaving_early_with_full_queues_ends_the_threads() -> None:
    segmenter = MeanSegmenter()
    with Pipeline(map(grey_frame, count()), segmenter, capacity=1):
        while segmenter.calls < 2:  # both hand-overs fill while nobody takes anything
            pass
    assert segmenter.closed_in == ["polypstream-inference"]


def test_an_error_not_reached_by_iteration_is_raised_on_leaving() -> None:
    failed = threading.Event()

    def source() -> Iterator[Frame]:
        failed.set()
        raise SourceError("gone")
        yield

    with pytest.raises(SourceError, match="gone"), Pipeline(source(), MeanSegmenter()):
        failed.wait()


def test_newest_drops_what_a_slow_network_cannot_take_and_counts_it() -> None:
    released = threading.Event()

    class Waiting(MeanSegmenter):
        def segment(self, rgb: Rgb) -> Probability:
            released.wait()
            return super().segment(rgb)

    def source() -> Iterator[Frame]:
        yield from frames(50)
        released.set()

    with Pipeline(source(), Waiting(), delivery=Delivery.NEWEST, capacity=1) as pipeline:
        indices = [item.frame.index for item in pipeline if isinstance(item, Segmented)]
    assert indices[-1] == 49
    assert indices == sorted(set(indices))
    assert pipeline.dropped == 50 - len(indices) > 0
