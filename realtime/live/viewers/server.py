"""The page's web server (extra [serve]): one event loop, its files, and a WebSocket per viewer."""

import asyncio
import json
import logging
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from polypstream.errors import ConfigError, MissingExtraError
from polypstream.realtime.live.viewers.access import Access, Allowance, Attempts, Log, Role, Visit, is_loopback
from polypstream.realtime.live.viewers.connections import ANSWER_S, DOWNLOAD_S, Client, Connections, most_connections
from polypstream.realtime.live.viewers.documents import Documents
from polypstream.realtime.live.viewers.messages import Drawn, Ping, VideoEnd, VideoOffer, pong, reply_from_text
from polypstream.realtime.live.viewers.viewer import Commands, Notice, Record
from polypstream.realtime.live.viewers.webrtc import Peer, is_available
from polypstream.realtime.statistics import Recent

if TYPE_CHECKING:
    import av
    from aiohttp import web

UNDRAWN_MESSAGES = 3
"""Maximum number of unfinished messages per page: a slow connection never delays frames, it only gets fewer."""
PING_S = 10.0
"""Heartbeat interval in seconds; a viewer that is silent for one and a half intervals is disconnected."""
FAREWELL_S = 1.0
"""Seconds that viewers may take to close their connections at the end."""
COOKIE_S = 7 * 24 * 3600
_LONGEST_REPLY = 16_384
"""Bytes: enough for a contour with some hundred points, and for a WebRTC offer."""
_MOST_VIDEO_MESSAGES = 45
"""Like `UNDRAWN_MESSAGES` for viewers with H.264, which buffer some frames: a second and a half."""
_MESSAGES, _MESSAGES_PER_S = 400, 200.0
"""Messages per second: a page sends one per frame, one ping per second, and commands."""
_COMMANDS, _COMMANDS_PER_S = 20, 10.0
"""Commands per second and page. Each may become a line of the event log, which is synced to disk."""
_ALL_COMMANDS, _ALL_COMMANDS_PER_S = 40, 20.0
_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_STREAM = re.compile(r"/stream/([0-9]{1,4})(/.*)?")
HEADERS = {
    "Server": "polypstream",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",  # the address may contain the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Headers of every response."""


class PageClient:
    """One open page. Belongs to the server's event loop; its counts and delays may be read from any thread."""

    def __init__(self, address: str, role: Role = Role.CONTROL, *, wants_frames: bool = True) -> None:
        self.address, self.role, self.wants_frames = address, role, wants_frames
        self.peer: Peer | None = None
        self.sent = 0
        """Messages."""
        self.sent_bytes = 0
        """Of messages; H.264 packets are not part of it."""
        self.drawn = 0
        """Frames that were drawn."""
        self.video_delay, self.marker_delay = Recent(), Recent()
        """Seconds, measured by the page; see `Drawn`."""
        self.messages = Allowance(at_once=_MESSAGES, per_second=_MESSAGES_PER_S)
        self.commands = Allowance(at_once=_COMMANDS, per_second=_COMMANDS_PER_S)
        self._newest: bytes | None = None
        self._undrawn = 0
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether a message would be sent immediately."""
        most = _MOST_VIDEO_MESSAGES if self.has_video else UNDRAWN_MESSAGES
        return self.wants_frames and self._undrawn < most

    @property
    def has_video(self) -> bool:
        """Whether it receives H.264 instead of JPEG."""
        return self.peer is not None and self.peer.is_connected

    def offer(self, message: bytes) -> None:
        """Send this message next, replacing any that is still waiting."""
        self._newest = message
        self._changed.set()

    def note(self, drawn: Drawn) -> None:
        """Record that the page has processed one message."""
        self._undrawn = max(self._undrawn - 1, 0)
        self._changed.set()
        if drawn.video_delay_s is not None:
            self.drawn += 1
            self.video_delay.add(drawn.video_delay_s)
        if drawn.marker_delay_s is not None:
            self.marker_delay.add(drawn.marker_delay_s)

    async def send_on(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send the newest message whenever there is one and the page is ready, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is not None and self.is_ready:
                message, self._newest = self._newest, None
                self._undrawn += 1
                self.sent += 1
                self.sent_bytes += len(message)
                await send(message)


@dataclass(frozen=True, kw_only=True)
class _File:
    body: bytes
    kind: str


class PageServer:
    """Serves the page on a listening socket. Call `run` in its own thread; the rest may be called from any thread.

    Several streams share a socket: the server that listens is their hub and shows a grid; each of the others is created
    with this `hub`, which serves it below /stream/1/, /stream/2/ and so on, and is not run.

    Raises:
        MissingExtraError: aiohttp is not installed.
    """

    def __init__(
        self,
        listener: socket.socket | None,
        *,
        hub: "PageServer | None" = None,
        access: Access,
        greeting: Callable[[Role], str],
        home: str = "index.html",
        record: Callable[[], Record | None] = lambda: None,
        notice: Callable[[], Notice | None] = lambda: None,
        share: Callable[[], str | None] = lambda: None,
        commands: Commands,
        max_viewers: int,
        tls: ssl.SSLContext | None = None,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        try:
            import aiohttp  # noqa: F401 - to detect its absence immediately
        except ImportError:
            raise MissingExtraError("the browser page", "serve") from None
        self._listener, self._access, self._greeting, self._commands = listener, access, greeting, commands
        self._max_viewers, self._tls, self._log = max_viewers, tls, Log(on_notice)
        self._home = home
        self._documents = Documents(record=record, notice=notice, share=share)
        self._base = urlsplit(access.public_url or "").path.rstrip("/")
        self._cookie = f"polypstream_{listener.getsockname()[1]}" if listener is not None else ""
        self._attempts = Attempts()
        self._all_commands = Allowance(at_once=_ALL_COMMANDS, per_second=_ALL_COMMANDS_PER_S)
        self._sockets: dict[web.WebSocketResponse, PageClient] = {}
        self._streams: list[PageServer] = []
        self._hub = hub
        self._loop: asyncio.AbstractEventLoop = asyncio.new_event_loop() if hub is None else hub._loop
        self._stopped = asyncio.Event()
        self._files = _static_files()
        if hub is not None:
            self._cookie, self._attempts, self._base = hub._cookie, hub._attempts, ""
            hub._streams.append(self)
            self.number = len(hub._streams)
        self._tasks: set[asyncio.Task[None]] = set()
        self.farewell = "polypstream has ended"
        """Reason for the end of the server, for the viewers."""

    @property
    def clients(self) -> tuple[PageClient, ...]:
        """Currently open pages."""
        return tuple(self._sockets.copy().values())

    def run(self) -> None:
        """Serve until `stop`."""
        assert self._listener is not None
        with self._listener, asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    def publish(self, message: bytes, *, is_image: bool = False) -> None:
        """Offer a message to every viewer; returns immediately. `is_image`: not to those with H.264."""
        self._call(self._spread, message, is_image)

    def publish_video(self, message: bytes, packets: "list[av.Packet[Any]]") -> None:
        """Offer H.264 packets and the message with their markers to every viewer with H.264; returns immediately."""
        self._call(self._spread_video, message, packets)

    def end_video(self) -> None:
        """Return every viewer to JPEG; returns immediately."""
        self._call(self._end_every_video)

    def stop(self) -> None:
        """End `run` within about `FAREWELL_S`; of a stream of a hub, disconnect the viewers."""
        if self._hub is None:
            self._call(self._stopped.set)
        else:
            self._call(lambda: self._loop.create_task(self._take_leave()))

    def _call(self, work: Callable[..., object], *arguments: object) -> None:
        with suppress(RuntimeError):  # the loop has ended, so there are no viewers
            self._loop.call_soon_threadsafe(work, *arguments)

    def _spread(self, message: bytes, is_image: bool) -> None:
        for client in self._sockets.values():
            if not (is_image and client.has_video):
                client.offer(message)

    def _spread_video(self, message: bytes, packets: "list[av.Packet[Any]]") -> None:
        for client in self._sockets.values():
            if client.peer is not None and client.has_video:
                client.peer.offer(packets)
                client.offer(message)

    async def _serve(self) -> None:
        from aiohttp import web

        assert self._listener is not None
        self._loop.set_exception_handler(self._failed)
        server = web.Server(self._answered, access_log=None, handler_cancellation=True)
        connections = Connections(
            self._listener,
            _protocol_of(server, self._loop),
            most=most_connections(self._max_viewers),
            tls=self._tls,
            log=self._log,
        )
        accepting = self._loop.create_task(connections.run())
        try:
            await self._stopped.wait()
            await asyncio.gather(*(server._take_leave() for server in (self, *self._streams)))
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            await server.shutdown(FAREWELL_S)

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log one line instead of tracebacks, which clients could cause in any number."""
        error = context.get("exception")
        self._log.add("loop", f"page: {context.get('message', 'error')} ({type(error).__name__})")

    async def _answered(self, request: "web.BaseRequest") -> "web.StreamResponse":
        """Answer a request; each connection has only one."""
        protocol: Any = request.protocol
        protocol.answer_s = DOWNLOAD_S if "/clip/" in request.path else ANSWER_S
        protocol.requested.set()
        response = await self._response(request)
        if not response.prepared:
            response.headers.update(HEADERS)
            response.force_close()
        return response

    async def _response(self, request: "web.BaseRequest") -> "web.StreamResponse":
        from aiohttp import web

        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405, text="this server only answers GET")
        path = request.path
        if self._base and path == self._base:
            return web.Response(status=308, headers={"Location": self._base.rpartition("/")[2] + "/"})
        path = path.removeprefix(self._base) if self._base and path.startswith(f"{self._base}/") else path
        if match := _STREAM.fullmatch(path):
            if not 0 < (number := int(match[1])) <= len(self._streams):
                return web.Response(status=404, text="there is no stream of this number; the grid is at /")
            if match[2] is None:
                return web.Response(status=308, headers={"Location": f"{number}/"})
            return await self._streams[number - 1]._named(request, match[2].removeprefix("/"))
        return await self._named(request, path.removeprefix("/"))

    async def _named(self, request: "web.BaseRequest", name: str) -> "web.StreamResponse":
        """Answer a request for a name below the address of this page."""
        from aiohttp import web

        if name in {"", "watch", "status", "review"} or self._documents.has(name):
            return await self._guarded(request, name)
        file = self._files.get(name)
        if file is None or name.endswith(".html"):
            return web.Response(status=404, text="this address does not exist; the page is at /")
        return web.Response(body=file.body, content_type=file.kind, charset="utf-8")

    async def _guarded(self, request: "web.BaseRequest", name: str) -> "web.StreamResponse":
        """Answer a request to which the access rules apply."""
        from aiohttp import web

        address, is_proxied = self._address_of(request)
        token = request.query.get("token") or request.cookies.get(self._cookie)
        if self._attempts.is_blocked(address):
            return self._refused(name, 429, "there were too many wrong tokens from your address; wait a minute")
        refusal = self._access.refusal(
            Visit(
                host=request.headers.get("Host", ""),
                token=token,
                origin=request.headers.get("Origin"),
                fetch_site=request.headers.get("Sec-Fetch-Site"),
                forwarded_host=request.headers.get("X-Forwarded-Host") if is_proxied else None,
            )
        )
        role = self._access.role(token)
        if role is None and token:
            self._note_failure(address, token)
        if refusal is not None or role is None:
            return self._refused(name, 403, refusal or "")
        if name == "watch":
            return await self._watch(request, address, role)
        if name == "status":
            is_full = len(self._sockets) >= self._max_viewers
            return web.Response(status=503 if is_full else 200, text=self._full() if is_full else "ready")
        if "token" in request.query and not name:
            return self._remembered(request, str(token))
        if self._documents.has(name):
            return await self._documents.response(name, role)
        if self._streams:
            grid = self._files["grid.html"].body.decode().replace("{streams}", str(len(self._streams)))
            return web.Response(text=grid, content_type="text/html")
        file = self._files["review.html" if name == "review" else self._home]
        return web.Response(body=file.body, content_type=file.kind, charset="utf-8")

    def _address_of(self, request: "web.BaseRequest") -> tuple[str, bool]:
        """Return the client's address, and whether a trusted proxy forwards its requests."""
        peer = request.remote or ""
        is_trusted = is_loopback(peer) or self._access.public_url is not None
        forwarded = request.headers.get("X-Forwarded-For", "") if is_trusted else ""
        return forwarded.rpartition(",")[2].strip() or peer, is_trusted

    def _note_failure(self, address: str, token: str) -> None:
        count = self._attempts.failed(address, token)
        if count == 1:
            self._log.add(f"token {address}", f"page: wrong token from {address}")
        elif count > Attempts.FREE:
            self._log.add(f"blocked {address}", f"page: {count} wrong tokens from {address}, which is now blocked")

    def _remembered(self, request: "web.BaseRequest", token: str) -> "web.Response":
        """Move the token from the address, where history and screen would show it, to a cookie."""
        from aiohttp import web

        is_secure = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
        is_secure = is_secure or (self._access.public_url or "").startswith("https:")
        response = web.Response(status=303, headers={"Location": "./"})
        response.set_cookie(
            self._cookie, token, path="/", max_age=COOKIE_S, httponly=True, samesite="Lax", secure=is_secure
        )
        return response

    def _refused(self, name: str, status: int, reason: str) -> "web.Response":
        from aiohttp import web

        if name:
            return web.Response(status=status, text=reason)
        page = self._files["refused.html"].body.decode().replace("{reason}", escape(reason[:1].upper() + reason[1:]))
        return web.Response(status=status, text=page, content_type="text/html")

    def _full(self) -> str:
        return f"{self._max_viewers} pages are already open; close one of them"

    async def _watch(self, request: "web.BaseRequest", address: str, role: Role) -> "web.StreamResponse":
        from aiohttp import web

        if len(self._sockets) >= self._max_viewers:
            return web.Response(status=503, text=self._full())
        opened = web.WebSocketResponse(
            heartbeat=PING_S, compress=False, max_msg_size=_LONGEST_REPLY, timeout=FAREWELL_S
        )
        if not opened.can_prepare(request).ok:
            return web.Response(status=426, text="this address is for WebSockets; the page is at /")
        opened.headers.update(HEADERS)
        await opened.prepare(request)
        protocol: Any = request.protocol
        protocol.is_upgraded = True
        protocol.answered.set()
        client = self._sockets[opened] = PageClient(address, role, wants_frames="commands" not in request.query)
        try:
            async with asyncio.TaskGroup() as tasks:
                await opened.send_str(self._greeting(role))
                sending = tasks.create_task(client.send_on(opened.send_bytes))
                await self._listen(opened, client)
                sending.cancel()
        except* ConnectionError:
            pass  # the viewer disconnected during a send
        finally:
            del self._sockets[opened]
            await self._end_video(client)
        return opened

    async def _start_video(self, opened: "web.WebSocketResponse", client: PageClient, sdp: str) -> None:
        """Answer a viewer's WebRTC offer; without the extra, there is no answer, and the viewer keeps JPEG."""
        if not is_available():
            return
        await self._end_video(client)

        def on_origin(origin: int) -> None:
            self._later(opened.send_str(json.dumps({"kind": "video_origin", "origin": origin})))

        peer = Peer(on_origin=on_origin)
        answer = await peer.answer(sdp)
        client.peer = peer
        await opened.send_str(json.dumps({"kind": "video_answer", "sdp": answer}))

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task of the event loop, and keep it until it is done."""

        async def run() -> None:
            with suppress(ConnectionError):  # the viewer has gone
                await work

        task = self._loop.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _end_every_video(self) -> None:
        for client in self._sockets.values():
            self._later(self._end_video(client))

    async def _end_video(self, client: PageClient) -> None:
        peer, client.peer = client.peer, None
        if peer is not None:
            await peer.close()

    async def _listen(self, opened: "web.WebSocketResponse", client: PageClient) -> None:
        """Process a viewer's messages until it disconnects or sends something that the page would not."""
        from aiohttp import WSCloseCode, WSMsgType

        async for message in opened:
            try:
                if not client.messages.take():
                    self._log.add("flood", f"page: {client.address} sent too many messages and was disconnected")
                    raise ConfigError("too many messages; reload the page")
                reply = reply_from_text(message.data if message.type is WSMsgType.TEXT else "binary data")
            except ConfigError as error:
                await opened.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:120])
                return
            if isinstance(reply, VideoOffer | VideoEnd) and not client.commands.take():
                continue
            match reply:
                case Ping(sent_ms=sent_ms):
                    await opened.send_str(pong(sent_ms, now_s=monotonic()))
                case Drawn():
                    client.note(reply)
                case VideoOffer(sdp=sdp):
                    try:
                        await self._start_video(opened, client, sdp)
                    except ConfigError as error:
                        await opened.close(code=WSCloseCode.POLICY_VIOLATION, message=str(error).encode()[:120])
                        return
                case VideoEnd():
                    await self._end_video(client)
                case command if client.role is Role.CONTROL:
                    if client.commands.take() and self._all_commands.take():
                        self._commands.send(command)
                    else:
                        self._log.add("commands", f"page: {client.address} sends commands too fast; ignoring some")

    async def _take_leave(self) -> None:
        """Close every WebSocket without waiting for those that do not respond."""
        from aiohttp import WSCloseCode

        message = self.farewell.encode()[:120]
        farewells = (opened.close(code=WSCloseCode.GOING_AWAY, message=message) for opened in self._sockets.copy())
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await asyncio.gather(*farewells, return_exceptions=True)


