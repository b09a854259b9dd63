"""When viewers draw attention to a polyp, and when they keep quiet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.errors import ConfigError
from polypstream.realtime.live.viewers.alerts import BRIDGED_S, RECENT_S, AlertConfig, Alerts, Chip


def chips(alerts: Alerts, spans: list[tuple[float, float]], *, until_s: float, step_s: float = 0.04) -> list[Chip]:
    """What is shown on each frame while polyps are marked in these spans of seconds."""
    times = [number * step_s for number in range(round(until_s / step_s))]
    return [alerts.update(is_marked=any(start <= at_s < end for start, end in spans), at_s=at_s) for at_s in times]


def test_a_chip_is_shown_while_a_polyp_is_marked_and_then_says_that_it_is_gone() -> None:
    alerts = Alerts()
    shown = chips(alerts, [(1, 2)], until_s=8)
    assert shown[24] is Chip.OFF
    assert shown[25] is Chip.ON
    assert shown[49] is Chip.ON
    assert shown[round((2 + BRIDGED_S + 0.1) / 0.04)] is Chip.RECENT
    assert shown[round((2 + RECENT_S + 0.1) / 0.04)] is Chip.OFF
    assert alerts.raised == 1


def test_nothing_is_bridged_on_frames_that_cannot_be_assessed() -> None:
    alerts = Alerts()
    assert alerts.update(is_marked=True, at_s=0) is Chip.ON
    assert alerts.update(is_marked=False, at_s=0.1) is Chip.ON
    assert alerts.update(is_marked=False, at_s=0.2, is_ready=False) is Chip.RECENT
    assert alerts.update(is_marked=True, at_s=0.25, is_ready=False) is Chip.ON
    assert alerts.raised == 1


def test_one_polyp_that_flickers_raises_one_alert() -> None:
    alerts = Alerts(AlertConfig(rearm_s=5))
    chips(alerts, [(second, second + 0.9) for second in range(31)], until_s=32)
    assert alerts.raised == 1
    chips_after = Alerts(AlertConfig(rearm_s=5))
    chips(chips_after, [(0, 1), (7, 8), (14, 15)], until_s=16)
    assert chips_after.raised == 3


def test_a_polyp_that_is_marked_too_briefly_raises_nothing() -> None:
    alerts = Alerts(AlertConfig(after_s=0.5))
    assert set(chips(alerts, [(1, 1.4)], until_s=3)) == {Chip.OFF}
    assert alerts.raised == 0
    assert Chip.ON in chips(Alerts(AlertConfig(after_s=0.5)), [(1, 1.7)], until_s=3)


def test_after_an_acknowledgment_the_chip_stays_and_nothing_sounds() -> None:
    alerts = Alerts(AlertConfig(rearm_s=1, quiet_s=10))
    assert alerts.update(is_marked=True, at_s=0) is Chip.ON
    alerts.acknowledge(at_s=0)
    for second in range(1, 10):
        assert alerts.update(is_marked=second % 3 == 0, at_s=second) is (Chip.QUIET if second % 3 == 0 else Chip.RECENT)
    assert alerts.raised == 1
    assert alerts.update(is_marked=True, at_s=12) is Chip.ON
    assert alerts.raised == 2


@given(st.lists(st.booleans(), max_size=200), st.floats(0, 3), st.floats(0, 20))
def test_a_chip_is_on_only_shortly_after_a_marker_and_tones_keep_their_distance(
    marked: list[bool], after_s: float, rearm_s: float
) -> None:
    alerts, raised_s, marked_s = Alerts(AlertConfig(after_s=after_s, rearm_s=rearm_s)), list[float](), float("-inf")
    for number, is_marked in enumerate(marked):
        at_s = number * 0.1
        marked_s = at_s if is_marked else marked_s
        before = alerts.raised
        chip = alerts.update(is_marked=is_marked, at_s=at_s)
        assert chip is not Chip.ON or at_s - marked_s <= BRIDGED_S
        if alerts.raised > before:
            assert chip is Chip.ON
            assert not raised_s or at_s - raised_s[-1] >= rearm_s
            raised_s.append(at_s)


@pytest.mark.parametrize("values", [{"after_s": -1}, {"rearm_s": 601}, {"quiet_s": float("nan")}])
def test_impossible_settings_are_rejected(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be between 0"):
        AlertConfig(**values)  # type: ignore[arg-type]
