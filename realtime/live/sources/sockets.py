"""Streams over bare UDP and TCP, read from sockets of our own: woken at once, nothing kept back."""

import ipaddress
import select
import socket
import struct
from contextlib import ExitStack, suppress
from urllib.parse import SplitResult

from polypstream.errors import ConfigError
from polypstream.realtime.live.sources.config import Framing, SourceConfig
from polypstream.realtime.live.sources.connection import (
    BUFFER,
    MICROSECONDS,
    Connection,
    ContainerConnection,
    Feed,
    open_quietly,
)
from polypstream.realtime.live.sources.halt import Halt
from polypstream.realtime.live.sources.transport import Rehearsal, TransportConnection, is_transport

_RECEIVE_BUFFER = 8 << 20
"""Bytes asked for; the system grants less. A large frame may come in one burst."""


def socket_feed(url: SplitResult, config: SourceConfig) -> Feed:
    """A feed from udp://[@][host]:port, which listens, or tcp://host:port, which connects. Queries are ignored."""
    host, port = url.hostname or "", url.port
    if not port or (url.scheme == "tcp" and not host):
        example = "udp://@:5000" if url.scheme == "udp" else "tcp://192.168.0.2:5000"
        raise ConfigError(f"the {url.scheme}:// address lacks its port or host; write it as {example}")

    def open_stream(halt: Halt) -> Connection:
        with ExitStack() as resources:
            is_udp = url.scheme == "udp"
            opened = listening_udp(host, port) if is_udp else connected_tcp(host, port, halt, config.connect_s)
            resources.enter_context(opened)
            # nothing is lost by listening, for as long as nobody sends; a connection that is silent is lost
            reader = SocketReader(opened, halt, timeout_s=None if is_udp else config.watchdog_s)
            options = {"analyzeduration": str(round(config.first_picture_s * MICROSECONDS))}
            rehearsal = Rehearsal(reader.read)
            container = open_quietly(rehearsal, options, buffer_size=BUFFER)
            if config.framing is Framing.PROMPT and is_transport(container):
                head = bytes(rehearsal.script)
                return TransportConnection(container, head, reader.read, halt, resources=resources.pop_all())
            rehearsal.end()
            return ContainerConnection(container, halt, resources=resources.pop_all())

    return open_stream


class SocketReader:
    """A socket as a file for FFmpeg; reading waits for something to come, then gives all there is."""

    def __init__(self, opened: socket.socket, halt: Halt, *, timeout_s: float | None) -> None:
        self._socket, self._halt, self._timeout_s = opened, halt, timeout_s
        self._is_stream = opened.type == socket.SOCK_STREAM
        self._rest = b""
        opened.setblocking(False)

    def read(self, size: int) -> bytes:
        """Between 1 and `size` bytes; none at the end of a connection. Raises `Halted` and `TimeoutError`."""
        while not self._rest:  # an empty datagram is no end
            self._halt.until_ready(self._socket.fileno(), select.POLLIN, self._timeout_s)
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


def connected_tcp(host: str, port: int, halt: Halt, timeout_s: float) -> socket.socket:
    """A connection to a server. Raises `OSError` of the last address tried, and `Halted`."""
    failure: OSError = TimeoutError()
    for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        opened = socket.socket(family, kind, protocol)
        try:
            opened.setblocking(False)
            with suppress(BlockingIOError):
                opened.connect(place)
            halt.until_ready(opened.fileno(), select.POLLOUT, timeout_s)
            if number := opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, "")  # becomes the subclass that belongs to the number
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
    """A socket that receives what is sent to a port of this machine, or to a multicast group."""
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
