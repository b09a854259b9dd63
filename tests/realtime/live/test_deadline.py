"""The network's number of threads follows the delays, and frames have precedence over markers."""

import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.errors import ConfigError
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.live import deadline
from polypstream.realtime.live.deadline import (
    LONGEST_PAUSE_S,
    SETTLE_S,
    SHORTEST_PAUSE_S,
    AdaptiveSegmenter,
    ThreadControl,
    within_deadline,
)
from polypstream.realtime.live.display_frame import DisplayFrame
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.statistics import Delay
from tests.models import SIZE, write_green_finder
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource

FAST, SLOW = Delay(p50_ms=30, p99_ms=60), Delay(p50_ms=90, p99_ms=150)
SMOOTH, STUTTERING = Delay(p50_ms=1, p99_ms=3), Delay(p50_ms=3, p99_ms=9)


def observed(control: ThreadControl, marker: Delay, video: Delay, *, seconds: range) -> list[int]:
    """The number of threads after each second."""
    threads = []
    for at_s in seconds:
        control.observe(marker=marker, video=video, at_s=float(at_s))
        threads.append(control.threads)
    return threads


def test_late_markers_get_one_thread_more_at_a_time_and_never_more_than_there_are_cores() -> None:
    control = ThreadControl(threads=1, most=3)
    threads = observed(control, SLOW, SMOOTH, seconds=range(40))
    assert threads[: int(SETTLE_S)] == [1] * int(SETTLE_S)
    assert sorted(set(threads)) == [1, 2, 3]
    assert min(np.diff([threads.index(count) for count in (1, 2, 3)])) >= SETTLE_S
    assert control.is_late


def test_markers_in_time_change_nothing() -> None:
    control = ThreadControl(threads=1, most=4)
    assert set(observed(control, FAST, SMOOTH, seconds=range(60))) == {1}
    assert not control.is_late


def test_a_single_disturbance_changes_nothing() -> None:
    control = ThreadControl(threads=1, most=4)
    for at_s in range(120):
        disturbed = at_s % 20 in range(10, 15)  # one late marker stays in the window for its length
        control.observe(marker=SLOW if disturbed else FAST, video=SMOOTH, at_s=float(at_s))
    assert control.threads == 1
    assert not control.is_late


def test_markers_around_the_deadline_are_called_late_once(tmp_path: Path) -> None:
    control, notices = ThreadControl(threads=1, most=1), list[str]()
    path = write_green_finder(tmp_path / "m.onnx")
    segmenter = segmenter_from_onnx(path, backend="onnxruntime", threads=1)
    adaptive = AdaptiveSegmenter(segmenter, lambda _: segmenter, control, on_notice=notices.append)
    for at_s in range(100):
        adaptive.adapt(marker=Delay(p50_ms=80, p99_ms=115 + 10 * (at_s % 2)), video=SMOOTH, at_s=float(at_s))
    assert adaptive.is_late
    assert notices == [
        "99% of the markers are displayed within 125 ms instead of 120 ms: this machine is too slow for the model"
    ]
    adaptive.adapt(marker=FAST, video=SMOOTH, at_s=100.0)
    assert not adaptive.is_late


def test_threads_that_delay_the_frames_are_given_back_and_tried_again_ever_more_rarely() -> None:
    control = ThreadControl(threads=1, most=2)
    raised = []
    for at_s in range(30_000):
        before = control.threads
        control.observe(marker=SLOW, video=STUTTERING if before == 2 else SMOOTH, at_s=float(at_s))
        if control.threads > before:
            raised.append(at_s)
    pauses = np.diff(raised)
    assert pauses[0] >= SHORTEST_PAUSE_S
    assert (np.diff(pauses) >= 0).all()
    assert LONGEST_PAUSE_S <= pauses[-1] <= LONGEST_PAUSE_S + 3 * SETTLE_S


@given(
    least=st.integers(1, 4),
    extra=st.integers(0, 6),
    seconds=st.lists(
        st.tuples(st.floats(0.1, 5), st.sampled_from([None, FAST, SLOW]), st.sampled_from([None, SMOOTH, STUTTERING])),
        max_size=80,
    ),
)
def test_threads_stay_within_their_limits_and_change_by_one(
    least: int, extra: int, seconds: list[tuple[float, Delay | None, Delay | None]]
) -> None:
    control, at_s = ThreadControl(threads=least, most=least + extra), 0.0
    for step_s, marker, video in seconds:
        at_s, before = at_s + step_s, control.threads
        has_changed = control.observe(marker=marker, video=video, at_s=at_s)
        assert has_changed == (control.threads != before)
        assert abs(control.threads - before) <= 1
        assert least <= control.threads <= least + extra
        if control.threads > before:
            assert marker is SLOW
            assert video is not STUTTERING or before == least


@pytest.mark.parametrize("deadline_ms", [-1.0, 20_000.0])
def test_a_meaningless_deadline_is_rejected(deadline_ms: float) -> None:
    with pytest.raises(ConfigError, match="the deadline is"):
        ThreadControl(threads=1, most=2, deadline_ms=deadline_ms)


