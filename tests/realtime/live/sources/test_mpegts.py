import random
from collections.abc import Iterator
from statistics import mode
from typing import Any

import av
import pytest

from polypstream.realtime.live.sources.mpegts import PACKET, PromptTransport, is_keyframe
from tests.realtime.live.feeds import Coding, TransportStream, coded

FRAMES = 60


def stream_id_of(data: bytes) -> int:
    """The number of most packets: the video's."""
    places = range(0, len(data), PACKET)
    return mode((data[place + 1] & 0x1F) << 8 | data[place + 2] for place in places)


class StepByStep:
    """Returns the bytes of one frame per read, and counts them."""

    def __init__(self, coding: Coding) -> None:
        stream = TransportStream(coding)
        self.parts = [stream.frame(number) for number in range(FRAMES)]
        self.stream_id = stream_id_of(b"".join(self.parts))
        self.given = 0

    def read(self, size: int) -> bytes:
        if self.given == FRAMES:
            return b""
        self.given += 1
        assert len(self.parts[self.given - 1]) <= size
        return self.parts[self.given - 1]


def packets_of(file: Any, options: dict[str, str]) -> Iterator["av.Packet[Any]"]:
    with av.open(file, "r", options=options, buffer_size=1 << 20) as container:
        for packet in container.demux(video=0):
            if packet.size:
                yield packet


PROMPTLY = {"fflags": "noparse+nofillin", "probesize": "2048", "analyzeduration": "1"}
CODINGS = [Coding(), Coding(b_frames=2), Coding(codec="mpeg2video"), Coding(width=640, height=480)]


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_a_frame_comes_out_before_the_next_goes_in(coding: Coding) -> None:
    steps = StepByStep(coding)
    transport = PromptTransport(b"", steps.read, stream_id=steps.stream_id)
    held = [steps.given - 1 - number for number, _ in enumerate(packets_of(transport, PROMPTLY))]
    assert len(held) == FRAMES
    assert max(held[20:]) <= 1  # a frame that happens to fill its last packet waits for the next
    assert held[20:].count(0) >= 35
    plain = StepByStep(coding)
    assert {plain.given - 1 - n for n, _ in enumerate(packets_of(plain, {}))} >= {2}  # what FFmpeg does by itself


@pytest.mark.parametrize("coding", CODINGS, ids=str)
def test_nothing_but_the_delay_changes(coding: Coding) -> None:
    steps, plain = StepByStep(coding), StepByStep(coding)
    transport = PromptTransport(b"", steps.read, stream_id=steps.stream_id)
    codec = {"libx264": "h264"}.get(coding.codec, coding.codec)
    got = [(p.pts, bytes(p), is_keyframe(codec, p), p.is_corrupt) for p in packets_of(transport, PROMPTLY)]
    assert got == [(p.pts, bytes(p), p.is_keyframe, p.is_corrupt) for p in packets_of(plain, {})]


def test_it_may_come_in_any_pieces_and_begin_anywhere() -> None:
    whole = b"".join(StepByStep(Coding()).parts)
    stream_id, generator = stream_id_of(whole), random.Random(3)

    def pieces(data: bytes) -> bytes:
        place = 0

        def read(size: int) -> bytes:
            nonlocal place
            begin, place = place, min(place + generator.randrange(1, 400), len(data))
            return data[begin:place]

        transport = PromptTransport(b"", read, stream_id=stream_id)
        parts = []
        while part := transport.read(1000):
            parts.append(part)
        return b"".join(parts)

    at_once = PromptTransport(whole, lambda size: b"", stream_id=stream_id)
    expected = at_once.read(1 << 30)
    assert pieces(whole) == expected
    assert len(expected) > len(whole)
    assert pieces(whole[77:]) == expected[77:]


def test_stuffing_within_a_frame_is_tolerated() -> None:
    steps = StepByStep(Coding())
    whole = bytearray(b"".join(steps.parts))
    for place in range(0, len(whole), PACKET):
        begins = whole[place + 1] & 0x40
        if (whole[place + 1] & 0x1F) << 8 | whole[place + 2] == steps.stream_id and not begins:
            whole[place + 3] = whole[place + 3] & 0x0F | 0x30
            whole[place + 4 : place + 7] = bytes((2, 0, 0xFF))
    transport = PromptTransport(bytes(whole), lambda size: b"", stream_id=steps.stream_id)
    added = len(transport.read(1 << 30)) - len(whole)
    assert added <= 4 * PACKET


def test_keyframes_are_recognized_by_their_headers() -> None:
    _, packets = coded(Coding())
    assert [is_keyframe("h264", data) for data, *_ in packets] == [key for *_, key in packets]
    assert is_keyframe("hevc", b"\0\0\0\1\x46\1\x10\0\0\1\x40\1")  # a delimiter, then a parameter set
    assert is_keyframe("hevc", b"\0\0\1\x26\1")
    assert not is_keyframe("hevc", b"\0\0\1\x02\1")
    assert not is_keyframe("h264", b"nothing")
