"""The page's web server: one event loop that serves the page and holds a socket to every viewer (extra `[serve]`)."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from time import monotonic
from typing import TYPE_CHECKING

from polypstream.errors import ConfigError, MissingExtraError
from polypstream.realtime.live.viewers.access import Access
from polypstream.realtime.live.viewers.messages import Drawn, Ping, pong, reply_from_text
from polypstream.realtime.live.viewers.watcher import Watcher
from polypstream.realtime.live.viewing import Commands

if TYPE_CHECKING:
    from aiohttp import web

    _Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PING_S = 10.0
"""A viewer that is silent for one and a half of these is gone."""
FAREWELL_S = 1.0
"""For so long viewers may take leave at the end."""
_LONGEST_REPLY = 4096
"""Bytes."""
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",  # the address holds the token
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, kw_only=True)
class _File:
    body: bytes
    kind: str


class PageServer:
    """Serves the page on a listening socket. `run` belongs into a thread; the rest may be called from any.

    Raises `MissingExtraError` without aiohttp.
    """

    def __init__(
        self, listener: socket.socket, *, access: Access, greeting: str, commands: Commands, max_viewers: int
    ) -> None:
        try:
            import aiohttp  # noqa: F401 - so that its absence shows at once
        except ImportError:
            raise MissingExtraError("the browser page", "serve") from None
        self._listener, self._access, self._greeting, self._commands = listener, access, greeting, commands
        self._max_viewers = max_viewers
        self._lines: dict[web.WebSocketResponse, Watcher] = {}
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._files = _static_files()

    @property
    def watchers(self) -> tuple[Watcher, ...]:
        """The pages that are open."""
        return tuple(self._lines.copy().values())

    def run(self) -> None:
        """Serve until `stop`."""
        with self._listener, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def publish(self, message: bytes) -> None:
        """Offer a message to every viewer; returns at once."""
        self._call(self._spread, message)

    def stop(self) -> None:
        """Have `run` return, about `FAREWELL_S` later at most."""
        self._call(self._stopped.set)

    def _call(self, work: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended: there is nobody left
            self._loop.call_soon_threadsafe(work, *arguments)

    def _spread(self, message: bytes) -> None:
        for watcher in self._lines.values():
            watcher.offer(message)

    async def _serve(self) -> None:
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/", self._guarded(self._file))
        app.router.add_get("/watch", self._guarded(self._watch))
        app.router.add_get("/{name}", self._file)  # scripts and styles, which hold nothing private
        app.on_shutdown.append(self._take_leave)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=FAREWELL_S)
        try:
            await runner.setup()
            await web.SockSite(runner, self._listener).start()
            await self._stopped.wait()
        finally:
            await runner.cleanup()

    def _guarded(self, handler: "_Handler") -> "_Handler":
        """The handler, for those whom the rules of access let through."""
        from aiohttp import web

        async def answer(request: web.Request) -> web.StreamResponse:
            refusal = self._access.refusal(
                host=request.headers.get("Host", ""),
                origin=request.headers.get("Origin"),
                token=request.query.get("token"),
            )
            return await handler(request) if refusal is None else web.Response(status=403, text=refusal)

        return answer

    async def _file(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        file = self._files.get(request.match_info.get("name", "index.html"))
        if file is None:
            return web.Response(status=404, text="there is nothing here; the page is at /")
        return web.Response(body=file.body, content_type=file.kind, charset="utf-8", headers=_HEADERS)

    async def _watch(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        if len(self._lines) >= self._max_viewers:
            return web.Response(status=503, text=f"{self._max_viewers} pages are open already; close one of them")
        line = web.WebSocketResponse(heartbeat=PING_S, compress=False, max_msg_size=_LONGEST_REPLY, timeout=FAREWELL_S)
        await line.prepare(request)
        watcher = self._lines[line] = Watcher(request.remote or "")
        try:
            async with asyncio.TaskGroup() as tasks:
                await line.send_str(self._greeting)
                sending = tasks.create_task(watcher.send_on(line.send_bytes))
                await self._listen(line, watcher)
                sending.cancel()
        except* ConnectionError:
            pass  # the viewer has gone while something was being sent
        finally:
            del self._lines[line]
        return line

    async def _listen(self, line: "web.WebSocketResponse", watcher: Watcher) -> None:
        """Heed what a viewer says, until it goes or says what our page would not."""
        from aiohttp import WSCloseCode, WSMsgType

        async for message in line:
            try:
                reply = reply_from_text(message.data if message.type is WSMsgType.TEXT else "binary data")
            except ConfigError as error:
                await line.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:120])
                return
            match reply:
                case Ping(sent_ms=sent_ms):
                    await line.send_str(pong(sent_ms, now_s=monotonic()))
                case Drawn():
                    watcher.note(reply)
                case command:
                    self._commands.send(command)

    async def _take_leave(self, _: "web.Application") -> None:
        """Close every socket, without waiting for those that do not answer."""
        from aiohttp import WSCloseCode

        farewells = (line.close(code=WSCloseCode.GOING_AWAY, message=b"polypstream has ended") for line in self._lines)
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*farewells, return_exceptions=True)


def _static_files() -> Mapping[str, _File]:
    """The page itself, by file name."""
    folder = files(__package__) / "static"
    return {
        item.name: _File(body=item.read_bytes(), kind=_KINDS[suffix])
        for item in folder.iterdir()
        if (suffix := item.name[item.name.rfind(".") :]) in _KINDS
    }
