"""`Handover` and `Stages`: order, limits, and that every wait ends."""

from collections.abc import Callable
from threading import Thread
from time import sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.errors import ConfigError
from polypstream.threads import Delivery, Handover, HandoverClosed

PATIENCE_S = 10.0


def in_thread(work: Callable[[], object]) -> Thread:
    thread = Thread(target=work)
    thread.start()
    return thread


def ends(thread: Thread) -> bool:
    thread.join(PATIENCE_S)
    return not thread.is_alive()


@given(items=st.lists(st.integers(), max_size=50), capacity=st.integers(1, 5))
def test_lossless_delivers_everything_in_order(items: list[int], capacity: int) -> None:
    handover: Handover[int] = Handover(capacity=capacity)

    def send() -> None:
        for item in items:
            handover.put(item)
        handover.close()

    sender = in_thread(send)
    assert list(handover) == items
    assert ends(sender)
    assert handover.dropped == 0


@given(items=st.lists(st.integers(), max_size=20), capacity=st.integers(1, 5))
def test_newest_keeps_the_last_items_and_counts_the_others(items: list[int], capacity: int) -> None:
    handover: Handover[int] = Handover(capacity=capacity, delivery=Delivery.NEWEST)
    for item in items:
        handover.put(item)
    handover.close()
    assert list(handover) == items[-capacity:]
    assert handover.dropped == max(0, len(items) - capacity)


def test_close_lets_the_receiver_take_what_is_waiting() -> None:
    handover: Handover[int] = Handover(capacity=3)
    handover.put(1)
    handover.put(2)
    handover.close()
    assert list(handover) == [1, 2]
    with pytest.raises(HandoverClosed):
        handover.get()


def test_put_after_close_is_refused() -> None:
    handover: Handover[int] = Handover(capacity=1)
    handover.close()
    with pytest.raises(HandoverClosed):
        handover.put(1)


@pytest.mark.parametrize("end", [Handover.close, Handover.cancel])
def test_ending_wakes_a_sender_that_waits_for_room(end: Callable[[Handover[int]], None]) -> None:
    handover: Handover[int] = Handover(capacity=1)
    handover.put(1)
    refused: list[bool] = []

    def send() -> None:
        try:
            handover.put(2)
        except HandoverClosed:
            refused.append(True)

    sender = in_thread(send)
    sleep(0.05)
    assert sender.is_alive()
    end(handover)
    assert ends(sender)
    assert refused == [True]


@pytest.mark.parametrize("end", [Handover.close, Handover.cancel])
def test_ending_wakes_a_receiver_that_waits_for_an_item(end: Callable[[Handover[int]], None]) -> None:
    handover: Handover[int] = Handover(capacity=1)
    receiver = in_thread(lambda: list(handover))
    sleep(0.05)
    assert receiver.is_alive()
    end(handover)
    assert ends(receiver)


def test_cancel_throws_away_what_is_waiting() -> None:
    handover: Handover[int] = Handover(capacity=3)
    handover.put(1)
    handover.cancel()
    assert list(handover) == []


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="capacity of at least 1"):
        Handover(capacity=0)


def test_waiting_for_an_item_ends_after_the_time_given_and_loses_nothing() -> None:
    handover: Handover[int] = Handover(capacity=1)
    with pytest.raises(TimeoutError, match=r"0\.01 s"):
        handover.get(timeout_s=0.01)
    handover.put(7)
    assert handover.get(timeout_s=60) == 7
    handover.close()
    with pytest.raises(HandoverClosed):
        handover.get(timeout_s=60)
