"""TCP connections to the page: limits their number, and the time until a request must be complete.

Neither idle connections nor a flood of new ones can use up the file descriptors that recordings and snapshots need.
"""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from polypstream.realtime.live.viewers.access import Log

REQUEST_S = 10.0
"""Seconds after which a connection without a complete request is closed, TLS handshake included."""
ANSWER_S = 10.0
"""Seconds that a client may take to receive a response; WebSockets have their own limits."""
DOWNLOAD_S = 600.0
"""The same for a clip."""
RESERVE = 64
"""File descriptors reserved for everything else."""
BESIDE_VIEWERS = 48
"""Connections allowed in addition to the viewers' own: for files of the page, and idle ones."""
_LEAST = 8
_PAUSE_S = 0.2


class Client(Protocol):
    """The part of a connection's protocol that `Connections` uses."""

    requested: asyncio.Event
    """Set when a complete request has arrived."""
    answered: asyncio.Event
    """Set when it has been answered, or has become a WebSocket."""
    closed: asyncio.Event
    is_upgraded: bool
    """Whether it is a WebSocket."""
    answer_s: float
    """Seconds that the client may take to receive the response."""


def most_connections(max_viewers: int) -> int:
    """Return how many connections the limits of this process allow, up to the number useful for these viewers."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir())) if os.path.isdir("/proc/self/fd") else RESERVE  # noqa: PTH112
    return max(min(max_viewers + BESIDE_VIEWERS, limit - in_use - RESERVE), _LEAST)


class Connections:
    """Accepts connections on a listening socket and passes them to aiohttp; `run` until cancelled.

    If there are too many, the connection that has been idle longest is closed in favor of the newest.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], Client],
        *,
        most: int,
        tls: ssl.SSLContext | None,
        log: Log,
    ) -> None:
        self._listener, self._protocol, self._most, self._tls, self._log = listener, protocol, most, tls, log
        self._open: dict[asyncio.Task[None], Client | None] = {}

    async def run(self) -> None:
        """Accept until cancelled, then close everything."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        try:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(self._listener)
                except OSError as error:
                    self._log.add("accept", f"page: no connection can be accepted ({error.strerror}); trying again")
                    await asyncio.sleep(_PAUSE_S)
                    continue
                if not self._has_room():
                    accepted.close()
                    continue
                task = loop.create_task(self._serve(accepted))
                self._open[task] = None
                task.add_done_callback(partial(self._forget, accepted))
        finally:
            for task in self._open.copy():
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _has_room(self) -> bool:
        """Make room for a connection, if necessary by closing the oldest idle one."""
        if len(self._open) < self._most:
            return True
        self._log.add("full", f"page: {self._most} connections are open; closing idle ones to accept new ones")
        idle = (task for task, protocol in self._open.items() if protocol is None or not protocol.requested.is_set())
        oldest = next(idle, None)
        if oldest is None:
            return False
        oldest.cancel()
        del self._open[oldest]
        return True

    async def _serve(self, accepted: socket.socket) -> None:
        """Monitor one connection until it is closed."""
        transport: asyncio.Transport | None = None
        try:
            async with asyncio.timeout(REQUEST_S):
                transport, protocol = await self._connected(accepted)
                task = asyncio.current_task()
                assert task is not None
                if task in self._open:
                    self._open[task] = protocol
                await protocol.requested.wait()
            if not protocol.is_upgraded:
                async with asyncio.timeout(protocol.answer_s):
                    await protocol.answered.wait()
            if protocol.is_upgraded:
                await protocol.closed.wait()
        except (TimeoutError, OSError):
            pass  # too slow, disconnected, or not TLS
        finally:
            if transport is not None:
                transport.abort()

    async def _connected(self, accepted: socket.socket) -> tuple[asyncio.Transport, Client]:
        loop: Any = asyncio.get_running_loop()
        transport, protocol = await loop.connect_accepted_socket(self._protocol, accepted, ssl=self._tls)
        return transport, protocol

    def _forget(self, accepted: socket.socket, task: asyncio.Task[None]) -> None:
        accepted.close()  # here, because a task cancelled before it starts closes nothing
        self._open.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.add("connection", f"page: a connection failed ({type(error).__name__})")
