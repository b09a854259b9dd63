"""Damaged intervals of a video, derived from the input and output of the decoder."""

from bisect import insort
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from statistics import median_low

_REORDERED = 4
"""Frames that may be stored before others that are presented earlier: they survive where those are lost."""
_RECENT = 16
"""Frames from which the usual distance between two is computed."""
_JOIN_S = Fraction(1, 4)
"""Intervals closer than this, in seconds, are merged: a broken group of pictures often contains some intact frames."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """An interval of the source that could not be decoded without errors. Times are presentation times."""

    start_s: float | None
    """Start in seconds; None if unknown."""
    end_s: float | None
    """End in seconds; None if reading stopped there and the file does not state its length."""
    message: str


@dataclass(kw_only=True)
class _DamagedInterval:
    start: int
    end: int | None
    lost: int = 0
    corrupt: int = 0
    remark: str = ""

    @property
    def message(self) -> str:
        parts = [f"{_frames(self.lost)} could not be decoded"] if self.lost else []
        parts += [f"{_frames(self.corrupt)} decoded with errors"] if self.corrupt else []
        return ", ".join([*parts, self.remark] if self.remark else parts)


def _frames(count: int) -> str:
    return f"{count} frame{'s' if count > 1 else ''}"


class DamageLog:
    """Damage of one video stream. All times are in ticks of its time base.

    A frame is lost if its packet was sent to the decoder and a later frame was returned, but not this one. This holds
    for any number of decoder threads, unlike the time of an error message.

    Args:
        time_base: Seconds per tick.
        step: Usual distance between frames in ticks.
    """

    def __init__(self, *, time_base: Fraction, step: int) -> None:
        self._time_base, self._step = time_base, max(step, 1)
        self._expected: list[tuple[int, int]] = []
        self._covered: int | None = None
        self._intervals: list[_DamagedInterval] = []
        self._corrupt_packets: set[int] = set()
        self._holes: list[int] = []
        self._recent: deque[int] = deque(maxlen=_RECENT)

    @property
    def end(self) -> int | None:
        """End of the last delivered frame; None before the first."""
        return self._covered

    def expect(self, pts: int, duration: int, *, corrupt: bool) -> None:
        """Record a packet that is sent to the decoder, or should have been."""
        insort(self._expected, (pts, duration))
        if corrupt:
            self._corrupt_packets.add(pts)

    def delivered(self, pts: int, duration: int, *, corrupt: bool) -> None:
        """Record a frame returned by the decoder."""
        while self._expected and self._expected[0][0] <= pts:
            expected, length = self._expected.pop(0)
            if expected < pts and not self._is_covered(expected):
                self._add(_DamagedInterval(start=expected, end=expected + (length or self._step), lost=1))
        if any(hole <= pts for hole in self._holes):
            self._holes = [hole for hole in self._holes if hole > pts]
            if self._covered is not None and pts > self._covered:
                start = self._start_of_hole(self._covered)
                self._add(_DamagedInterval(start=start, end=pts, remark="the file is damaged there"))
        self._recent.append(pts)
        if corrupt or pts in self._corrupt_packets:
            self._corrupt_packets.discard(pts)
            self._add(_DamagedInterval(start=pts, end=pts + (duration or self._step), corrupt=1))
        self._covered = max(pts + (duration or self._step), self._covered or pts)

    def _start_of_hole(self, covered: int) -> int:
        """Where the missing frames before the next one begin: earlier than `covered` if B-frames before it are lost."""
        recent = list(self._recent)
        usual = median_low(after - before for before, after in pairwise(recent)) if len(recent) > 2 else 0
        for before, after in pairwise(recent[-_REORDERED - 1 :]):
            if 2 * (after - before) > 3 * usual > 0:
                return min(before + usual, covered)
        return covered

    def failed(self) -> None:
        """Record that the decoder rejected a packet without a timestamp."""
        start = self._covered or 0
        self._add(_DamagedInterval(start=start, end=start + self._step, lost=1))

    def hidden(self) -> None:
        """Record unreadable bytes here, in a container that does not state their duration."""
        start = self._covered or 0
        self._add(_DamagedInterval(start=start, end=start + self._step, remark="the file is damaged there"))

    def skipped(self, start: int) -> None:
        """Record that packets are missing from this time on."""
        self._holes.append(start)

    def ended(self, *, claimed_end: int | None, reason: str, shown_until: int = 0) -> None:
        """Record that the file ended before its stated end, or because of an error.

        Args:
            claimed_end: Its stated end; None if it states none.
            reason: Why it ended.
            shown_until: End of the last frame, for a stream whose packets have no timestamps.
        """
        self._add(_DamagedInterval(start=self._covered or shown_until, end=claimed_end, remark=reason))

    def missing(self) -> set[int]:
        """Times of the frames that the decoder has not returned yet."""
        return {pts for pts, _ in self._expected if not self._is_covered(pts)}

    def close(self) -> None:
        """Record every frame that the decoder has not returned as lost."""
        for hole in self._holes:  # no frame followed it
            end = next((pts for pts, _ in self._expected if pts > hole), hole + self._step)
            self._add(_DamagedInterval(start=hole, end=end, remark="the file is damaged there"))
        self._holes.clear()
        for pts, duration in self._expected:
            if not self._is_covered(pts):
                self._add(_DamagedInterval(start=pts, end=pts + (duration or self._step), lost=1))
        self._expected.clear()

    def report(self) -> list[Damage]:
        """All intervals so far, in order of time, with close ones merged."""
        merged: list[_DamagedInterval] = []
        for interval in sorted(self._intervals, key=lambda s: s.start):
            last = merged[-1] if merged else None
            if last is None or (last.end is not None and (interval.start - last.end) * self._time_base > _JOIN_S):
                merged.append(_DamagedInterval(**vars(interval)))
                continue
            last.end = None if last.end is None or interval.end is None else max(last.end, interval.end)
            last.lost, last.corrupt = last.lost + interval.lost, last.corrupt + interval.corrupt
            last.remark = ", ".join(dict.fromkeys(filter(None, (last.remark, interval.remark))))
        return [Damage(start_s=self._seconds(s.start), end_s=self._seconds(s.end), message=s.message) for s in merged]

    def _add(self, interval: _DamagedInterval) -> None:
        self._intervals.append(interval)

    def _is_covered(self, pts: int) -> bool:
        # the second field of an interlaced frame may have a separate packet, within the frame's time
        return self._covered is not None and pts < self._covered

    def _seconds(self, ticks: int | None) -> float | None:
        return None if ticks is None else float(ticks * self._time_base)