def test_without_a_deadline_and_on_other_backends_the_network_stays_as_it_is(tmp_path: Path) -> None:
    path = write_green_finder(tmp_path / "m.onnx")
    segmenter = segmenter_from_onnx(path, backend="onnxruntime", threads=1)
    assert within_deadline(segmenter, path, deadline_ms=0) is segmenter
    elsewhere = DiscFinder()
    elsewhere.backend = "tensorrt"  # type: ignore[attr-defined]
    assert within_deadline(elsewhere, path, deadline_ms=120) is elsewhere  # type: ignore[arg-type, comparison-overlap]


def adapted(segmenter: AdaptiveSegmenter) -> None:
    """Let it see late markers until it has decided."""
    for at_s in (0.0, SETTLE_S + 1, 2 * SETTLE_S + 1):
        segmenter.adapt(marker=SLOW, video=SMOOTH, at_s=at_s)


def test_the_network_returns_the_same_with_more_threads(tmp_path: Path) -> None:
    path, notices = write_green_finder(tmp_path / "m.onnx"), list[str]()
    opened: list[int] = []

    def again(threads: int) -> Segmenter:
        opened.append(threads)
        return segmenter_from_onnx(path, backend="onnxruntime", threads=threads)

    control = ThreadControl(threads=1, most=2)
    rgb = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    with AdaptiveSegmenter(again(1), again, control, on_notice=notices.append) as segmenter:
        before = segmenter.segment(rgb)
        adapted(segmenter)
        assert opened == [1, 2]
        assert segmenter.threads == 2
        np.testing.assert_array_equal(segmenter.segment(rgb), before)
    assert notices == ["the network now uses 2 threads, to keep the delays"]


def test_a_network_that_cannot_be_opened_again_stays_and_says_so(tmp_path: Path) -> None:
    path, notices = write_green_finder(tmp_path / "m.onnx"), list[str]()

    def failing(threads: int) -> Segmenter:
        raise MemoryError("out of memory")

    first = segmenter_from_onnx(path, backend="onnxruntime", threads=1)
    with AdaptiveSegmenter(first, failing, ThreadControl(threads=1, most=2), on_notice=notices.append) as segmenter:
        adapted(segmenter)
        adapted(segmenter)
        assert segmenter.threads == 1
        assert segmenter.segment(np.zeros((SIZE, SIZE, 3), np.uint8)).shape == (SIZE, SIZE)
    assert notices == ["the network cannot be opened with 2 threads: out of memory; it keeps 1"]


def test_a_network_that_fails_with_more_threads_infers_the_same_frame_with_the_first_ones(tmp_path: Path) -> None:
    path, notices = write_green_finder(tmp_path / "m.onnx"), list[str]()
    broken = SlowFinder(2)
    broken.problem = MemoryError("out of memory")
    first = segmenter_from_onnx(path, backend="onnxruntime", threads=1)
    control = ThreadControl(threads=1, most=2)
    with AdaptiveSegmenter(first, lambda _: broken, control, on_notice=notices.append) as segmenter:
        adapted(segmenter)
        assert segmenter.threads == 2
        assert segmenter.segment(np.zeros((SIZE, SIZE, 3), np.uint8)).shape == (SIZE, SIZE)
        assert segmenter.threads == 1
        adapted(segmenter)
        assert segmenter.threads == 1
    assert notices[1:] == ["the network failed with 2 threads: out of memory; it keeps 1"]


def test_fewer_threads_are_those_of_the_first_network_again(tmp_path: Path) -> None:
    path, opened = write_green_finder(tmp_path / "m.onnx"), list[int]()

    def again(threads: int) -> Segmenter:
        opened.append(threads)
        return segmenter_from_onnx(path, backend="onnxruntime", threads=threads)

    with AdaptiveSegmenter(again(1), again, ThreadControl(threads=1, most=2)) as segmenter:
        adapted(segmenter)
        segmenter.adapt(marker=SLOW, video=STUTTERING, at_s=4 * SETTLE_S)
        assert (segmenter.threads, opened) == (1, [1, 2])


class SlowFinder(DiscFinder):
    """Takes longer than the deadline, until it has a second thread."""

    backend, notices = "onnxruntime", ()

    def __init__(self, threads: int) -> None:
        super().__init__()
        self._takes_s = 0.2 if threads == 1 else 0.0
        self.inferring_thread: int | None = None

    def segment(self, rgb: np.ndarray) -> np.ndarray:
        self.inferring_thread = threading.get_ident()
        threading.Event().wait(self._takes_s)
        return super().segment(rgb)


def test_a_session_whose_markers_are_late_takes_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline, "SETTLE_S", 0.5)
    notices, opened = list[str](), list[SlowFinder]()

    def again(threads: int) -> SlowFinder:
        opened.append(SlowFinder(threads))
        return opened[-1]

    source, control = ScriptedSource(), ThreadControl(threads=1, most=2)
    segmenter = AdaptiveSegmenter(again(1), again, control, on_notice=notices.append)  # type: ignore[arg-type]
    with LivePipeline(source, segmenter, Tracker(TrackerConfig(operating_point=EAGER))) as live:
        items = iter(live)
        assert live.inference_threads == 1

        def has_changed() -> bool:
            source.give()
            while not isinstance(next(items), DisplayFrame):
                pass
            return live.inference_threads == 2 and len(opened) == 2 and opened[1].calls > 0

        wait_until(has_changed, within_s=30)
        source.end()
        list(items)
    assert notices == ["the network now uses 2 threads, to keep the delays"]
    assert opened[0].inferring_thread == opened[1].inferring_thread
