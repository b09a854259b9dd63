"""The browser page: the untouched picture with the markers drawn over it by the browser, for several viewers at once.

The thread that shows hands the newest frame to an encoder thread, which makes one message of it for all viewers; an
event loop in a thread of its own sends it to those that are ready for it.
"""

import secrets
import socket
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from polypstream.errors import ConfigError, SinkError
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.shown import LiveFrame, Status
from polypstream.realtime.live.viewers.access import Access, is_loopback
from polypstream.realtime.live.viewers.messages import FrameMessages, greeting
from polypstream.realtime.live.viewers.server import PageServer
from polypstream.realtime.live.viewers.watcher import Watcher
from polypstream.realtime.live.viewing import Commands, Gauges
from polypstream.realtime.overlay import MarkerStyle
from polypstream.realtime.stage import Stages

_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})


@dataclass(frozen=True, kw_only=True)
class PageConfig:
    """Where the page is served, and how."""

    host: str = "127.0.0.1"
    """The address to listen on. All but a loopback address demands a token."""
    port: int = 8765
    """0 for any that is free."""
    token: str | None = None
    """What viewers must know; None makes one at random where the address demands it."""
    max_width: int = 1280
    """Pictures that are wider than this, or higher, are scaled down for the page."""
    quality: int = 85
    """Of the JPEG, 1 to 100."""
    max_viewers: int = 16
    lost_after_s: float = 0.8
    """Without a new picture for so long, the page says by itself that the feed is lost."""
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
                raise ConfigError(f"the page's {name} is {value:g}; it should be from {low:g} to {high:g}")
        if self.token is not None and (len(self.token) < 8 or not self.token.isascii() or not self.token.isalnum()):
            raise ConfigError("the page's token must have at least 8 letters or digits; leave it out to have one made")


class Page:
    """A viewer in browsers; serves from its construction to `close`. A context manager that closes.

    Raises `MissingExtraError` without aiohttp, `SinkError` where the address cannot be listened on.
    """

    def __init__(self, config: PageConfig, commands: Commands) -> None:
        only_loopback = is_loopback(config.host)
        token = config.token or (None if only_loopback else secrets.token_hex(16))
        listener = _listener(config)
        self.port: int = listener.getsockname()[1]
        self._address = _address(config.host, self.port)
        self._token = token
        try:
            self._server = PageServer(
                listener,
                access=Access(token=token, only_loopback=only_loopback),
                greeting=greeting(config.style, lost_after_s=config.lost_after_s),
                commands=commands,
                max_viewers=config.max_viewers,
            )
        except BaseException:
            listener.close()
            raise
        self._messages = FrameMessages(max_width=config.max_width, quality=config.quality)
        self._newest: Handover[tuple[LiveFrame, Gauges] | Status] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self.encoded = 0
        """Pictures encoded so far: none while nobody watches, one a frame however many do."""
        self._stages = Stages(cancel=self._cancel)
        self._stages.start("page", self._server.run)
        self._stages.start("page-encoder", self._encode)

    @property
    def url(self) -> str:
        """The address to open, with the token where there is one: print it once, log it nowhere."""
        return f"{self._address}/" + (f"?token={self._token}" if self._token else "")

    @property
    def watchers(self) -> tuple[Watcher, ...]:
        """The pages that are open now, and the delays they measure."""
        return self._server.watchers

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Show a frame on every page that is ready for one."""
        self._offer((shown, gauges))

    def tell(self, status: Status) -> None:
        """Show on every page how things stand."""
        self._offer(status)

    def close(self) -> None:
        """Take leave of all viewers and end both threads; raises what went wrong in them."""
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

    def _offer(self, item: tuple[LiveFrame, Gauges] | Status) -> None:
        if not any(watcher.is_ready for watcher in self._server.watchers):
            return
        try:
            self._newest.put(item)
        except HandoverClosed:
            return  # closing, or failed: `close` tells

    def _encode(self) -> None:
        for item in self._newest:
            if isinstance(item, Status):
                self._server.publish(self._messages.of_status(item))
            else:
                self._server.publish(self._messages.of_frame(*item))
                self.encoded += 1

    def _cancel(self) -> None:
        self._newest.cancel()
        self._server.stop()


def _listener(config: PageConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        return socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SinkError(
            f"cannot serve the page on {config.host} port {config.port}: {reason}; choose another address or port"
        ) from error


def _address(host: str, port: int) -> str:
    """What a browser is to open: an address that stands for all of them is not one of them."""
    name = socket.gethostname() if host in _EVERYWHERE else host
    return f"http://{f'[{name}]' if ':' in name else name}:{port}"
