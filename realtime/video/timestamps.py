"""Timestamps: three clocks that turn the times in a file or live stream into consistent, increasing times.

`FrameClock` gives every decoded frame a distinct time, `CopyClock` prepares copied packets for a muxer, and `LiveClock`
follows a live sender. Each changes as little as possible: times that are in order already are unchanged. The timelines
within a file are joined before, by `timelines.PacketClock`.
"""

from fractions import Fraction
from typing import Any, TypeAlias

import av

Packet: TypeAlias = "av.Packet[Any]"

_LIVE_JUMP_S = 1
"""A live sender's clock that goes back by more than this has been restarted."""


class FrameClock:
    """Gives each decoded frame its presentation time: as stored, or the earliest possible after the previous frame.

    Args:
        step: Usual distance between frames in ticks of the stream's time base.
    """

    def __init__(self, *, step: int) -> None:
        self.step = max(step, 1)
        self._last: int | None = None
        self._last_duration = 0
        self._missing = self._backward = 0

    def pts_of(self, frame: av.VideoFrame) -> int:
        """Presentation time of the next frame in ticks, greater than the previous one's."""
        pts = frame.pts
        if pts is None:
            self._missing += 1
            pts = self._guess(frame.dts)
        elif self._last is not None and pts <= self._last:
            self._backward += 1
            pts = self._last + 1
        self._last, self._last_duration = pts, frame.duration
        return pts

    def _guess(self, dts: int | None) -> int:
        if self._last is None:
            return dts or 0
        if dts is not None and dts > self._last:
            return dts
        return self._last + (self._last_duration or self.step)

    @property
    def end(self) -> int:
        """Where the last frame ends in ticks; 0 before the first."""
        return 0 if self._last is None else self._last + (self._last_duration or self.step)

    @property
    def notices(self) -> list[str]:
        """Changes so far, one line each."""
        notices = []
        if self._missing:
            notices.append(f"{self._missing} frames have no timestamp: they were derived from previous frames")
        if self._backward:
            notices.append(
                f"{self._backward} frames have a timestamp no later than the previous one: shifted minimally"
            )
        return notices


class CopyClock:
    """Makes the decoding times of a copied stream valid for a muxer: present and increasing."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._last_duration = 0
        self.fixed = 0
        """Number of packets whose decoding time was replaced."""

    def fix(self, packet: Packet) -> None:
        """Correct a packet in place; its times are in the time base of the stream that it goes to."""
        dts = packet.dts
        if dts is None:
            self.fixed += self._last is not None
            dts = self._last + max(self._last_duration, 1) if self._last is not None else packet.pts or 0
        if self._last is not None and dts <= self._last:
            self.fixed += 1
            dts = self._last + 1
        if dts != packet.dts:
            packet.dts = dts
        if packet.pts is None or packet.pts < dts:
            packet.pts = dts
        self._last, self._last_duration = dts, packet.duration or 0


class LiveClock:
    """Gives the frames of one live connection increasing times, regardless of the sender's clock.

    If the sender's clock jumps back, as when the 33 bits of MPEG-TS wrap or when the sender restarts, times advance by
    the time elapsed on this machine since the previous frame, and then follow the sender's clock again.

    Args:
        time_base: Seconds per tick.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._offset = 0
        self._last: int | None = None
        self._last_at = 0.0

    def pts_of(self, frame: av.VideoFrame, captured_at: float) -> int:
        """Presentation time in ticks, greater than the previous one's; `captured_at` in monotonic seconds."""
        pts = self._fixed(frame.pts, captured_at)
        self._last, self._last_at = pts, captured_at
        return pts

    def _fixed(self, received: int | None, captured_at: float) -> int:
        if self._last is None:
            return received or 0
        passed = self._last + max(round((captured_at - self._last_at) / self.time_base), 1)
        if received is None:
            return passed
        pts = received + self._offset
        if (self._last - pts) * self.time_base > _LIVE_JUMP_S:
            self._offset += passed - pts
            return passed
        return max(pts, self._last + 1)
