"""Webhook: events as HTTP requests, signed by the Standard Webhooks convention."""

import base64
import binascii
import hmac
import http.client
from collections.abc import Callable
from hashlib import sha256
from time import time
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from polypstream.errors import ConfigError, OutputError
from polypstream.realtime.live.outputs.publisher import RECEIVER_S, EventPublisher, RejectedError
from polypstream.realtime.live.sources.config import reason_of

_REJECTED = frozenset({400, 413, 422})
"""Answers that concern this event only: it would be refused again."""
_SECRET_PREFIX = "whsec_"


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Treat a redirection as an error, as it would turn POST into GET."""


class Webhook(EventPublisher):
    """Posts each event as JSON to an address, which accepts it with a 2xx answer.

    The headers are those of Standard Webhooks: `webhook-id`, `webhook-timestamp` and, with a secret,
    `webhook-signature`, the base64 of the HMAC-SHA256 of `id.timestamp.body`.

    Args:
        url: `http://` or `https://`; it may contain a secret and is never displayed whole.
        secret: Key of the signature: any text, or `whsec_` and base64; None sends no signature.
        on_notice: Called with one line when sending fails or works again, from any thread.

    Raises:
        ConfigError: The address or the secret is invalid.
    """

    def __init__(
        self, url: str, *, secret: str | None = None, on_notice: Callable[[str], None] = lambda _: None
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:  # its message may contain part of the address
            host = port = None
        if parts.scheme not in {"http", "https"} or not host or parts.username or parts.password:
            raise ConfigError("the webhook's address is invalid; write it as https://host/path, without a user name")
        self._url, self._key = url, _key(secret)
        self._opener = build_opener(_NoRedirect)
        place = f"[{host}]" if ":" in host else host
        label = f"{parts.scheme}://{place}{f':{port}' if port else ''}/…"
        super().__init__("webhook", label, on_notice=on_notice)

    def _send(self, number: int, body: bytes) -> None:
        identity, moment = f"{self.session}-{number}", str(int(time()))
        headers = {"Content-Type": "application/json", "webhook-id": identity, "webhook-timestamp": moment}
        if self._key is not None:
            signed = hmac.digest(self._key, f"{identity}.{moment}.".encode() + body, sha256)
            headers["webhook-signature"] = f"v1,{base64.b64encode(signed).decode()}"
        request = Request(self._url, data=body, headers=headers, method="POST")
        try:
            self._opener.open(request, timeout=RECEIVER_S).close()
        except HTTPError as error:
            error.close()
            kind = RejectedError if error.code in _REJECTED else OutputError
            raise kind(
                f"{self._label}: the answer is {error.code} {http.client.responses.get(error.code, '')}"
            ) from None
        except TimeoutError:
            raise OutputError(f"{self._label}: no answer within {RECEIVER_S:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
            raise OutputError(f"{self._label}: {reason_of(cause)}") from None


def _key(secret: str | None) -> bytes | None:
    if secret is None:
        return None
    if not secret.startswith(_SECRET_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
    except binascii.Error:
        raise ConfigError(f"the webhook's secret is invalid; after {_SECRET_PREFIX} it must be base64") from None
