"""MPEG-TS without its two frames of delay.

A frame's end is not marked in a transport stream, so that FFmpeg gives a frame out when the second one after it
begins: once for the packetised stream (PES), whose length is mostly left open, and once for the parser, which looks
for the next picture. Both know nothing that the stream does not tell at once: multiplexers begin each frame in a PES
of its own, and fill up its last packet with stuffing. So here the parser is left out, and after a packet with stuffing
an empty PES is slipped in, which makes FFmpeg give out what is complete.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from av.container import InputContainer

from polypstream.errors import SourceError
from polypstream.realtime.decoding import VideoPacket
from polypstream.realtime.live.sources.connection import BUFFER, ContainerConnection, open_quietly, video_of
from polypstream.realtime.live.sources.halt import Halt
from polypstream.realtime.live.sources.keyframes import FRAMED, is_keyframe

PACKET = 188
_SYNC = 0x47
_HAS_PAYLOAD, _HAS_ADAPTATION, _BEGINS, _DISCONTINUITY = 0x10, 0x20, 0x40, 0x80
_PROMPTLY = {"fflags": "noparse+nofillin", "probesize": "2048", "analyzeduration": "1"}
"""What the stream holds is known by now."""
_EMPTY_PES = bytes((0, 0, 1, 0xE0, 0, 0, 0x80, 0, 0))
_MOST_MISTAKES = 3
"""After so many a stream is taken to use stuffing in its own way, and nothing is slipped in any more."""

Read = Callable[[int], bytes]


class Rehearsal:
    """A file that keeps what was read from it, to be read once more."""

    name = "stream"

    def __init__(self, read: Read) -> None:
        self._read = read
        self._keeps = True
        self.script = bytearray()

    def read(self, size: int) -> bytes:
        """As the file itself."""
        data = self._read(size)
        if self._keeps:
            self.script += data
        return data

    def end(self) -> None:
        """Keep nothing any more."""
        self._keeps = False
        self.script.clear()


def is_transport(container: InputContainer) -> bool:
    """Whether a container can be read promptly."""
    return container.format.name == "mpegts" and video_of(container).codec_context.name in FRAMED


class TransportConnection(ContainerConnection):
    """A connection to a transport stream that has been opened once, is opened anew from its head, and read promptly."""

    def __init__(self, rehearsed: InputContainer, head: bytes, read: Read, halt: Halt, *, resources: ExitStack) -> None:
        with resources, rehearsed:
            known = video_of(rehearsed)
            reader = PromptTransport(head, read, stream_id=known.id)
            container = open_quietly(reader, _PROMPTLY, format="mpegts", buffer_size=BUFFER)
            stream = next((s for s in container.streams.video if s.id == known.id), None)
            if stream is None or stream.codec_context is None:
                container.close()
                raise SourceError("the stream changed while it was opened")
            context = stream.codec_context
            context.extradata = known.codec_context.extradata
            context.width, context.height = known.codec_context.width, known.codec_context.height
            context.pix_fmt = known.codec_context.pix_fmt
            kept = resources.pop_all()
        super().__init__(container, halt, stream=stream, resources=kept)

    def packets(self) -> Iterator[VideoPacket]:
        """The packets, keyframes marked as the parser would have done."""
        codec = self.stream.codec_context.name
        for packet in super().packets():
            packet.is_keyframe = is_keyframe(codec, packet)
            yield packet


class PromptTransport:
    """A transport stream as a file, with an empty PES after each packet that ends a frame of one stream."""

    name = "stream"

    def __init__(self, head: bytes, read: Read, *, stream_id: int) -> None:
        self._read, self._stream_id = read, stream_id
        self._head, self._cut, self._ready = head, b"", b""
        self._was_ended = False
        self._mistakes = 0

    def read(self, size: int) -> bytes:
        """Between 1 and `size` bytes; none at the end of the stream."""
        while not self._ready:
            data, self._head = self._head or self._read(size), b""
            if not data:
                return b""
            self._ready = self._with_ends(self._cut + data)
        taken, self._ready = self._ready[:size], self._ready[size:]
        return taken

    def _with_ends(self, data: bytes) -> bytes:
        """Whole packets with what ends their frames; the rest of the data waits for more."""
        parts, begin, place = [], 0, 0
        while place + PACKET <= len(data):
            if data[place] != _SYNC:  # passed on as it is: FFmpeg finds its way back by itself
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
        """An empty PES in a packet that is allowed to repeat the counter, since it says that it is a discontinuity."""
        stuffing = PACKET - 6 - len(_EMPTY_PES)
        head = (_SYNC, _BEGINS | self._stream_id >> 8, self._stream_id & 0xFF)
        return (
            bytes((*head, _HAS_PAYLOAD | _HAS_ADAPTATION | counter, stuffing + 1, 0x80))
            + b"\xff" * stuffing
            + _EMPTY_PES
        )


def _is_stuffed(data: bytes, place: int) -> bool:
    """Whether an adaptation field is longer than what it says it holds."""
    length = data[place]
    if not length:
        return True
    flags = data[place + 1]
    held = 1 + 6 * bool(flags & 0x10) + 6 * bool(flags & 0x08) + bool(flags & 0x04)
    return length > held and not flags & 0x03  # private data and extensions have lengths of their own
