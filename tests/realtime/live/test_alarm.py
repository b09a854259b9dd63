"""Hysteresis over time at any rate of judgement, and one identity for one polyp."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.errors import ConfigError
from polypstream.realtime.live.alarm import (
    OPERATING_POINTS,
    STALE_S,
    Alarm,
    AlarmEvent,
    Change,
    Finding,
    OperatingPoint,
)
from polypstream.realtime.live.motion import Carried, Contour, Stillness

POINT = OperatingPoint(name="test", threshold=0.5, appear_ms=200, vanish_ms=300)
stay = Stillness().carry


def lost(contour: Contour) -> Carried:
    return Carried(contour=contour, trust=0.0)


def finding(x: float = 0.3, y: float = 0.3, *, half: float = 0.08) -> Finding:
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half + (x, y)
    return Finding(contour=corners.astype(np.float32), mean_probability=0.9)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[float, bool]]:
    """Times of judgements, 1 to 60 a second and uneven, and whether each found the polyp."""
    steps = draw(st.lists(st.floats(1 / 60, 1.0), min_size=1, max_size=60))
    times = np.cumsum(steps).tolist()
    return [(at_s, draw(st.booleans())) for at_s in times]


def played(history: list[tuple[float, bool]], point: OperatingPoint) -> tuple[list[AlarmEvent], list[bool]]:
    """All events, and after which judgements the polyp was shown."""
    alarm, events, shown = Alarm(), [], []
    for at_s, is_found in history:
        events += alarm.update(at_s, [finding()] if is_found else [], stay, point)
        shown.append(bool(alarm.shown))
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


def test_two_polyps_keep_their_identities_while_they_cross_the_picture() -> None:
    alarm = Alarm()
    point = OperatingPoint(name="at once", threshold=0.5, appear_ms=0, vanish_ms=300)
    for number in range(20):
        step = 0.02 * number
        alarm.update(number / 25, [finding(0.2 + step, 0.3), finding(0.8 - step, 0.7)][:: (-1) ** number], stay, point)
        where = {track.identity: track.contour.mean(axis=0) for track in alarm.shown}
        if number == 0:
            first = {identity: centre[1] for identity, centre in where.items()}
        assert {identity: centre[1] for identity, centre in where.items()} == pytest.approx(first)


def test_association_goes_by_where_the_tissue_is_now() -> None:
    def carry(contour: Contour) -> Carried:
        return Carried(contour=contour + np.float32(0.3), trust=1.0)

    alarm, point = Alarm(), OperatingPoint(name="at once", threshold=0.5, appear_ms=0, vanish_ms=0)
    alarm.update(0.0, [finding(0.3, 0.3)], stay, point)
    assert alarm.update(0.04, [finding(0.6, 0.6)], carry, point) == []
    assert [track.identity for track in alarm.shown] == [1]


def test_it_ends_at_once_where_its_tissue_is_lost_and_nothing_is_found() -> None:
    alarm, point = Alarm(), OperatingPoint(name="at once", threshold=0.5, appear_ms=0, vanish_ms=5000)
    alarm.update(0.0, [finding()], stay, point)
    (event,) = alarm.update(0.04, [], lost, point)
    assert (event.change, event.duration_s) == (Change.VANISHED, pytest.approx(0.04))
    assert not alarm.shown


def test_a_new_operating_point_holds_from_the_next_judgement_on() -> None:
    alarm = Alarm()
    patient = OperatingPoint(name="patient", threshold=0.5, appear_ms=5000, vanish_ms=300)
    for number in range(10):
        assert alarm.update(number / 25, [finding()], stay, patient) == []
    assert [event.change for event in alarm.update(0.4, [finding()], stay, POINT)] == [Change.APPEARED]


def test_it_ends_when_nothing_is_judged_any_more() -> None:
    alarm, point = Alarm(), OperatingPoint(name="at once", threshold=0.5, appear_ms=0, vanish_ms=300)
    alarm.update(0.0, [finding()], stay, point)
    assert alarm.expire(STALE_S - 0.1) == []
    assert [event.change for event in alarm.expire(STALE_S + 0.1)] == [Change.VANISHED]
    assert alarm.expire(STALE_S + 0.2) == []


def test_judgements_out_of_order_are_refused() -> None:
    alarm = Alarm()
    alarm.update(1.0, [], stay, POINT)
    with pytest.raises(ConfigError, match="order"):
        alarm.update(0.9, [], stay, POINT)


@pytest.mark.parametrize(
    "wrong", [{"threshold": 0.0}, {"threshold": 1.0}, {"min_area_share": -0.1}, {"appear_ms": -1}, {"vanish_ms": 1e9}]
)
def test_an_impossible_operating_point_is_refused(wrong: dict[str, float]) -> None:
    right = {"threshold": 0.5, "min_area_share": 0.001, "appear_ms": 100, "vanish_ms": 100}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OperatingPoint(name="wrong", **(right | wrong))


def test_the_specific_point_is_stricter_than_the_sensitive_one() -> None:
    sensitive, specific = OPERATING_POINTS["sensitive"], OPERATING_POINTS["specific"]
    assert sensitive.threshold < specific.threshold
    assert sensitive.appear_ms < specific.appear_ms
    assert sensitive.min_area_share <= specific.min_area_share
