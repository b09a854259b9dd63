"""Feeds that FFmpeg reads: video files in real time, network protocols, and raw UDP and TCP through own sockets."""

import ipaddress
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self
from urllib.parse import SplitResult
from urllib.request import getproxies

import av

from polypstream.errors import ConfigError
from polypstream.realtime.live.sources.config import AtEnd, Framing, SourceConfig
from polypstream.realtime.live.sources.connection import (
    BUFFER,
    MICROSECONDS,
    Cancellation,
    Connection,
    ContainerConnection,
    Feed,
    open_quietly,
    packets_of,
)
from polypstream.realtime.live.sources.mpegts import Read, Rehearsal, TransportConnection, is_transport
from polypstream.realtime.video.container import main_video, open_video
from polypstream.realtime.video.decoding import VideoPacket

_SLIP_S = 1.0
"""If playback is late by more than this, for example after the machine slept, the clock is reset."""


def file_feed(path: Path, config: SourceConfig) -> Feed:
    """Create a feed from a file; raises `SourceError` immediately if it does not exist or contains no video."""
    with open_video(path) as container:
        main_video(container, path)

    def open_file(cancellation: Cancellation) -> Connection:
        return FileConnection(path, config.at_end, cancellation)

    return open_file


class FileConnection:
    """Delivers the packets of a file in real time.

    The pace follows decoding times, so that each frame leaves the decoder at its presentation time, even with variable
    frame rates. In a loop, the times of each pass continue those of the previous one.
    """

    is_file = True

    def __init__(self, path: Path, at_end: AtEnd, cancellation: Cancellation) -> None:
        self._path, self._at_end, self._cancellation = path, at_end, cancellation
        self._container = open_video(path)
        self.stream = main_video(self._container, path)
        self._start_at: float | None = None

    def packets(self) -> Iterator[VideoPacket]:
        """Yield the packets in real time; at the end of the file, stop or start again."""
        offset = 0
        while True:
            first: int | None = None
            end = 0
            for packet in self._packets():
                time = packet.dts if packet.dts is not None else packet.pts
                if time is not None:
                    first = time if first is None else first
                    end = max(end, time - first + self._length_of(packet))
                    self._wait(Fraction(offset + time - first) * packet.time_base)
                if offset:
                    packet.dts = None if packet.dts is None else packet.dts + offset
                    packet.pts = None if packet.pts is None else packet.pts + offset
                yield packet
            if self._at_end is AtEnd.STOP or not end:
                return
            offset += end

    def _packets(self) -> Iterator[VideoPacket]:
        with open_video(self._path) as container:  # reopened for each pass, as seeking would reset an active decoder
            for packet in packets_of(container, main_video(container, self._path), self._cancellation):
                packet.stream = self.stream
                yield packet

    def _length_of(self, packet: VideoPacket) -> int:
        rate = self.stream.average_rate
        return packet.duration or (round(1 / (rate * packet.time_base)) if rate else 1)

    def _wait(self, due_s: Fraction) -> None:
        now = monotonic()
        if self._start_at is None or now - self._start_at - due_s > _SLIP_S:
            self._start_at = now - float(due_s)
        self._cancellation.wait(self._start_at + float(due_s) - now)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()


_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}
_TRANSPORTS = {"rtsp": "tcp", "rtsps": "tls", "http": "http", "https": "https"}
"""FFmpeg protocol that each scheme requires."""


def network_feed(url: SplitResult, config: SourceConfig) -> Feed:
    """Create a feed from an address that FFmpeg reads.

    FFmpeg cannot be interrupted while it connects or waits for a packet. Whether a server responds is therefore first
    tested with an interruptible connection; a server that falls silent later blocks the reading thread for as long as
    the watchdog waits anyway.

    Raises:
        ConfigError: This build of FFmpeg does not support the protocol.
    """
    if not has_protocol(_TRANSPORTS[url.scheme]):
        raise ConfigError(
            f"{url.scheme}:// cannot be read: this build of FFmpeg lacks {_TRANSPORTS[url.scheme]}; install PyAV's "
            "official wheel: pip install --force-reinstall --only-binary av av"
        )

    def open_stream(cancellation: Cancellation) -> Connection:
        if url.scheme in _PORTS and url.hostname and url.scheme not in getproxies():
            connected_tcp(url.hostname, url.port or _PORTS[url.scheme], cancellation, config.connect_s).close()
        options = _options(url.scheme, config)
        container = open_quietly(url.geturl(), options, timeout=(config.connect_s, config.watchdog_s))
        return ContainerConnection(container, cancellation)

    return open_stream


