"""Low-latency MPEG-TS: avoids FFmpeg's delay of two frames, and recognizes keyframes."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from av.container import InputContainer

from polypstream.errors import SourceError
from polypstream.realtime.live.sources.connection import (
    BUFFER,
    Cancellation,
    ContainerConnection,
    open_quietly,
    video_of,
)
from polypstream.realtime.video.decoding import VideoPacket

_START_CODE = re.compile(rb"\x00\x00\x01(.)", re.DOTALL)


def is_keyframe(codec: str, packet: Any) -> bool:  # noqa: ANN401 - anything with a buffer of bytes
    """Whether decoding can start with a packet of a codec in `FRAMED`: its headers precede its first slice."""
    verdict_of = FRAMED[codec]
    for found in _START_CODE.finditer(memoryview(packet)):
        verdict = verdict_of(found[1][0])
        if verdict is not None:
            return verdict
    return False


def _h264(code: int) -> bool | None:
    unit = code & 31  # ITU-T H.264, table 7-1: 7 is a sequence parameter set, 5 a slice of an IDR picture
    return True if unit in {5, 7} else False if 1 <= unit <= 4 else None


def _hevc(code: int) -> bool | None:
    unit = code >> 1 & 63  # ITU-T H.265, table 7-1: 32 and 33 are parameter sets, 16 to 23 random access pictures
    return True if unit in {32, 33} or 16 <= unit <= 23 else False if unit < 16 else None


def _mpeg2(code: int) -> bool | None:
    return True if code == 0xB3 else False if 0x01 <= code <= 0xAF else None  # a sequence header; a slice


FRAMED: Mapping[str, Callable[[int], bool | None]] = {
    "h264": _h264,
    "hevc": _hevc,
    "mpeg1video": _mpeg2,
    "mpeg2video": _mpeg2,
}
"""By the byte after a start code: True for a keyframe, False for another image, None to continue searching."""


PACKET = 188
_SYNC = 0x47
_HAS_PAYLOAD, _HAS_ADAPTATION, _BEGINS, _DISCONTINUITY = 0x10, 0x20, 0x40, 0x80
_PROMPTLY = {"fflags": "noparse+nofillin", "probesize": "2048", "analyzeduration": "1"}
"""Time by which the contents of the stream are known."""
_EMPTY_PES = bytes((0, 0, 1, 0xE0, 0, 0, 0x80, 0, 0))
_MOST_MISTAKES = 3
"""After this many, the stream is assumed to use stuffing differently, and nothing more is inserted."""

Read = Callable[[int], bytes]


class Rehearsal:
    """A file that records what is read from it, so that it can be read again."""

    name = "stream"

    def __init__(self, read: Read) -> None:
        self._read = read
        self._keeps = True
        self.script = bytearray()

    def read(self, size: int) -> bytes:
        """Read from the file."""
        data = self._read(size)
        if self._keeps:
            self.script += data
        return data

    def end(self) -> None:
        """Stop recording."""
        self._keeps = False
        self.script.clear()


def is_transport(container: InputContainer) -> bool:
    """Whether low-latency reading supports a container."""
    return container.format.name == "mpegts" and video_of(container).codec_context.name in FRAMED


class TransportConnection(ContainerConnection):
    """A transport stream that was probed once, reopened from its first bytes, and is read with low latency."""

    def __init__(
        self, rehearsed: InputContainer, head: bytes, read: Read, cancellation: Cancellation, *, resources: ExitStack
    ) -> None:
        with resources, rehearsed:
            known = video_of(rehearsed)
            reader = PromptTransport(head, read, stream_id=known.id)
            container = open_quietly(reader, _PROMPTLY, format="mpegts", buffer_size=BUFFER)
            stream = next((s for s in container.streams.video if s.id == known.id), None)
            if stream is None or stream.codec_context is None:
                container.close()
                raise SourceError("the stream changed while it was being opened")
            context = stream.codec_context
            context.extradata = known.codec_context.extradata
            context.width, context.height = known.codec_context.width, known.codec_context.height
            context.pix_fmt = known.codec_context.pix_fmt
            kept = resources.pop_all()
        super().__init__(container, cancellation, stream=stream, resources=kept)

    def packets(self) -> Iterator[VideoPacket]:
        """Yield the packets, with keyframes marked as FFmpeg's parser would."""
        codec = self.stream.codec_context.name
        for packet in super().packets():
            packet.is_keyframe = is_keyframe(codec, packet)
            yield packet


class PromptTransport:
    """A transport stream as a file, with an empty PES inserted after each packet that ends a frame."""

    name = "stream"

    def __init__(self, head: bytes, read: Read, *, stream_id: int) -> None:
        self._read, self._stream_id = read, stream_id
        self._head, self._cut, self._ready = head, b"", b""
        self._was_ended = False
        self._mistakes = 0

    def read(self, size: int) -> bytes:
        """Return between 1 and `size` bytes; none at the end of the stream."""
        while not self._ready:
            data, self._head = self._head or self._read(size), b""
            if not data:
                return b""
            self._ready = self._with_ends(self._cut + data)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def _with_ends(self, data: bytes) -> bytes:
        """Return complete packets, with end markers after frames; the remaining data is buffered."""
        parts, begin, place = [], 0, 0
        while place + PACKET <= len(data):
            if data[place] != _SYNC:  # passed through: FFmpeg resynchronizes by itself
                place = found if (found := data.find(_SYNC, place)) > 0 else len(data)
                continue
            if self._ends_frame(data, place):
                parts += [data[begin : place + PACKET], self._end(data[place + 3] & 0x0F)]
                begin = place + PACKET
            place += PACKET
        self._cut = data[place:]
        return b"".join([*parts, data[begin:place]])

    def _ends_frame(self, data: bytes, place: int) -> bool:
        flags, control = data[place + 1], data[place + 3]
        if (flags & 0x1F) << 8 | data[place + 2] != self._stream_id or not control & _HAS_PAYLOAD:
            return False
        if self._was_ended and not flags & _BEGINS:
            self._mistakes += 1
        self._was_ended = (
            self._mistakes < _MOST_MISTAKES and bool(control & _HAS_ADAPTATION) and _is_stuffed(data, place + 4)
        )
        return self._was_ended

    def _end(self, counter: int) -> bytes:
        """Return an empty PES in a packet that may repeat the counter, as it declares a discontinuity."""
        stuffing = PACKET - 6 - len(_EMPTY_PES)
        head = (_SYNC, _BEGINS | self._stream_id >> 8, self._stream_id & 0xFF)
        return (
            bytes((*head, _HAS_PAYLOAD | _HAS_ADAPTATION | counter, stuffing + 1, 0x80))
            + b"\xff" * stuffing
            + _EMPTY_PES
        )


def _is_stuffed(data: bytes, place: int) -> bool:
    """Whether an adaptation field is longer than its declared content."""
    length = data[place]
    if not length:
        return True
    flags = data[place + 1]
    held = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    return length > held and not flags & 0x03  # private data and extensions have their own lengths
