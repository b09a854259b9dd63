"""Access control of the page: tokens, host names and origins, and limits on attempts and messages."""

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address
from time import monotonic
from urllib.parse import urlsplit


class Role(Enum):
    """What a token permits."""

    CONTROL = "control"
    """Watch, record, take snapshots and change settings."""
    VIEW = "view"
    """Watch."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """The parts of a request that decide about access."""

    host: str
    """The Host header."""
    token: str | None = None
    """Token from the address or the cookie."""
    origin: str | None = None
    """The Origin header, which browsers set and pages cannot change."""
    fetch_site: str | None = None
    """The Sec-Fetch-Site header, likewise; only sent by secure pages."""
    forwarded_host: str | None = None
    """The X-Forwarded-Host header of a trusted proxy."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """Access rules of one server."""

    token: str | None = None
    """Token required to control; None if only this machine is served."""
    view_token: str | None = None
    """Token required to watch."""
    only_loopback: bool = False
    """The server listens on a loopback address, so every legitimate request names one, or the public address."""
    public_url: str | None = None
    """Address at which a reverse proxy serves the page."""

    def refusal(self, visit: Visit) -> str | None:
        """Return the reason to refuse a request, for the user; None if it is permitted.

        A page of another site can make a browser send requests to this server, under a host name that it points here
        (DNS rebinding), but it cannot forge Host, Origin and Sec-Fetch-Site.
        """
        name, public = _name_in(visit.host), self._public_host
        if self.only_loopback and not is_loopback(name) and (public is None or name != _name_in(public)):
            return (
                f"this server does not answer to the name {name!r}; use localhost, or start polypstream with "
                "--public-url and the address at which a proxy serves the page"
            )
        if visit.origin is not None and not self._is_own(visit):
            return (
                f"a page from {visit.origin} may not connect; open the page of this server directly, or start "
                "polypstream with --public-url and the address at which a proxy serves the page"
            )
        if self.token is not None and self.role(visit.token) is None:
            return "the token is missing or wrong; open the address that polypstream printed when it started"
        return None

    def role(self, token: str | None) -> Role | None:
        """Return what a token permits; None if it is wrong."""
        if self.token is None or _is_same(token, self.token):
            return Role.CONTROL
        return Role.VIEW if self.view_token is not None and _is_same(token, self.view_token) else None

    @property
    def _public_host(self) -> str | None:
        return None if self.public_url is None else urlsplit(self.public_url).netloc

    def _is_own(self, visit: Visit) -> bool:
        """Whether a request comes from a page of this server. Proxies may change Host; nginx does by default."""
        origin = urlsplit(visit.origin or "").netloc
        if origin and origin in {visit.host, self._public_host}:
            return True
        # behind a proxy, these headers prove nothing about the client: only accept them together with a token
        return self.token is not None and (
            (bool(origin) and origin == visit.forwarded_host) or visit.fetch_site == "same-origin"
        )


def is_loopback(host: str) -> bool:
    """Whether an address or host name refers to this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _name_in(host: str) -> str:
    """Return a Host header without port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_same(given: str | None, token: str) -> bool:
    return secrets.compare_digest((given or "").encode(), token.encode())


@dataclass(kw_only=True)
class _Failures:
    tokens: set[int] = field(default_factory=set)
    blocked_until: float = 0.0


class Attempts:
    """Counts wrong tokens by address. From the sixth different one on, an address is blocked for up to a minute.

    Repeating the same wrong token, as a page does that was open when the server restarted, does not count as a guess.
    """

    FREE = 5
    LONGEST_S = 60.0
    _MOST_ADDRESSES = 1024

    def __init__(self) -> None:
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def is_blocked(self, address: str) -> bool:
        """Whether requests from an address are currently refused."""
        failures = self._failures.get(address)
        return failures is not None and monotonic() < failures.blocked_until

    def failed(self, address: str, token: str) -> int:
        """Count a wrong token; returns the number of different ones from this address, or 0 if it is a repetition."""
        failures = self._failures.setdefault(address, _Failures())
        self._failures.move_to_end(address)
        if len(self._failures) > self._MOST_ADDRESSES:
            self._failures.popitem(last=False)
        key = hash(token)
        if key in failures.tokens:
            return 0
        count = len(failures.tokens) + 1
        if count <= self._MOST_ADDRESSES:
            failures.tokens.add(key)
        if count > self.FREE:
            failures.blocked_until = monotonic() + min(2.0 ** (count - self.FREE), self.LONGEST_S)
        return count


class Allowance:
    """A rate limit: a burst of `at_once`, then `per_second`."""

    def __init__(self, *, at_once: int, per_second: float) -> None:
        self._most, self._rate = at_once, per_second
        self._left, self._at = float(at_once), monotonic()

    def take(self) -> bool:
        """Whether one more is allowed now."""
        now = monotonic()
        self._left = min(self._left + (now - self._at) * self._rate, self._most)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Log:
    """Log lines for the terminal, limited to one per kind and minute, so that clients cannot flood it."""

    EVERY_S = 60.0
    _MOST_KINDS = 1024

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._written_at: dict[str, float] = {}

    def add(self, kind: str, line: str) -> None:
        """Write a line unless one of its kind was written within the last minute."""
        now = monotonic()
        if now - self._written_at.get(kind, -self.EVERY_S) < self.EVERY_S or len(self._written_at) > self._MOST_KINDS:
            return
        self._written_at[kind] = now
        self._write(line)
