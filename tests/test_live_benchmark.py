"""The live benchmark identifies received frames by the numbers in their pixels."""

import pytest

from benchmarks.live import CLIP, SETTLING_S, Arrivals, summary


def arrivals(*, lost: set[int] = frozenset(), unreadable: set[int] = frozenset(), late: float = 0.0) -> Arrivals:
    made, start, period = Arrivals(), 1000.0, 1 / 30
    for number in range(round((SETTLING_S + 30) / period)):
        if number in lost:
            continue
        captured = start + number * period
        made.numbers.append(-1 if number in unreadable else number)
        made.captured_at.append(captured - 0.003)
        made.decoded_at.append(captured)
        made.shown_at.append(captured + 0.004 + late * number * period)
        if number % 3 == 0:
            made.marked_at.append(captured + 0.004)
            made.marker_s.append(0.05)
        if number % 30 == 0:
            made.weighed_at.append(captured)
            made.memory_mb.append(200.0)
    return made


SENT = {number: 999.998 + number / 30 for number in range(3000)}


def test_a_session_without_faults_is_reported_as_such() -> None:
    found = summary(arrivals(), SENT)
    assert found["frames_sent"] == found["frames_displayed"] == pytest.approx(30 * 30, abs=2)
    assert found["frames_unreadable"] == 0
    assert found["video_delay_ms"]["p99"] == pytest.approx(4, abs=0.01)  # type: ignore[index]
    assert found["video_delay_with_decoding_ms"]["p50"] == pytest.approx(7, abs=0.01)  # type: ignore[index]
    assert found["sent_to_sink_ms"]["p50"] == pytest.approx(6, abs=0.01)  # type: ignore[index]
    assert found["marker_delay_ms"]["p99"] == pytest.approx(50, abs=0.01)  # type: ignore[index]
    assert found["end_against_beginning"]["memory"] == 1  # type: ignore[index]


def test_lost_and_unreadable_frames_are_counted_and_growth_is_seen() -> None:
    found = summary(arrivals(lost={700, 701, 950}, unreadable={800}, late=0.0005), SENT)
    assert found["frames_sent"] - found["frames_displayed"] == 4  # type: ignore[operator]
    assert found["frames_unreadable"] == 1
    assert found["end_against_beginning"]["video_delay_p50"] > 1.3  # type: ignore[index]


def test_the_clip_is_long_enough_to_tell_its_passes_apart() -> None:
    assert CLIP.frame_count >= 10 * CLIP.fps
    assert CLIP.counter
