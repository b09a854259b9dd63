"""Access to the page: which requests are permitted, and the headers of every response."""

import asyncio
import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.viewers.access import Access, Allowance, Attempts, Log, Role, Visit
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Action, Commands
from tests.realtime.live.feeds import wait_until

pytestmark = pytest.mark.realtime
aiohttp = pytest.importorskip("aiohttp")

TOKEN, VIEW_TOKEN = "controltoken1", "viewtoken1"
CONFIG = PageConfig(host="0.0.0.0", port=0, token=TOKEN, view_token=VIEW_TOKEN)


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def page(commands: Commands, notices: list[str]) -> Iterator[Page]:
    with Page(CONFIG, commands, on_notice=notices.append) as page:
        yield page


async def answered(page: Page, path: str, **options: Any) -> tuple[int, str, Any]:
    """Status, text and response of a request whose redirects are not followed."""
    url = f"http://127.0.0.1:{page.port}{path}"
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False, **options) as response:
        return response.status, await response.text(), response


def get(page: Page, path: str, **options: Any) -> tuple[int, str, Any]:
    return asyncio.run(answered(page, path, **options))


def get_by_https(page: Page, path: str, trusting: ssl.SSLContext) -> tuple[int, list[str]]:
    """Status and cookies; without aiohttp, whose TLS connections are still closing when its session has ended."""
    with closing(HTTPSConnection("127.0.0.1", page.port, timeout=10, context=trusting)) as connection:
        connection.request("GET", path)
        with connection.getresponse() as response:
            response.read()
            return response.status, response.headers.get_all("Set-Cookie", [])


def test_the_token_leaves_the_address_for_a_cookie_that_scripts_cannot_read(page: Page) -> None:
    status, _, response = get(page, f"/?token={TOKEN}")
    assert (status, response.headers["Location"]) == (303, "./")
    (cookie,) = response.cookies.values()
    assert cookie.value == TOKEN
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert not cookie["secure"]
    status, text, _ = get(page, "/", cookies={cookie.key: TOKEN})
    assert status == 200
    assert TOKEN not in text
    assert get(page, "/", headers={"X-Forwarded-Proto": "https"})[0] == 403
    *_, secure = get(page, f"/?token={TOKEN}", headers={"X-Forwarded-Proto": "https"})
    assert all(each["secure"] for each in secure.cookies.values())


def test_without_a_token_there_is_a_page_that_asks_for_it(page: Page) -> None:
    status, text, response = get(page, "/")
    assert status == 403
    assert response.content_type == "text/html"
    assert 'name="token"' in text
    assert "token is missing or wrong" in text


def test_displayed_parts_of_a_request_are_escaped() -> None:
    with Page(PageConfig(port=0), Commands()) as page:
        _, text, _ = get(page, "/", headers={"Host": "<script>alert(1)</script>"})
    assert "<script>alert" not in text


