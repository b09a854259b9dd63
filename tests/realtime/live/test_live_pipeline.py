"""The picture runs whenever there is one, whatever the model does; the light says what is wrong; everything ends."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from polypstream.errors import BackendError, SourceError
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.feed import Line
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource

LONG_S = 30.0


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def tracker() -> Tracker:
    return Tracker(TrackerConfig(operating_point=EAGER, fade_ms=10_000))


def next_frame(items: Iterator[LiveFrame | Status]) -> LiveFrame:
    return next(item for item in items if isinstance(item, LiveFrame))


def shown_until(source: ScriptedSource, items: Iterator[LiveFrame | Status], light: Light) -> LiveFrame:
    """Give frame after frame until the light is as wanted."""
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
        assert [item for item in items if isinstance(item, LiveFrame)] == []
    indices = [item.frame.index for item in shown]
    assert indices == list(range(indices[0], indices[0] + 31))
    assert live.dropped == 0
    (marker,) = shown[-1].markers
    x, y, width, height = marker.polyp.box
    assert (x + width / 2, y + height / 2) == pytest.approx((128, 90), abs=6)
    assert marker.opacity > 0.5


def test_frames_that_arrive_in_another_order_than_they_are_shown_are_judged_all_the_same() -> None:
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
            assert shown.evidence_age_s is not None
            assert shown.evidence_age_s >= 0
        source.end()
        list(items)


def test_a_slow_model_sees_the_newest_frame_and_holds_nothing_up() -> None:
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
        assert live.not_judged >= 47
        finder.go_on.set()
        shown_until(source, items, Light.READY)
        source.end()
        list(items)


@pytest.mark.parametrize("problem", [BackendError("no device"), RuntimeError("CUDA error 700"), MemoryError()])
def test_a_failing_model_leaves_the_picture_running_and_recovers(problem: Exception) -> None:
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


def test_a_model_that_answers_with_no_numbers_is_never_drawn() -> None:
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
    assert "where probabilities belong" in lost.status.reason


def test_a_model_that_does_not_start_is_told_and_the_picture_runs() -> None:
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


def test_without_a_picture_the_caller_is_told_why_and_markers_never_come_back_stale() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        items = iter(live)
        first = next(items)
        assert isinstance(first, Status)
        assert first.light is Light.LOST
        shown_until(source, items, Light.READY)
        source.lose("no picture for 2 s")
        told = next(items)
        while isinstance(told, LiveFrame):
            told = next(items)
        assert told == Status(light=Light.LOST, reason="no picture for 2 s")
        source.end()
        assert source.state.line is Line.ENDED
        list(items)


def test_a_caller_that_leaves_early_ends_every_thread() -> None:
    source = ScriptedSource()
    with LivePipeline(source, DiscFinder(), tracker()) as live:
        source.give(3)
        next_frame(iter(live))


def test_a_callers_own_error_is_the_one_that_counts() -> None:
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
