"""Frames are displayed regardless of the model's state; the light shows what is wrong; everything ends."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from polypstream.arrays import Probability, Rgb, Size
from polypstream.errors import BackendError, SourceError
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.motion import Scene
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.sources.source import ConnectionStatus
from polypstream.realtime.live.tracker import Tracker, TrackerConfig, View
from polypstream.realtime.video.frame import Frame
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource, tissue
from tests.slices import HAS_SLICES, slice_s

LONG_S = 30.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def tracker() -> Tracker:
    return Tracker(TrackerConfig(operating_point=EAGER, fade_ms=10_000))


def next_frame(items: Iterator[DisplayFrame | Status]) -> DisplayFrame:
    return next(item for item in items if isinstance(item, DisplayFrame))


def shown_until(source: ScriptedSource, items: Iterator[DisplayFrame | Status], light: Light) -> DisplayFrame:
    """Provide frames until the light has the expected state."""
    for _ in range(2000):
        source.give()
        shown = next_frame(items)
        if shown.status.light is light:
            return shown
    raise AssertionError(f"the light never was {light}; last it was {shown.status}")


def test_every_frame_is_shown_once_in_order_and_carries_its_markers() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        shown = [shown_until(source, items, Light.READY)]
        for _ in range(30):
            source.give()
            shown.append(next_frame(items))
        source.end()
        assert [item for item in items if isinstance(item, DisplayFrame)] == []
    indices = [item.frame.index for item in shown]
    assert indices == list(range(indices[0], indices[0] + 31))
    assert live.dropped == 0
    (marker,) = shown[-1].markers
    x, y, width, height = marker.polyp.box
    assert (x + width / 2, y + height / 2) == pytest.approx((128, 90), abs=6)
    assert marker.opacity > 0.5


def test_frames_that_the_source_skipped_count_as_dropped() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        source.give()
        next_frame(items)
        source.skipped = 3
        assert live.dropped == 3
        source.end()


@pytest.mark.skipif(not HAS_SLICES, reason="this kernel has no time slices per thread")
def test_threads_that_handle_frames_interrupt_the_network() -> None:
    slices: dict[str, float] = {}

    class Source(ScriptedSource):
        def __iter__(self) -> Iterator[Frame]:
            slices["capture"] = slice_s()
            return super().__iter__()

    class Finder(DiscFinder):
        def segment(self, rgb: Rgb) -> Probability:
            slices["inference"] = slice_s()
            return super().segment(rgb)

    class Watched(Tracker):
        def view(self, *, scene: Scene, at_s: float, size: Size) -> View:
            slices["tracking"] = slice_s()
            return super().view(scene=scene, at_s=at_s, size=size)

    before, source = slice_s(), Source()
    with LivePipeline(source, Finder(), Watched(TrackerConfig(operating_point=EAGER, fade_ms=10_000))) as live:
        items = iter(live)
        shown_until(source, items, Light.READY)
        slices["display"] = slice_s()
        source.end()
        list(items)
    assert slice_s() == before
    assert slices.pop("inference") > before
    assert set(slices) == {"capture", "tracking", "display"}
    assert max(slices.values()) < before


@pytest.mark.realtime  # the light depends on the time since the last inference
def test_reordered_frames_are_inferred_too() -> None:
    class Reordered(ScriptedSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                early = 0.08 * (frame.index % 3 == 0)
                yield replace(frame, captured_at=frame.captured_at - early)

    source = Reordered()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        shown_until(source, items, Light.READY)
        for _ in range(60):
            source.give()
            shown = next_frame(items)
            assert shown.status.light is Light.READY, shown.status
            assert shown.inference_age_s is not None
            assert shown.inference_age_s >= 0
        source.end()
        list(items)


def test_frames_without_visibility_are_displayed_and_not_inferred() -> None:
    source, finder = ScriptedSource(), DiscFinder()
    with LivePipeline(source, finder, tracker()) as live:
        items = iter(live)
        shown_until(source, items, Light.READY)
        source.picture = dark
        shown_until(source, items, Light.UNCERTAIN)
        inferred = finder.calls
        for _ in range(20):
            source.give()
            shown = next_frame(items)
        assert shown.status.reason == "dark image"
        assert shown.markers == ()
        assert finder.calls <= inferred + 1
        assert 0 < live.unusable <= 40
        source.picture = tissue
        shown_until(source, items, Light.READY)
        assert finder.calls > inferred
        source.end()
        list(items)


def dark(index: int) -> av.VideoFrame:
    """A picture in which nothing can be seen."""
    picture = av.VideoFrame.from_ndarray(np.full((192, 256, 3), 3, np.uint8), format="rgb24").reformat(format="yuv420p")
    picture.pts, picture.time_base = index, Fraction(1, 25)
    return picture


def test_a_slow_model_sees_the_newest_frame_and_delays_nothing() -> None:
    source, finder = ScriptedSource(), DiscFinder()
    finder.go_on.clear()
    with LivePipeline(source, finder, tracker()) as live:
        items = iter(live)
        for _ in range(50):
            source.give()
            shown = next_frame(items)
            assert shown.markers == ()
            assert shown.status.light is Light.UNCERTAIN
        assert shown.frame.index == 49
        assert live.not_inferred >= 47
        finder.go_on.set()
        shown_until(source, items, Light.READY)
        source.end()
        list(items)


@pytest.mark.parametrize("problem", [BackendError("no device"), RuntimeError("CUDA error 700"), MemoryError()])
def test_a_failing_model_does_not_stop_the_video_and_recovers(problem: Exception) -> None:
    source, finder = ScriptedSource(), DiscFinder()
    with LivePipeline(source, finder, tracker()) as live:
        items = iter(live)
        shown_until(source, items, Light.READY)
        finder.problem = problem
        lost = shown_until(source, items, Light.LOST)
        assert (str(problem) or "MemoryError") in lost.status.reason
        source.give()
        assert next_frame(items).markers == ()
        finder.problem = None
        assert shown_until(source, items, Light.READY)
        source.end()
        list(items)


def test_an_error_in_optical_flow_is_reported_and_the_video_continues() -> None:
    class Failing(Tracker):
        is_failing = False

        def view(self, *, scene: Scene, at_s: float, size: Size) -> View:
            if self.is_failing:
                raise cv2.error("optical flow failed")
            return super().view(scene=scene, at_s=at_s, size=size)

    source, failing = ScriptedSource(), Failing(TrackerConfig(operating_point=EAGER, fade_ms=10_000))
    with LivePipeline(source, DiscFinder(), failing) as live:
        items = iter(live)
        shown_until(source, items, Light.READY)
        failing.is_failing = True
        lost = shown_until(source, items, Light.LOST)
        assert lost.status.reason == "markers cannot be tracked: optical flow failed"
        assert lost.markers == ()
        failing.is_failing = False
        shown_until(source, items, Light.READY)
        source.end()
        list(items)


def test_frames_that_cannot_be_scaled_for_the_model_are_still_displayed() -> None:
    class Strips(ScriptedSource):
        def __iter__(self) -> Iterator[Frame]:
            for frame in super().__iter__():
                yield replace(frame, picture=av.VideoFrame(64, 48, "bayer_rggb8"))

    source = Strips()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        lost = shown_until(source, items, Light.LOST)
        assert lost.markers == ()
        source.end()
        list(items)


def test_a_model_that_returns_no_numbers_is_never_drawn() -> None:
    source, finder = ScriptedSource(), DiscFinder()
    finder.is_nan = True
    with LivePipeline(source, finder, tracker()) as live:
        items = iter(live)
        lost = shown_until(source, items, Light.LOST)
        for _ in range(20):
            source.give()
            assert next_frame(items).markers == ()
        source.end()
        list(items)
    assert "instead of probabilities" in lost.status.reason


def test_a_model_that_fails_to_start_is_reported_and_the_video_continues() -> None:
    class Absent(DiscFinder):
        def __enter__(self) -> "Absent":
            raise BackendError("no driver; install it")

    source = ScriptedSource()
    with LivePipeline(source, Absent(), tracker()) as live:
        items = iter(live)
        lost = shown_until(source, items, Light.LOST)
        assert "no driver; install it" in lost.status.reason
        source.end()
        list(items)


def test_without_frames_the_caller_gets_the_reason_and_markers_never_come_back_stale() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        first = next(items)
        assert isinstance(first, Status)
        assert first.light is Light.LOST
        shown_until(source, items, Light.READY)
        source.lose("no video for 2 s")
        reported = next(items)
        while isinstance(reported, DisplayFrame):
            reported = next(items)
        assert reported == Status(light=Light.LOST, reason="no video for 2 s")
        source.end()
        assert source.state.status is ConnectionStatus.ENDED
        list(items)


def test_a_caller_that_leaves_early_ends_every_thread() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        source.give(3)
        next_frame(iter(live))


def test_an_error_of_the_caller_takes_precedence() -> None:
    source, finder = ScriptedSource(), DiscFinder()

    def callers_own() -> None:
        with LivePipeline(source, finder, tracker()) as live:
            source.give(1)
            next_frame(iter(live))
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        callers_own()


def test_an_error_of_the_source_is_raised_where_it_is_shown() -> None:
    class Broken(ScriptedSource):
        def __iter__(self) -> Iterator[object]:  # type: ignore[override]
            yield from ()
            raise SourceError("no such device; plug it in")

    with pytest.raises(SourceError, match="plug it in"), LivePipeline(Broken(), DiscFinder(), tracker()) as live:
        list(live)


def test_close_from_another_thread_ends_a_silent_session() -> None:
    with LivePipeline(ScriptedSource(), DiscFinder(), tracker()) as live:
        closer = threading.Timer(0.05, live.close)
        closer.start()
        assert all(isinstance(item, Status) for item in live)
        closer.join()
