"""The clock classes: increasing times, equal shifts for all streams, wraps and jumps at any position."""

import io
from fractions import Fraction
from itertools import pairwise
from typing import Any

import av
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from polypstream.realtime.video.timelines import PacketClock
from polypstream.realtime.video.timestamps import CopyClock

TICKS = 90_000
WRAP = 2**33
FRAME, SOUND = 3600, 2160
"""Ticks of a video frame and of an audio packet."""
OPEN = av.open(io.BytesIO(), "w", format="mpegts")
VIDEO = OPEN.add_stream("mpeg2video", rate=25)
AUDIO = OPEN.add_stream("mp2", rate=48_000)


def packet(stream: Any, dts: int, pts: int, duration: int) -> Any:
    made = av.Packet(b"x")
    made.stream = stream
    made.time_base, made.duration, made.dts, made.pts = Fraction(1, TICKS), duration, dts, pts
    return made


def recording(seconds: float, start: int, delay: int) -> list[Any]:
    """A recording's packets in muxing order, with times from `start`; every third frame refers to a later one."""
    packets = []
    for index in range(round(seconds * TICKS / FRAME)):
        ahead = 2 * FRAME if index % 3 == 0 else 0
        packets.append(packet(VIDEO, start + index * FRAME, start + index * FRAME + delay + ahead, FRAME))
    for index in range(round(seconds * TICKS / SOUND)):
        at = start + delay + index * SOUND
        packets.append(packet(AUDIO, at, at, SOUND))
    return sorted(packets, key=lambda made: made.dts)


def wrapped(packets: list[Any]) -> list[Any]:
    for made in packets:
        made.dts, made.pts = made.dts % WRAP, made.pts % WRAP
    return packets


def times(packets: list[Any]) -> list[tuple[int, int, int]]:
    return [(made.stream_index, made.dts, made.pts) for made in packets]


def fixed(packets: list[Any]) -> tuple[list[tuple[int, int, int]], PacketClock]:
    clock = PacketClock("mpegts", reference=VIDEO.index)
    return times([ready for made in packets for ready in clock.fix(made)] + clock.flush()), clock


def by_stream(got: list[tuple[int, int, int]]) -> dict[int, list[tuple[int, int]]]:
    return {index: [(dts, pts) for i, dts, pts in got if i == index] for index in (VIDEO.index, AUDIO.index)}


@settings(max_examples=60, deadline=None)
@given(start=st.integers(0, WRAP - 1) | st.integers(WRAP - 4 * TICKS, WRAP - 1), delay=st.integers(0, 4 * FRAME))
def test_a_wrap_anywhere_changes_nothing_but_the_origin(start: int, delay: int) -> None:
    got, clock = fixed(wrapped(recording(3, start, delay)))
    expected = times(recording(3, start, delay))
    moved = got[0][1] - expected[0][1]
    assert by_stream(got) == by_stream([(index, dts + moved, pts + moved) for index, dts, pts in expected])
    assert clock.notices() == []


@settings(max_examples=60, deadline=None)
@given(
    starts=st.lists(st.integers(0, WRAP - 1) | st.sampled_from([0, 126_000]), min_size=2, max_size=4),
    seconds=st.lists(st.sampled_from([0.48, 1, 2]), min_size=4, max_size=4),
)
def test_appended_recordings_increase_and_keep_their_sound_in_sync(starts: list[int], seconds: list[float]) -> None:
    parts = [wrapped(recording(seconds[i], start, 2 * FRAME)) for i, start in enumerate(starts)]
    originals = [times(part) for part in parts]
    for (start, length), following in zip(zip(starts, seconds, strict=False), starts[1:], strict=False):
        leap_s = (following - start) / TICKS - length
        assume(not -0.5 < leap_s < 0)  # cannot be distinguished from slightly wrong timestamps
        assume(not 59 < leap_s < 61)  # about where a gap is taken for a jump
    got, _ = fixed([made for part in parts for made in part])
    video, audio = by_stream(got)[VIDEO.index], by_stream(got)[AUDIO.index]
    assert len(got) == sum(map(len, parts))
    assert all(before[0] < after[0] for before, after in pairwise(video))
    assert all(before[0] < after[0] for before, after in pairwise(audio))
    done = {VIDEO.index: 0, AUDIO.index: 0}
    for original in originals:
        shifts = set()
        for index, placed in ((VIDEO.index, video), (AUDIO.index, audio)):
            packets = [(dts, pts) for i, dts, pts in original if i == index]
            for dts, pts in packets:
                new_dts, new_pts = placed[done[index]]
                done[index] += 1
                shifts |= {(new_dts - dts) % WRAP, (new_pts - pts) % WRAP}
        assert len(shifts) == 1


@settings(max_examples=60, deadline=None)
@given(
    at=st.integers(5, 60),
    wrong=st.integers(0, WRAP - 1),
    start=st.integers(TICKS, WRAP // 2),
)
def test_one_packet_with_a_wrong_time_moves_no_other(at: int, wrong: int, start: int) -> None:
    packets = recording(3, start, 0)
    expected = by_stream(times(recording(3, start, 0)))
    broken = packets[at]
    index, order = broken.stream_index, sum(made.stream_index == broken.stream_index for made in packets[:at])
    if abs(wrong - broken.dts) < 2 * TICKS:  # as good as right
        return
    broken.dts = broken.pts = wrong
    got = by_stream(fixed(packets)[0])
    for stream in expected:
        if stream == index and -60 * TICKS <= broken.dts - expected[index][order][0] <= 60 * TICKS:
            return  # a gap that is possible
        rest = [i for i in range(len(expected[stream])) if not (stream == index and i == order)]
        assert [got[stream][i] for i in rest] == [expected[stream][i] for i in rest]


@given(times=st.lists(st.none() | st.integers(-1000, 1000), min_size=1, max_size=30))
def test_copied_packets_get_increasing_times(times: list[int | None]) -> None:
    clock = CopyClock()
    got = []
    for time in times:
        made = packet(AUDIO, 0, 0, 10)
        made.dts, made.pts = time, time
        clock.fix(made)
        got.append((made.dts, made.pts))
    assert all(before < after for (before, _), (after, _) in pairwise(got))
    assert all(dts <= pts for dts, pts in got)
    present = [time for time in times if time is not None]
    if len(present) == len(times) and all(before < after for before, after in pairwise(present)):
        assert got == [(time, time) for time in present]
        assert clock.fixed == 0
