"""Relay: the process that sends the packets of one push to its server.

FFmpeg cannot be interrupted while it waits for a server, so it runs in a process of its own, which its alarm ends if
the server does not respond in time. The first line of the standard input is the target as JSON (arguments would be
visible to other users of the machine); packets follow. It prints `ready` once the server accepts the stream, and one
line with the reason if it fails. It ends with its input.
"""

import io
import json
import signal
import struct
import sys
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Any, BinaryIO

import av

from polypstream.realtime.live.sources.config import reason_of

HEAD = struct.Struct(">qq?I")
"""Before the data of each packet: pts and dts in milliseconds, whether it is a key frame, and its number of bytes."""
MILLISECOND = Fraction(1, 1000)
READY = "ready"


def main() -> None:
    """Send what the standard input provides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session ends the relay in its own time
    source = sys.stdin.buffer
    target = json.loads(source.readline())
    try:
        _send(target, packets_of(source))
    except (OSError, ValueError) as error:  # FFmpeg's errors are among them
        print(reason_of(error), flush=True)
        sys.exit(1)


def _send(target: dict[str, Any], packets: "Iterator[av.Packet[Any]]") -> None:
    first = next(packets, None)
    if first is None:
        return
    timeout_s: int = target["timeout_s"]
    signal.alarm(timeout_s)
    # the stream's parameters are those in the first key frame
    with av.open(io.BytesIO(bytes(first)), format="h264") as parameters:
        container = av.open(target["url"], "w", format=target["format"], container_options=target["options"])
        stream = container.add_stream_from_template(parameters.streams.video[0])
    stream.time_base = MILLISECOND
    container.start_encoding()
    print(READY, flush=True)
    for packet in chain([first], packets):
        signal.alarm(timeout_s)
        packet.stream = stream
        container.mux_one(packet)
        signal.alarm(0)
    signal.alarm(timeout_s)
    container.close()


def packets_of(source: BinaryIO) -> "Iterator[av.Packet[Any]]":
    """The packets that follow on the standard input, up to its end."""
    while len(head := source.read(HEAD.size)) == HEAD.size:
        pts, dts, is_keyframe, size = HEAD.unpack(head)
        packet: av.Packet[Any] = av.Packet(source.read(size))
        packet.pts, packet.dts, packet.time_base, packet.is_keyframe = pts, dts, MILLISECOND, is_keyframe
        yield packet


if __name__ == "__main__":
    main()