@pytest.mark.parametrize("path", ["/", f"/?token={TOKEN}", "/?token=wrongtoken", "/app.js", "/absent", "/watch"])
def test_every_response_has_the_security_headers_and_no_version(page: Page, path: str) -> None:
    *_, response = get(page, path)
    assert response.headers["Server"] == "polypstream"
    assert "default-src 'self'" in response.headers["Content-Security-Policy"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["X-Frame-Options"] == "DENY"
    assert response.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    "request_bytes", [b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n"]
)
def test_a_malformed_request_gets_them_too(page: Page, request_bytes: bytes) -> None:
    with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
        client.sendall(request_bytes)
        answer = b"".join(iter(lambda: client.recv(4096), b"")).decode()
    assert answer.startswith(("HTTP/1.1 4", "HTTP/1.0 4"))
    assert "Server: polypstream\r\n" in answer
    assert "aiohttp" not in answer
    assert "X-Frame-Options: DENY" in answer


def test_the_view_token_watches_and_commands_nothing(page: Page, commands: Commands) -> None:
    async def talk(token: str) -> bool:
        url = f"http://127.0.0.1:{page.port}/watch?token={token}"
        async with aiohttp.ClientSession() as session, session.ws_connect(url) as opened:
            greeting = json.loads((await opened.receive()).data)
            await opened.send_json({"kind": "command", "action": "record_start"})
            await opened.send_json({"kind": "ping", "sent_ms": 0})
            await opened.receive()  # the answer, after which the command has been read
            return bool(greeting["may_control"])

    assert not asyncio.run(talk(VIEW_TOKEN))
    assert commands.waiting() == []
    assert asyncio.run(talk(TOKEN))
    assert commands.waiting() == [Action.RECORD_START]
    assert page.view_url is not None
    assert VIEW_TOKEN in page.view_url


def test_wrong_tokens_are_logged_and_slowed_down(page: Page, notices: list[str]) -> None:
    statuses = [get(page, f"/?token=wrongtoken{number}")[0] for number in range(20)]
    assert statuses[: Attempts.FREE + 1] == [403] * (Attempts.FREE + 1)
    assert statuses[-1] == 429
    assert get(page, f"/?token={TOKEN}")[0] == 429
    assert len(notices) == 2
    assert notices[0] == "page: wrong token from 127.0.0.1"
    assert "is now blocked" in notices[1]
    assert not any("wrongtoken" in notice for notice in notices)


def test_an_old_page_that_tries_again_and_again_blocks_nobody(page: Page) -> None:
    for _ in range(30):
        assert get(page, "/status?token=tokenofyesterday")[0] == 403
    assert get(page, f"/?token={TOKEN}")[0] == 303


def test_addresses_behind_a_proxy_are_distinguished(page: Page) -> None:
    for number in range(10):
        get(page, f"/?token=wrongtoken{number}", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"})
    assert get(page, f"/?token={TOKEN}", headers={"X-Forwarded-For": "198.51.100.7"})[0] == 429
    assert get(page, f"/?token={TOKEN}", headers={"X-Forwarded-For": "198.51.100.8"})[0] == 303


def test_the_number_of_remembered_addresses_is_limited() -> None:
    attempts = Attempts()
    for number in range(5000):
        attempts.failed(f"address {number}", "token")
    assert len(attempts._failures) <= 1024


PROXIED = Access(token=TOKEN, only_loopback=True, public_url="https://lab.example/scope/")


@pytest.mark.parametrize(
    ("visit", "is_welcome"),
    [
        (Visit(host="127.0.0.1:8765", origin="https://lab.example", token=TOKEN), True),
        (Visit(host="lab.example", origin="https://lab.example", token=TOKEN), True),
        (Visit(host="127.0.0.1:8765", origin="https://lab.example", token=None), False),
        (Visit(host="127.0.0.1:8765", origin="https://evil.example", token=TOKEN), False),
        (Visit(host="127.0.0.1:8765", origin="https://evil.example", fetch_site="cross-site", token=TOKEN), False),
        (Visit(host="127.0.0.1:8765", origin="https://other.example", fetch_site="same-origin", token=TOKEN), True),
        (Visit(host="a", origin="https://b", forwarded_host="b", token=TOKEN), False),
        (Visit(host="localhost", origin="https://b", forwarded_host="b", token=TOKEN), True),
        (Visit(host="localhost", origin="null", token=TOKEN), False),
        (Visit(host="evil.example", token=TOKEN), False),
    ],
)
def test_names_and_origins_behind_a_proxy(visit: Visit, is_welcome: bool) -> None:
    assert (PROXIED.refusal(visit) is None) is is_welcome


@pytest.mark.parametrize("extra", [{"fetch_site": "same-origin"}, {"forwarded_host": "lab.example"}])
def test_a_proxy_that_nobody_announced_serves_nobody_without_a_token(extra: dict[str, str]) -> None:
    refusal = Access(only_loopback=True).refusal(Visit(host="localhost", origin="https://lab.example", **extra))
    assert refusal is not None
    assert "--public-url" in refusal


def test_roles() -> None:
    access = Access(token=TOKEN, view_token=VIEW_TOKEN)
    assert [access.role(token) for token in (TOKEN, VIEW_TOKEN, "x", None)] == [Role.CONTROL, Role.VIEW, None, None]
    assert Access().role(None) is Role.CONTROL


def test_https_with_a_custom_certificate(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    made = subprocess.run([*command, "-keyout", key, "-out", cert], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("needs openssl")
    trusting = ssl.create_default_context(cafile=str(cert))
    trusting.check_hostname = False
    with Page(PageConfig(port=0, token=TOKEN, tls_cert=cert, tls_key=key), Commands()) as page:
        assert page.url.startswith("https://127.0.0.1:")
        status, cookies = get_by_https(page, f"/?token={TOKEN}", trusting)
        assert status == 303
        assert len(cookies) == 1
        assert "; Secure" in cookies[0]
        with socket.create_connection(("127.0.0.1", page.port), timeout=10) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")  # not TLS
            assert b"HTTP" not in client.recv(100)
        assert get_by_https(page, "/app.js", trusting)[0] == 200


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"public_url": "lab.example"}, "https://lab.example/scope/"),
        ({"public_url": "https://lab.example/?a=b"}, "https://lab.example/scope/"),
        ({"token": TOKEN, "view_token": TOKEN}, "are the same"),
        ({"view_token": "short"}, "8 letters or digits"),
        ({"tls_key": Path("key.pem")}, "--tls-cert"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        PageConfig(**settings)


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    with pytest.raises(ConfigError, match=r"cert\.pem: the certificate cannot be read"):
        Page(PageConfig(port=0, tls_cert=tmp_path / "cert.pem"), Commands())


def test_an_allowance_is_used_up_and_comes_back() -> None:
    allowance = Allowance(at_once=3, per_second=1000)
    assert all(allowance.take() for _ in range(3))
    wait_until(allowance.take)
    tight = Allowance(at_once=2, per_second=1e-9)
    assert [tight.take() for _ in range(4)] == [True, True, False, False]


def test_a_log_writes_one_line_of_a_kind() -> None:
    lines: list[str] = []
    log = Log(lines.append)
    for number in range(1000):
        log.add("flood", f"line {number}")
        log.add(f"kind {number % 2}", "other")
    assert lines == ["line 0", "other", "other"]
