"""Mending of times, as little as will do: every frame has one and they grow; copied packets can be written."""

from fractions import Fraction

import av
from av.stream import Stream

_JUMPING_FORMATS = frozenset({"mpegts", "mpeg", "flv"})
"""Formats whose files may be joined end to end, each part with times of its own."""
_JUMP_S = 1
"""A stream that goes back by more than this many seconds has begun anew."""


class FrameClock:
    """Gives each decoded frame its presentation time: its own, or the least that comes after the frame before."""

    def __init__(self, *, step: int) -> None:
        self.step = max(step, 1)
        self._last: int | None = None
        self._last_duration = 0
        self._missing = self._backward = 0

    def pts_of(self, picture: av.VideoFrame) -> int:
        """Presentation time of the next frame in ticks of the stream's time base, greater than the last one's."""
        pts = picture.pts
        if pts is None:
            self._missing += 1
            pts = self._guess(picture.dts)
        elif self._last is not None and pts <= self._last:
            self._backward += 1
            pts = self._last + 1
        self._last, self._last_duration = pts, picture.duration
        return pts

    def _guess(self, dts: int | None) -> int:
        if self._last is None:
            return dts or 0
        if dts is not None and dts > self._last:
            return dts
        return self._last + (self._last_duration or self.step)

    @property
    def notices(self) -> list[str]:
        """What was mended so far."""
        notices = []
        if self._missing:
            notices.append(f"frames without a time of their own: {self._missing}; theirs follow from the frames before")
        if self._backward:
            notices.append(f"frames no later than the one before: {self._backward}; moved by the least possible")
        return notices


class PacketClock:
    """Joins the time lines of a file made of several, such as recordings appended to each other."""

    def __init__(self, format_name: str) -> None:
        self._may_jump = bool(_JUMPING_FORMATS.intersection(format_name.split(",")))
        self._ends: dict[int, int] = {}
        self._offset_s = Fraction(0)
        self._jumps: list[str] = []

    def mend(self, packet: "av.Packet[Stream]") -> None:
        """Shift the packet's times so that they continue what came before."""
        if not self._may_jump or packet.dts is None:
            return
        offset = round(self._offset_s / packet.time_base)
        end = self._ends.get(packet.stream_index)
        if end is not None and (end - packet.dts - offset) * packet.time_base > _JUMP_S:
            self._jumps.append(f"{float(end * packet.time_base):.2f} s")
            offset = end - packet.dts
            self._offset_s = offset * packet.time_base
        if offset:
            packet.dts += offset
            packet.pts = None if packet.pts is None else packet.pts + offset
        self._ends[packet.stream_index] = packet.dts + (packet.duration or 0)

    @property
    def notices(self) -> list[str]:
        """What was mended so far."""
        if not self._jumps:
            return []
        return [f"the file's times start anew at {', '.join(self._jumps)}; what follows was moved to go on from there"]


class CopyClock:
    """Makes the decoding times of a copied stream such as a muxer takes: present, and growing."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._last_duration = 0
        self.mended = 0

    def mend(self, packet: "av.Packet[Stream]") -> None:
        """Mend a packet whose times are already in the time base of the stream it goes to."""
        dts = packet.dts
        if dts is None:
            self.mended += self._last is not None
            dts = self._last + max(self._last_duration, 1) if self._last is not None else packet.pts or 0
        if self._last is not None and dts <= self._last:
            self.mended += 1
            dts = self._last + 1
        if dts != packet.dts:
            packet.dts = dts
        if packet.pts is None or packet.pts < dts:
            packet.pts = dts
        self._last, self._last_duration = dts, packet.duration or 0