def _options(scheme: str, config: SourceConfig) -> Mapping[str, str]:
    # FFmpeg's analysis of the stream must end before PyAV's timeout for opening
    analysis = {"analyzeduration": str(round(config.connect_s / 2 * MICROSECONDS))}
    if scheme in {"rtsp", "rtsps"}:
        return analysis | {
            "rtsp_transport": config.rtsp_transport.value,
            "timeout": str(round(config.connect_s * MICROSECONDS)),
        }
    return analysis


@lru_cache
def has_protocol(name: str) -> bool:
    """Whether this build of FFmpeg has a protocol of this name. Nothing is connected."""
    try:
        open_quietly(f"{name}:", {}).close()
    except av.ProtocolNotFoundError:
        return False
    except (OSError, ValueError):  # nothing exists at an empty address; the error depends on the protocol
        pass
    return True


_RECEIVE_BUFFER = 8 << 20
"""Requested buffer size in bytes; the system grants less. A large frame may arrive in one burst."""


def socket_feed(url: SplitResult, config: SourceConfig) -> Feed:
    """Create a feed from udp://[@][host]:port, which listens, or tcp://host:port, which connects. Ignores queries."""
    host, port = url.hostname or "", url.port
    if not port or (url.scheme == "tcp" and not host):
        example = "udp://@:5000" if url.scheme == "udp" else "tcp://192.168.0.2:5000"
        raise ConfigError(f"the {url.scheme}:// address has no port or host; write it as {example}")

    def open_stream(cancellation: Cancellation) -> Connection:
        with ExitStack() as resources:
            is_udp = url.scheme == "udp"
            opened = listening_udp(host, port) if is_udp else connected_tcp(host, port, cancellation, config.connect_s)
            resources.enter_context(opened)
            # a listening socket may stay silent without being lost; a silent connection is lost
            reader = SocketReader(opened, cancellation, timeout_s=None if is_udp else config.watchdog_s)
            return opened_stream(reader.read, cancellation, resources, config)

    return open_stream


def opened_stream(read: Read, cancellation: Cancellation, resources: ExitStack, config: SourceConfig) -> Connection:
    """Open a connection over the bytes that `read` delivers; it takes ownership of `resources`."""
    options = {"analyzeduration": str(round(config.first_frame_s * MICROSECONDS))}
    rehearsal = Rehearsal(read)
    container = open_quietly(rehearsal, options, buffer_size=BUFFER)
    if config.framing is Framing.PROMPT and is_transport(container):
        head = bytes(rehearsal.script)
        return TransportConnection(container, head, read, cancellation, resources=resources.pop_all())
    rehearsal.end()
    return ContainerConnection(container, cancellation, resources=resources.pop_all())


class SocketReader:
    """A socket as a file for FFmpeg: reading waits for data, then returns all of it."""

    def __init__(self, opened: socket.socket, cancellation: Cancellation, *, timeout_s: float | None) -> None:
        self._socket, self._cancellation, self._timeout_s = opened, cancellation, timeout_s
        self._is_stream = opened.type == socket.SOCK_STREAM
        self._rest = b""
        opened.setblocking(False)

    def read(self, size: int) -> bytes:
        """Return between 1 and `size` bytes; none at the end. Raises `Cancelled` and `TimeoutError`."""
        while not self._rest:  # an empty datagram is not the end
            self._cancellation.wait_ready(self._socket.fileno(), select.POLLIN, self._timeout_s)
            self._rest = self._received()
            if self._is_stream and not self._rest:
                return b""
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _received(self) -> bytes:
        parts = [self._socket.recv(BUFFER)]
        with suppress(BlockingIOError):
            while parts[-1] and sum(map(len, parts)) < BUFFER:
                parts.append(self._socket.recv(BUFFER))
        return b"".join(parts)


def connected_tcp(host: str, port: int, cancellation: Cancellation, timeout_s: float) -> socket.socket:
    """Connect to a server; raises the `OSError` of the last address tried, or `Cancelled`."""
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            with suppress(BlockingIOError):
                opened.connect(place)
            cancellation.wait_ready(opened.fileno(), select.POLLOUT, timeout_s)
            if number := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, "")  # selects the subclass for this number
        except OSError as error:
            opened.close()
            failure = error
        except BaseException:
            opened.close()
            raise
        else:
            return opened
    raise failure


def listening_udp(host: str, port: int) -> socket.socket:
    """Create a socket that receives data for a port of this machine, or for a multicast group."""
    family, kind, protocol, _, place = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_DGRAM)[0]
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(place)
        group = ipaddress.ip_address(str(place[0]).partition("%")[0])
        if group.is_multicast and isinstance(group, ipaddress.IPv4Address):
            opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4sI", group.packed, 0))
        elif group.is_multicast:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16sI", group.packed, 0))
    except BaseException:
        opened.close()
        raise
    return opened
