"""Who may see the page and send commands: the machine itself, and whoever holds the token."""

import secrets
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether an address or name means this very machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rules of one server."""

    token: str | None
    """What a request must carry; None where only the machine itself is served."""
    only_loopback: bool
    """The server listens on a loopback address, so every honest request names one too."""

    def refusal(self, *, host: str, token: str | None, origin: str | None = None) -> str | None:
        """Why a request is refused, for its user; None where it is welcome.

        `host` and `origin` are the headers of those names. A page of another site can make a browser send requests
        here, under a name of its own that it lets point here (DNS rebinding); it cannot make it lie in these two.
        """
        if self.only_loopback and not is_loopback(_name_in(host)):
            return f"this server does not answer to the name {_name_in(host)!r}; use localhost"
        if origin is not None and urlsplit(origin).netloc != host:
            return f"a page from {origin} may not connect; open the page of this server itself"
        if self.token is not None and not secrets.compare_digest((token or "").encode(), self.token.encode()):
            return "the token is missing or wrong; open the address exactly as polypstream has printed it"
        return None


def _name_in(host: str) -> str:
    """A Host header without its port and brackets."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
