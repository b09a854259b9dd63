"""The page behind Debian's nginx, with TLS and under a sub-path, in a real browser."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Action, Command, Commands
from tests.realtime.live.browser import chromium, light, text, wait_until
from tests.realtime.live.feeds import free_port
from tests.realtime.live.shown_frames import Showing

pytest.importorskip("aiohttp")
if TYPE_CHECKING:
    from playwright.sync_api import Browser

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.realtime,
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="needs Debian's nginx-light, openssl"),
]
SHIPPED = Path(__file__).parents[4] / "packaging" / "nginx.conf"
UPGRADE = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;"
FORWARDED = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


def server(certificate: tuple[Path, Path], *, port: int, location: str) -> str:
    """A server of nginx's configuration, with TLS."""
    cert, key = certificate
    return f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {key}; {location} }}\n"


class Nginx:
    """A reverse proxy with TLS; leaving it ends the process."""

    def __init__(self, folder: Path, servers: str) -> None:
        paths = " ".join(
            f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        self._config = folder / "nginx.conf"
        self._config.write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"http {{ access_log off; {paths}\n{servers} }}\n"
        )

    def __enter__(self) -> "Nginx":
        assert NGINX is not None
        self._process = subprocess.Popen([NGINX, "-c", self._config], stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


@pytest.mark.parametrize(
    ("path", "target", "headers"),
    [
        ("/scope/", "/", UPGRADE),
        ("/", "", UPGRADE),
        ("/a/scope/", "", UPGRADE + FORWARDED),
    ],
    ids=["default_headers_sub_path", "default_headers", "forwarded_headers_path_kept"],
)
def test_the_page_works_behind_nginx(
    browser: "Browser", tmp_path: Path, certificate: tuple[Path, Path], path: str, target: str, headers: str
) -> None:
    port, commands = free_port(), Commands()
    config = PageConfig(port=0, public_url=f"https://localhost:{port}{path}")
    with Page(config, commands) as page, Showing(page):
        assert page.url.startswith(f"https://localhost:{port}{path}?token=")
        location = f"location {path} {{ proxy_pass http://127.0.0.1:{page.port}{target}; {headers} }}"
        with Nginx(tmp_path, server(certificate, port=port, location=location)):
            context = browser.new_context(ignore_https_errors=True)
            tab = context.new_page()
            wait_until(lambda: _reached(tab, page.url))
            wait_until(lambda: light(tab) == "ready", within_s=20)
            assert "token" not in tab.url
            (cookie,) = context.cookies()
            assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Lax")
            tab.keyboard.press("n")
            taken: list[Command] = []
            wait_until(lambda: taken.extend(commands.waiting()) or taken)
            assert taken == [Action.SNAPSHOT]
            tab.reload()
            wait_until(lambda: light(tab) == "ready", within_s=20)
            if path != "/":
                tab.goto(f"https://localhost:{port}{path.rstrip('/')}")
                wait_until(lambda: light(tab) == "ready", within_s=20)
            context.close()


def test_the_configuration_that_is_shipped_works(
    browser: "Browser", tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    port = free_port()
    with Page(PageConfig(port=0, public_url=f"https://localhost:{port}/"), Commands()) as page, Showing(page):
        shipped = SHIPPED.read_text(encoding="utf-8")
        changes = {
            "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
            "polyps.example.org;": "localhost;",
            "/etc/ssl/certs/polyps.example.org.pem": str(certificate[0]),
            "/etc/ssl/private/polyps.example.org.key": str(certificate[1]),
            "http://127.0.0.1:8765;": f"http://127.0.0.1:{page.port};",
        }
        for old, new in changes.items():
            assert old in shipped
            shipped = shipped.replace(old, new)
        with Nginx(tmp_path, shipped):
            context = browser.new_context(ignore_https_errors=True)
            tab = context.new_page()
            wait_until(lambda: _reached(tab, page.url))
            wait_until(lambda: light(tab) == "ready", within_s=20)
            context.close()


def test_a_proxy_that_passes_no_websocket_on_is_named(
    browser: "Browser", tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    port = free_port()
    with Page(PageConfig(port=0, public_url=f"https://localhost:{port}/"), Commands()) as page, Showing(page):
        location = f"location / {{ proxy_pass http://127.0.0.1:{page.port}; }}"
        with Nginx(tmp_path, server(certificate, port=port, location=location)):
            context = browser.new_context(ignore_https_errors=True)
            tab = context.new_page()
            wait_until(lambda: _reached(tab, page.url))
            wait_until(lambda: "Upgrade" in text(tab, "alarm-reason"), within_s=20)
            context.close()


def test_a_page_of_another_site_is_refused_behind_the_proxy_too(
    browser: "Browser", tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    port, foreign = free_port(), free_port()
    with Page(PageConfig(port=0, public_url=f"https://localhost:{port}/"), Commands()) as page, Showing(page):
        location = f"location / {{ proxy_pass http://127.0.0.1:{page.port}; {UPGRADE} }}"
        servers = server(certificate, port=port, location=location)
        servers += server(certificate, port=foreign, location="location / { return 200 hello; }")
        with Nginx(tmp_path, servers):
            context = browser.new_context(ignore_https_errors=True)
            tab = context.new_page()
            wait_until(lambda: _reached(tab, page.url))
            wait_until(lambda: light(tab) == "ready", within_s=20)
            tab.goto(f"https://127.0.0.1:{foreign}/")
            outcome = tab.evaluate(
                "address => new Promise(done => { const socket = new WebSocket(address);"
                " socket.onopen = () => done('open'); socket.onclose = () => done('refused'); })",
                f"wss://localhost:{port}/watch",
            )
            context.close()
    assert outcome == "refused"


def _reached(tab: object, url: str) -> bool:
    from playwright.sync_api import Error

    try:
        answer = tab.goto(url)  # type: ignore[attr-defined]
    except Error:  # nginx is not ready yet
        return False
    return bool(answer is not None and answer.status == 200)
