from threading import Thread
from time import monotonic

import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.viewers.viewer import Action, Command, Commands, HeadlessViewer, SetThreshold
from tests.realtime.live.shown_frames import STATISTICS, shown


def test_commands_are_taken_in_the_order_in_which_they_were_sent() -> None:
    commands = Commands()
    commands.send(Action.SNAPSHOT)
    commands.send(SetThreshold(value=0.4))
    assert commands.waiting() == [Action.SNAPSHOT, SetThreshold(value=0.4)]
    assert commands.waiting() == []


def test_iterating_over_commands_waits_for_them_and_ends_when_they_are_closed() -> None:
    commands = Commands()
    taken: list[Command] = []
    thread = Thread(target=lambda: taken.extend(commands))
    thread.start()
    commands.send(Action.QUIT)
    commands.close()
    thread.join(timeout=5)
    assert not thread.is_alive()
    assert taken == [Action.QUIT]


def test_commands_nobody_takes_do_not_pile_up_and_never_hold_up_a_viewer() -> None:
    commands = Commands()
    started = monotonic()
    for _ in range(10 * Commands.CAPACITY):
        commands.send(Action.THRESHOLD_UP)
    assert monotonic() - started < 1
    assert len(commands.waiting()) == Commands.CAPACITY


def test_commands_sent_after_the_end_go_nowhere() -> None:
    commands = Commands()
    commands.close()
    commands.send(Action.SNAPSHOT)
    assert commands.waiting() == []


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_invalid_threshold_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        SetThreshold(value=value)


def test_the_unseen_viewer_counts() -> None:
    viewer = HeadlessViewer()
    viewer.show(shown(0), STATISTICS)
    viewer.show(shown(1, polyps=[]), STATISTICS)
    assert (viewer.frames, viewer.frames_with_markers) == (2, 1)
    viewer.tell(Status(light=Light.LOST, reason="no signal"), STATISTICS)
    assert viewer.status == Status(light=Light.LOST, reason="no signal")
    viewer.close()
