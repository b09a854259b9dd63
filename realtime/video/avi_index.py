"""The index of an AVI file: times of packets, and packets that are missing due to damage.

AVI packets have no timestamps. FFmpeg counts the packets it finds, so all packets after damaged bytes are too early.
"""

import re
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

_FOUR_CC = re.compile(rb"[0-9A-Za-z]{2}[0-9A-Za-z ]{2}")
_HEADER_BYTES = 8
"""Offset between FFmpeg's index, which points to a chunk's header, and packet positions, which point to its data."""


class AviIndex:
    """The index of an open AVI file.

    Args:
        container: The file; one without an index, or of another format, has no entries.
        video: Index of the video stream.
    """

    def __init__(self, container: InputContainer, *, video: int) -> None:
        self._times: dict[int, dict[int, int]] = {}
        self._scales: dict[int, int] = {}
        self._video = video
        is_avi = container.format.name == "avi"
        for stream in container.streams if is_avi else ():
            entries = stream.index_entries
            self._times[stream.index] = {entry.pos + _HEADER_BYTES: entry.timestamp for entry in entries if entry.size}
        # without an index, FFmpeg adds entries for the packets it reads
        self.is_missing = is_avi and 2 * len(self._times[video]) < container.streams[video].frames
        """Whether this is an AVI file without its index, such as a truncated one."""
        self._positions = sorted(self._times.get(video, ()))
        self._last_position: int | None = None

    def fix(self, packet: "av.Packet[Any]") -> None:
        """Set the time of a packet from the index entry for its file position."""
        time = self._times.get(packet.stream_index, {}).get(-1 if packet.pos is None else packet.pos)
        if time is None or packet.dts is None:
            return
        # entries of audio with samples of constant size count bytes
        scale = self._scales.get(packet.stream_index)
        if scale is None:
            if not packet.dts or time % packet.dts:
                return
            scale = self._scales[packet.stream_index] = max(time // packet.dts, 1)
        if (shift := time // scale - packet.dts) > 0:
            packet.dts += shift
            packet.pts = None if packet.pts is None else packet.pts + shift

    def hidden_before(self, packet: "av.Packet[Any]") -> list[int]:
        """Presentation times, in ticks, of the video packets missing between the previous one and this one.

        Call it after `fix`. The reordering delay of this packet is assumed for them.
        """
        if packet.stream_index != self._video or packet.pos is None:
            return []
        last, self._last_position = self._last_position, packet.pos
        if last is None or packet.pos not in self._times.get(self._video, ()):
            return []
        between = self._positions[bisect_right(self._positions, last) : bisect_left(self._positions, packet.pos)]
        delay = (packet.pts - packet.dts) if packet.pts is not None and packet.dts is not None else 0
        return [self._times[self._video][position] + delay for position in between]


def is_avi_chunk(path: Path, position: int) -> bool:
    """Whether a chunk starts at a position in an AVI file, or one byte later, as chunks of odd size are padded."""
    with path.open("rb") as file:
        file.seek(position)
        head = file.read(5)
    return any(_FOUR_CC.fullmatch(head[start : start + 4]) for start in (0, 1))