def _protocol_of(server: "web.Server", loop: asyncio.AbstractEventLoop) -> Callable[[], Client]:
    """Create aiohttp's protocol with the events that `Connections` needs, and without tracebacks."""
    from aiohttp import web

    quiet = logging.getLogger("polypstream.page")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False

    class Handler(web.RequestHandler):
        __slots__ = ("answer_s", "answered", "closed", "is_upgraded", "requested")

        def __init__(self) -> None:
            super().__init__(server, loop=loop, logger=quiet, access_log=None, lingering_time=0)  # type: ignore[arg-type]
            self.requested, self.answered, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()
            self.is_upgraded, self.answer_s = False, ANSWER_S

        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            for event in (self.requested, self.answered, self.closed):
                event.set()

        def handle_error(
            self,
            request: web.BaseRequest,
            status: int = 500,
            exc: BaseException | None = None,
            message: str | None = None,
        ) -> web.StreamResponse:
            self.requested.set()
            response = web.Response(status=status, text="this is not a valid request for the page", headers=HEADERS)
            response.force_close()
            return response

    return Handler


def _static_files() -> Mapping[str, _File]:
    """Read the files of the page, by file name."""
    folder = files(__package__) / "static"
    return {
        item.name: _File(body=item.read_bytes(), kind=_KINDS[suffix])
        for item in folder.iterdir()
        if (suffix := item.name[item.name.rfind(".") :]) in _KINDS
    }
