"""Browser page: sends frames to several viewers at the same time; their browsers draw the markers.

The display thread passes the newest frame to an encoder thread, which creates one message for all viewers. An event
loop in a third thread sends it to the viewers that are ready for it.
"""

import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import av

from polypstream.errors import ConfigError, OutputError
from polypstream.realtime.live.display_frame import DisplayFrame, Status
from polypstream.realtime.live.viewers.access import Access, Role, is_loopback
from polypstream.realtime.live.viewers.alerts import AlertConfig
from polypstream.realtime.live.viewers.messages import FrameMessages, greeting
from polypstream.realtime.live.viewers.server import PageClient, PageServer
from polypstream.realtime.live.viewers.viewer import Commands, LiveStatistics, Notice, Record
from polypstream.realtime.live.viewers.webrtc import PacketEncoder, is_available
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """Address, access and quality of the page.

    Raises:
        ConfigError: A value is out of range, or the values do not fit together.
    """

    host: str = "127.0.0.1"
    """Address to listen on. All except loopback addresses require a token."""
    port: int = 8765
    """TCP port; 0 for any free one."""
    token: str | None = None
    """Token required to control; None generates a random one where one is required: on all except loopback addresses,
    and with `public_url`."""
    view_token: str | None = None
    """Token required to watch only; None generates a random one where one is required."""
    public_url: str | None = None
    """Address at which a reverse proxy serves the page, such as https://lab.example/scope/."""
    tls_cert: Path | None = None
    """PEM file with a certificate and its chain; the page is then served over HTTPS."""
    tls_key: Path | None = None
    """PEM file with its private key; None if the certificate's file contains it."""
    label: str = ""
    """Label of the session, shown on the page."""
    alerts: AlertConfig = field(default_factory=AlertConfig)
    """Default alerts; each browser may change its own."""
    max_width: int = 1280
    """Maximum width and height of images on the page, in pixels; larger ones are scaled down."""
    quality: int = 85
    """JPEG quality, 1 to 100."""
    max_viewers: int = 16
    lost_after_s: float = 0.8
    """Seconds without a new frame after which the page reports the feed as lost."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        ranges = {
            "port": (0, 65535),
            "max_width": (64, 8192),
            "quality": (1, 100),
            "max_viewers": (1, 1000),
            "lost_after_s": (0.1, 60),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"the page's {name} is {value:g}; it must be between {low:g} and {high:g}")
        for token in (self.token, self.view_token):
            if token is not None and (len(token) < 8 or not token.isascii() or not token.isalnum()):
                raise ConfigError(
                    "the page's token must have at least 8 letters or digits; omit it to have one generated"
                )
        if self.token is not None and self.token == self.view_token:
            raise ConfigError("the page's two tokens are the same; use different ones for control and viewing")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("the page's TLS key requires its certificate; add --tls-cert")
        if self.public_url is not None:
            parts = urlsplit(self.public_url)
            if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
                raise ConfigError(
                    f"the page's public URL is {self.public_url!r}; write it like https://lab.example/scope/"
                )


class Page:
    """Viewer for browsers. It serves from construction until `close`. Use as a context manager.

    Args:
        config: Address, access and quality of the page.
        commands: Receives the users' commands.
        source: Name of the source, shown on the page.
        record: Record of the session, shown on the page; it may not be known before the session starts.
        on_notice: Called with one line for the terminal, from any thread.
        home: The file that is shown at the address of the page: `index.html`, or `review.html` without a live feed.
        notice: Returns the newest message for the user; None for that of the statistics.
        hub: A page whose server also serves this one, below /stream/N/, while it shows all of them as a grid.

    Raises:
        MissingExtraError: aiohttp is not installed.
        OutputError: The address is in use or unavailable.
    """

    def __init__(
        self,
        config: PageConfig,
        commands: Commands,
        *,
        source: str = "",
        record: Callable[[], Record | None] = lambda: None,
        on_notice: Callable[[str], None] = lambda _: None,
        home: str = "index.html",
        notice: Callable[[], Notice | None] | None = None,
        hub: "Page | None" = None,
    ) -> None:
        only_loopback = is_loopback(config.host)
        needs_token = config.token is not None or not only_loopback or config.public_url is not None
        self._token = config.token or secrets.token_hex(16) if needs_token else None
        self._view_token = config.view_token or secrets.token_hex(16) if needs_token else None
        if hub is not None:
            self._token, self._view_token = hub._token, hub._view_token
        self._notice: Notice | None = None
        self._on_notice = on_notice
        self._is_reachable = not only_loopback or config.public_url is not None
        tls = _tls(config)
        listener = _listener(config) if hub is None else None
        self.port: int = listener.getsockname()[1] if listener is not None else hub.port if hub is not None else 0
        own = _address(config.host, self.port, scheme="http" if tls is None else "https")
        self._address = (config.public_url or own).rstrip("/")
        try:
            self._server: PageServer = PageServer(
                listener,
                hub=None if hub is None else hub._server,
                access=Access(
                    token=self._token,
                    view_token=self._view_token,
                    only_loopback=only_loopback,
                    public_url=config.public_url,
                ),
                greeting=lambda role: greeting(
                    config.style,
                    lost_after_s=config.lost_after_s,
                    may_control=role is Role.CONTROL,
                    alerts=config.alerts,
                    session=config.label,
                    source=source,
                    share=self._share_url if role is Role.CONTROL else None,
                    has_video=is_available(),
                ),
                record=record,
                home=home,
                notice=notice or (lambda: self._notice),
                share=lambda: self._share_url,
                commands=commands,
                max_viewers=config.max_viewers,
                tls=tls,
                on_notice=on_notice,
            )
        except BaseException:
            if listener is not None:
                listener.close()
            raise
        if hub is not None:
            self._address += f"/stream/{self._server.number}"
        self._packets = PacketEncoder()
        self._messages = FrameMessages(max_width=config.max_width, quality=config.quality)
        self._newest: Handover[tuple[DisplayFrame | Status, LiveStatistics]] = Handover(
            capacity=1, delivery=Delivery.NEWEST
        )
        self.encoded = 0
        """Number of encoded images: one per frame regardless of the number of viewers, none without viewers."""
        self._stages = Stages(cancel=self._cancel)
        if hub is None:
            self._stages.start("page", self._server.run)
        self._stages.start("page-encoder", self._encode)

    @property
    def url(self) -> str:
        """Address to open, including the token if there is one: print it once, never log it."""
        return f"{self._address}/" + (f"?token={self._token}" if self._token else "")

    @property
    def view_url(self) -> str | None:
        """Address for users who may only watch; None if everyone may control."""
        return None if self._view_token is None else f"{self._address}/?token={self._view_token}"

    @property
    def _share_url(self) -> str | None:
        """Address for other screens; None on loopback addresses, which other machines cannot open."""
        return self.view_url if self._is_reachable else None

    @property
    def clients(self) -> tuple[PageClient, ...]:
        """Currently open pages, with the delays they measure."""
        return self._server.clients

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Show a frame on every page that is ready for it."""
        self._offer((shown, statistics))

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Show the status on every page while there is no frame."""
        self._server.farewell = status.reason or self._server.farewell
        self._offer((status, statistics))

    def close(self) -> None:
        """Disconnect all viewers and end both threads; raises errors that occurred in them."""
        self._cancel()
        self._stages.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._stages.cancel_and_join()

    def _offer(self, item: tuple[DisplayFrame | Status, LiveStatistics]) -> None:
        self._notice = item[1].notice
        if not any(client.is_ready for client in self._server.clients):
            return
        try:
            self._newest.put(item)
        except HandoverClosed:
            return  # closing, or failed: `close` raises the error

    def _encode(self) -> None:
        for item in self._newest:
            shown, statistics = item
            if isinstance(shown, Status):
                self._server.publish(self._messages.of_status(shown, statistics))
                continue
            clients = [client for client in self._server.clients if client.is_ready]
            if any(not client.has_video for client in clients):
                self._server.publish(self._messages.of_frame(shown, statistics), is_image=True)
                self.encoded += 1
            if any(client.has_video for client in clients):
                try:
                    packets, stamp = self._packets.encode(shown.frame)
                except av.FFmpegError as error:
                    self._on_notice(f"page: frames cannot be encoded as H.264 ({error}); viewers get JPEG")
                    self._server.end_video()
                    continue
                message = self._messages.of_frame(shown, statistics, video_stamp=stamp)
                self._server.publish_video(message, packets)

    def _cancel(self) -> None:
        self._newest.cancel()
        self._server.stop()


def _listener(config: PageConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot serve the page on {config.host} port {config.port}: {reason}; choose another address or port"
        ) from error


def _tls(config: PageConfig) -> ssl.SSLContext | None:
    if config.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ValueError) as error:
        named = " and ".join(str(path) for path in (config.tls_cert, config.tls_key) if path is not None)
        raise ConfigError(f"{named}: the certificate cannot be read ({error}); use PEM files") from None
    return context


def _address(host: str, port: int, *, scheme: str) -> str:
    """Return the address to open in a browser; a wildcard address is replaced with a specific one."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    return f"{scheme}://{f'[{name}]' if ':' in name else name}:{port}"
