"""Packed B-frames: MPEG-4 video in AVI, as written by DivX and XviD, with two frames in one packet.

Video for Windows expects one frame per packet. For B-frames, encoders therefore pack the later reference frame and the
first B-frame into one packet, and fill the resulting gap with a packet of a few bytes. FFmpeg's demuxers then compute
wrong presentation times.
"""

import re
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.video.stream import VideoStream

_PACKED = re.compile(rb"DivX\d+[Bb]\d+p")
"""Identification that such encoders write into the stream."""
_VOP = b"\x00\x00\x01\xb6"
_FILLER_BYTES = 19
"""A packet of at most this size in bytes with one frame repeats the previous frame."""


def is_filler(packet: "av.Packet[Any]", codec: str) -> bool:
    """Whether an MPEG-4 packet only repeats the previous frame, so that no frame is decoded from it."""
    return codec == "mpeg4" and 0 < packet.size <= _FILLER_BYTES and _VOP in bytes(packet)


class PackedBFrames:
    """Splits packets with two frames, and assigns each frame the presentation time of its slot.

    Packets of streams that are not packed pass unchanged. A reference frame is held back until the next one,
    since only then its time is known.

    Args:
        stream: The video stream.
    """

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._is_avi = stream.container.format.name == "avi"  # packets have a position, but no presentation time
        self._filter: BitStreamFilterContext | None = None
        self._is_decided = stream.codec_context.codec.canonical_name != "mpeg4"
        self._held: list[av.Packet[Any]] = []
        self._slots: list[int] = []
        self._is_first = True

    def split(self, packet: "av.Packet[Any]") -> list["av.Packet[Any]"]:
        """Split a packet; returns the packets to decode next, in decoding order, each with one frame."""
        if not self._is_decided:
            self._is_decided = True
            if _PACKED.search(self._stream.codec_context.extradata or b"") or _PACKED.search(bytes(packet)):
                self._filter = BitStreamFilterContext("mpeg4_unpack_bframes", self._stream)
        if self._filter is None:
            return [packet]
        slot = packet.dts if self._is_avi else packet.pts
        try:
            split = self._filter.filter(packet)
        except av.FFmpegError:
            return [packet]
        return [ready for each in split for ready in self._timed(each, slot)]

    def flush(self) -> list["av.Packet[Any]"]:
        """Return the packets still held back. Call it after the last packet."""
        return self._released(self._slots[-1] if self._slots else None)

    def _timed(self, packet: "av.Packet[Any]", slot: int | None) -> list["av.Packet[Any]"]:
        previous = self._slots[-1] if self._slots else None
        if slot is None:
            return [*self._released(previous), packet]
        self._slots = [*self._slots[-1:], slot]
        if _is_b_frame(packet):
            packet.pts = slot if previous is None else previous
            self._held.append(packet)
            return []
        if self._is_first and previous is not None:  # empty packets after the first frame are the encoder's delay
            self._is_first, previous = False, slot - (packet.duration or 1)
        ready = self._released(previous)
        self._held = [packet]
        return ready

    def _released(self, time: int | None) -> list["av.Packet[Any]"]:
        """Release the held reference frame, displayed at `time`, and the B-frames that follow it."""
        held, self._held = self._held, []
        if held and not _is_b_frame(held[0]):
            held[0].pts = time
        return held


def _is_b_frame(packet: "av.Packet[Any]") -> bool:
    data = bytes(packet)
    at = data.find(_VOP)
    return 0 <= at < len(data) - 4 and data[at + 4] >> 6 == 2
