"""Hysteresis over time at any inference rate, and one identity per polyp."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.arrays import Contour
from polypstream.contract import OperatingPoint
from polypstream.errors import ConfigError
from polypstream.realtime.live.alarm import (
    REMEMBER_S,
    Alarm,
    AlarmEvent,
    Change,
    Detection,
)
from polypstream.realtime.live.motion import Propagated, Stillness

POINT = OperatingPoint(name="test", threshold=0.5, appear_ms=200, vanish_ms=300)
stay = Stillness().propagate


def lost(contour: Contour) -> Propagated:
    return Propagated(contour=contour, trust=0.0)


def detection(x: float = 0.3, y: float = 0.3, *, half: float = 0.08) -> Detection:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half + (x, y)
    return Detection(contour=corners.astype(np.float32), score=0.9)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, bool]]:
    """Times of inferences at 1 to 60 per second, unevenly spaced, and whether each detected the polyp."""
    steps = draw(st.lists(st.floats(1 / 60, 1.0), min_size=1, max_size=60))
    times = np.cumsum(steps).tolist()
    return [(at_s, draw(st.booleans())) for at_s in times]


def played(history: list[tuple[float, bool]], point: OperatingPoint) -> tuple[list[AlarmEvent], list[bool]]:
    """All events, and the inferences after which the polyp was present."""
    alarm, events, shown = Alarm(), [], []
    for at_s, is_found in history:
        events += alarm.update(at_s, [detection()] if is_found else [], stay, point)
        shown.append(bool(alarm.present))
    return events, shown


@given(history=histories(), appear_ms=st.floats(0, 1000), vanish_ms=st.floats(0, 1000))
def test_it_never_appears_early_nor_stays_late(
    history: list[tuple[float, bool]], appear_ms: float, vanish_ms: float
) -> None:
    point = OperatingPoint(name="any", threshold=0.5, appear_ms=appear_ms, vanish_ms=vanish_ms)
    events, shown = played(history, point)
    found_at = [at_s for at_s, is_found in history if is_found]
    for event in events:
        if event.change is Change.APPEARED:
            assert event.at_s - found_at[0] >= appear_ms / 1000 - 1e-6
            assert event.at_s in found_at
            assert event.duration_s * 1000 >= appear_ms - 1e-3
    for (at_s, is_found), is_shown in zip(history, shown, strict=True):
        if is_shown and not is_found:
            assert at_s - max(time for time in found_at if time < at_s) < vanish_ms / 1000


@given(history=histories())
def test_appearing_and_vanishing_take_turns_and_identities_count_up(history: list[tuple[float, bool]]) -> None:
    events, _ = played(history, POINT)
    assert [event.change for event in events[::2]] == [Change.APPEARED] * len(events[::2])
    assert [event.change for event in events[1::2]] == [Change.VANISHED] * len(events[1::2])
    assert [event.identity for event in events] == [1 + number // 2 for number in range(len(events))]
    assert all(before.at_s <= after.at_s for before, after in pairwise(events))


@pytest.mark.parametrize("per_second", [1, 3, 10, 25, 60])
def test_lasting_evidence_becomes_an_alarm_at_any_rate(per_second: int) -> None:
    events, _ = played([(number / per_second, True) for number in range(2 * per_second + 2)], POINT)
    assert [event.change for event in events] == [Change.APPEARED]
    assert events[0].at_s <= 0.2 + 1 / per_second + 1e-6


def test_a_flicker_shorter_than_the_wait_is_never_shown() -> None:
    history = [(number / 25, number % 25 < 5) for number in range(250)]
    assert played(history, POINT)[0] == []


def test_one_identity_through_gaps_shorter_than_the_wait() -> None:
    history = [(number / 25, number % 12 < 7 or number < 25) for number in range(250)]
    events, _ = played(history, POINT)
    assert [(event.change, event.identity) for event in events] == [(Change.APPEARED, 1)]


def test_two_polyps_keep_their_identities_while_they_cross_the_image() -> None:
    alarm = Alarm()
    point = OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=300)
    for number in range(20):
        step = 0.02 * number
        alarm.update(
            number / 25, [detection(0.2 + step, 0.3), detection(0.8 - step, 0.7)][:: (-1) ** number], stay, point
        )
        where = {track.identity: track.contour.mean(axis=0) for track in alarm.present}
        if number == 0:
            first = {identity: center[1] for identity, center in where.items()}
        assert {identity: center[1] for identity, center in where.items()} == pytest.approx(first)


def test_association_goes_by_where_the_tissue_is_now() -> None:
    def propagate(contour: Contour) -> Propagated:
        return Propagated(contour=contour + np.float32(0.3), trust=1.0)

    alarm, point = Alarm(), OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=0)
    alarm.update(0.0, [detection(0.3, 0.3)], stay, point)
    assert alarm.update(0.04, [detection(0.6, 0.6)], propagate, point) == []
    assert [track.identity for track in alarm.present] == [1]


def test_it_is_lost_immediately_where_its_tissue_is_and_nothing_is_found() -> None:
    alarm, point = Alarm(), OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=5000)
    alarm.update(0.0, [detection()], stay, point)
    assert alarm.update(0.04, [], lost, point) == []
    assert not alarm.present
    (event,) = alarm.expire(REMEMBER_S + 0.1)
    assert (event.change, event.at_s, event.duration_s) == (Change.VANISHED, 0.0, 0.0)


def test_a_polyp_found_again_soon_is_the_same_one_without_another_alarm() -> None:
    alarm = Alarm()
    for number in range(10):
        alarm.update(number / 25, [detection(0.2, 0.2)], stay, POINT)
    assert alarm.update(0.4, [], lost, POINT) == []
    assert not alarm.present
    assert alarm.update(0.36 + REMEMBER_S - 0.1, [detection(0.7, 0.6)], stay, POINT) == []
    assert [track.identity for track in alarm.present] == [1]
    (vanished,) = alarm.clear()
    assert vanished.duration_s == pytest.approx(0.36 + REMEMBER_S - 0.1 - 0.2)


def test_a_polyp_found_much_later_is_another_one_that_has_to_last() -> None:
    alarm = Alarm()
    for number in range(10):
        alarm.update(number / 25, [detection()], stay, POINT)
    again_s = 0.36 + REMEMBER_S + 0.1
    (vanished,) = alarm.update(again_s, [detection()], lost, POINT)
    assert (vanished.change, vanished.identity, vanished.at_s) == (Change.VANISHED, 1, 0.36)
    assert not alarm.present
    changes = [
        event for number in range(1, 10) for event in alarm.update(again_s + number / 25, [detection()], stay, POINT)
    ]
    assert [(event.change, event.identity) for event in changes] == [(Change.APPEARED, 2)]


def test_two_polyps_lost_together_are_both_found_again() -> None:
    alarm, both = Alarm(), [detection(0.2, 0.2), detection(0.8, 0.8)]
    for number in range(10):
        alarm.update(number / 25, both, stay, POINT)
    alarm.update(0.4, [], lost, POINT)
    assert alarm.update(0.8, both, stay, POINT) == []
    assert sorted(track.identity or 0 for track in alarm.present) == [1, 2]


def test_a_lost_polyp_detected_elsewhere_before_the_loss_keeps_its_identity_despite_a_stray_region() -> None:
    alarm, polyp, stray = Alarm(), detection(0.6, 0.6), detection(0.1, 0.9, half=0.04)
    for number in range(10):
        alarm.update(number / 25, [detection(0.2, 0.2)], stay, POINT)
    assert alarm.update(0.40, [polyp], stay, POINT) == []
    assert alarm.update(0.44, [polyp], lost, POINT) == []
    assert alarm.update(0.48, [stray, polyp], stay, POINT) == []
    (track,) = alarm.present
    assert track.identity == 1
    np.testing.assert_array_equal(track.contour, polyp.contour)


def test_of_two_regions_that_appear_at_once_the_larger_is_the_lost_polyp() -> None:
    alarm, stray = Alarm(), detection(0.2, 0.3, half=0.04)
    for number in range(10):
        alarm.update(number / 25, [detection(0.2, 0.2)], stay, POINT)
    alarm.update(0.40, [], lost, POINT)
    alarm.update(0.44, [stray, detection(0.6, 0.6)], stay, POINT)
    (track,) = alarm.present
    assert track.contour.mean() == pytest.approx(0.6)


def test_a_region_detected_beside_a_polyp_is_not_that_polyp_once_it_is_lost() -> None:
    alarm, other = Alarm(), detection(0.6, 0.6)
    for number in range(10):
        alarm.update(number / 25, [detection(0.2, 0.2), *([other] if number > 7 else [])], stay, POINT)
    alarm.update(0.40, [other], lambda contour: lost(contour) if contour[0, 0] < 0.3 else stay(contour), POINT)
    assert not alarm.present


def test_a_blurred_frame_confirms_what_is_present_and_starts_or_ends_nothing() -> None:
    alarm, point = Alarm(), OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=300)
    assert not alarm.confirm(0.0, [detection()], stay)
    assert not alarm.present
    alarm.update(0.04, [detection()], stay, point)
    assert alarm.confirm(0.08, [detection(), detection(0.8, 0.8)], stay)
    (track,) = alarm.present
    assert (track.seen_s, track.is_seen_blurred, track.missed_s) == (0.08, True, None)
    assert not alarm.confirm(0.12, [], stay)
    (track,) = alarm.present
    assert (track.seen_s, track.missed_s) == (0.08, 0.12)


def test_a_new_operating_point_holds_from_the_next_inference_on() -> None:
    alarm = Alarm()
    patient = OperatingPoint(name="patient", threshold=0.5, appear_ms=5000, vanish_ms=300)
    for number in range(10):
        assert alarm.update(number / 25, [detection()], stay, patient) == []
    assert [event.change for event in alarm.update(0.4, [detection()], stay, POINT)] == [Change.APPEARED]


def test_it_ends_when_nothing_is_inferred_any_more() -> None:
    alarm, point = Alarm(), OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=300)
    alarm.update(0.0, [detection()], stay, point)
    assert alarm.expire(REMEMBER_S - 0.1) == []
    assert [event.change for event in alarm.expire(REMEMBER_S + 0.1)] == [Change.VANISHED]
    assert alarm.expire(REMEMBER_S + 0.2) == []


def test_frames_out_of_order_are_refused_until_the_alarm_is_cleared() -> None:
    alarm = Alarm()
    alarm.update(1.0, [], stay, POINT)
    with pytest.raises(ConfigError, match="order"):
        alarm.update(0.9, [], stay, POINT)
    alarm.clear()
    alarm.update(0.5, [], stay, POINT)


def test_a_repeated_time_is_not_a_time_and_drops_nothing() -> None:
    alarm, point = Alarm(), OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=0)
    alarm.update(1.0, [detection()], stay, point)
    assert alarm.update(1.0, [detection()], stay, point) == []
    assert [track.identity for track in alarm.present] == [1]
    assert alarm.update(1.0, [], stay, point) == []
    assert not alarm.present
