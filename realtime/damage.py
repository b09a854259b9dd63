"""Which stretches of a video could not be decoded, worked out from what went into the decoder and what came out."""

from bisect import insort
from dataclasses import dataclass
from fractions import Fraction

_JOIN_S = Fraction(1, 4)
"""Stretches closer than this are one: a broken group of pictures often holds good frames among the bad."""


@dataclass(frozen=True, kw_only=True)
class Damage:
    """A stretch of the source that could not be decoded, or not without errors. Times are presentation times."""

    start_s: float | None
    """Seconds; None where not even the start is known."""
    end_s: float | None
    """Seconds; None where the file could not be read any further and does not say how long it should be."""
    message: str


@dataclass(kw_only=True)
class _Stretch:
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
    """Keeps account of one video stream. All times are in ticks of its time base.

    A packet that went into the decoder and whose frame never came out, although a later one did, is a lost frame.
    This holds however many threads the decoder keeps in flight, where the moment of its error messages says little.
    """

    def __init__(self, *, time_base: Fraction, step: int) -> None:
        self._time_base, self._step = time_base, max(step, 1)
        self._expected: list[tuple[int, int]] = []
        self._covered: int | None = None
        self._stretches: list[_Stretch] = []
        self._corrupt_packets: set[int] = set()
        self._holes: list[int] = []

    @property
    def end(self) -> int | None:
        """Where the last delivered frame ends; None before the first."""
        return self._covered

    def expect(self, pts: int, duration: int, *, corrupt: bool) -> None:
        """A packet goes into the decoder."""
        insort(self._expected, (pts, duration))
        if corrupt:
            self._corrupt_packets.add(pts)

    def delivered(self, pts: int, duration: int, *, corrupt: bool) -> None:
        """A frame came out of the decoder."""
        while self._expected and self._expected[0][0] <= pts:
            expected, length = self._expected.pop(0)
            if expected < pts and not self._is_covered(expected):
                self._add(_Stretch(start=expected, end=expected + (length or self._step), lost=1))
        if any(hole <= pts for hole in self._holes):
            self._holes = [hole for hole in self._holes if hole > pts]
            if self._covered is not None and pts > self._covered:
                self._add(_Stretch(start=self._covered, end=pts, remark="the file is damaged there"))
        if corrupt or pts in self._corrupt_packets:
            self._corrupt_packets.discard(pts)
            self._add(_Stretch(start=pts, end=pts + (duration or self._step), corrupt=1))
        self._covered = max(pts + (duration or self._step), self._covered or pts)

    def failed(self) -> None:
        """The decoder refused a packet that has no time of its own."""
        start = self._covered or 0
        self._add(_Stretch(start=start, end=start + self._step, lost=1))

    def skipped(self, start: int) -> None:
        """The container gave no packets for a while from this time on, though it should have."""
        self._holes.append(start)

    def ended(self, *, claimed_end: int | None, reason: str) -> None:
        """The file ended before the time that it claims, or for a reason that is no end of file."""
        self._add(_Stretch(start=self._covered or 0, end=claimed_end, remark=reason))

    def missing(self) -> set[int]:
        """Times of the frames still awaited from the decoder."""
        return {pts for pts, _ in self._expected if not self._is_covered(pts)}

    def close(self) -> None:
        """No frame will come any more: what is still awaited is lost."""
        for pts, duration in self._expected:
            if not self._is_covered(pts):
                self._add(_Stretch(start=pts, end=pts + (duration or self._step), lost=1))
        self._expected.clear()

    def report(self) -> list[Damage]:
        """Every stretch so far, in order of time, neighbours merged."""
        merged: list[_Stretch] = []
        for stretch in sorted(self._stretches, key=lambda s: s.start):
            last = merged[-1] if merged else None
            if last is None or (last.end is not None and (stretch.start - last.end) * self._time_base > _JOIN_S):
                merged.append(_Stretch(**vars(stretch)))
                continue
            last.end = None if last.end is None or stretch.end is None else max(last.end, stretch.end)
            last.lost, last.corrupt = last.lost + stretch.lost, last.corrupt + stretch.corrupt
            last.remark = ", ".join(dict.fromkeys(filter(None, (last.remark, stretch.remark))))
        return [Damage(start_s=self._seconds(s.start), end_s=self._seconds(s.end), message=s.message) for s in merged]

    def _add(self, stretch: _Stretch) -> None:
        self._stretches.append(stretch)

    def _is_covered(self, pts: int) -> bool:
        # the second field of an interlaced picture may have a packet of its own, within its frame's time
        return self._covered is not None and pts < self._covered

    def _seconds(self, ticks: int | None) -> float | None:
        return None if ticks is None else float(ticks * self._time_base)
