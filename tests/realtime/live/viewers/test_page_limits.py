"""Requests from attackers stop neither recordings and snapshots nor the page itself."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from polypstream.realtime.live.viewers import connections as connections_module
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands
from tests.realtime.live.feeds import wait_until

pytestmark = pytest.mark.realtime
pytest.importorskip("aiohttp")

SESSION = """
import resource, sys, threading
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.recording.recorder import Record, SessionRecorder
from polypstream.realtime.live.session import Session
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.viewer import Commands
from polypstream.realtime.outlines.drawing import MarkerStyle
from tests.realtime.live.scripted import EAGER, DiscFinder, ScriptedSource

say = lambda line: print(line, file=sys.stderr, flush=True)
source, commands, ended = ScriptedSource(), Commands(), threading.Event()
with Page(PageConfig(port=0), commands, on_notice=say) as page:
    live = LivePipeline(source, DiscFinder(), Tracker(TrackerConfig(operating_point=EAGER)))
    recorder = SessionRecorder(Path(sys.argv[1]), source, record=Record.OVERLAY, style=MarkerStyle(), on_notice=say)
    session = Session(source, live, viewers=[page], commands=commands, recorder=recorder)
    def feed():
        while not ended.wait(0.04):
            source.give()
        source.end()
    def wait():
        sys.stdin.read()
        ended.set()
    threads = [threading.Thread(target=work) for work in (feed, wait)]
    for thread in threads:
        thread.start()
    print(page.port, flush=True)
    session.run()
    for thread in threads:
        thread.join()
"""


@contextmanager
def session(folder: Path) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """A session of 256 descriptors in a process of its own; the port of its page."""
    with (folder / "terminal").open("w") as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", SESSION, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=terminal,
            text=True,
            cwd=Path(__file__).parents[4],
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline()), process
    finally:
        process.stdin.close()
        process.wait(60)
        process.stdout.close()


class Socket:
    """A WebSocket by hand, as one that floods needs it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(
            f"GET /watch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        assert self.socket.recv(12) == b"HTTP/1.1 101"

    def send(self, values: dict[str, Any], times: int = 1) -> None:
        text = json.dumps(values).encode()
        self.socket.sendall(_masked(text) * times)

    def close(self) -> None:
        self.socket.close()


def _masked(text: bytes) -> bytes:
    assert len(text) < 126
    return bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text  # masked with zeros


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def fetched(port: int, path: str = "/") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def commanded(port: int, action: str) -> None:
    client = Socket(port)
    client.send({"kind": "command", "action": action})
    client.send({"kind": "ping", "sent_ms": 0})
    client.socket.recv(65536)
    client.socket.shutdown(socket.SHUT_WR)
    client.close()


@pytest.mark.slow
def test_300_idle_connections_and_20000_commands_stop_nothing(tmp_path: Path) -> None:
    with session(tmp_path) as (port, _), ExitStack() as open_sockets:
        for number in range(300):
            idle = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            if number % 2:
                idle.sendall(b"GET / HTTP/1.1\r\nHost: local")  # half a request
        assert "200 OK" in fetched(port).partition("\r\n")[0]
        assert "200 OK" in fetched(port, "/app.js").partition("\r\n")[0]
        commanded(port, "record_start")
        wait_until(lambda: list(tmp_path.rglob("overlay.mkv")))
        commanded(port, "snapshot")
        wait_until(lambda: list(tmp_path.rglob("*_marked.png")))
        sent = 0
        while sent < 20_000:
            flooding = Socket(port)
            try:
                for _ in range(100):
                    flooding.send({"kind": "command", "action": "threshold_up"}, times=10)
                    sent += 10
            except OSError:
                sent += 390  # disconnected: what was allowed before that
            finally:
                flooding.close()
        assert "200 OK" in fetched(port).partition("\r\n")[0]
        count = len(list(tmp_path.rglob("*_marked.png")))

        def another_snapshot() -> bool:
            commanded(port, "snapshot")
            return len(list(tmp_path.rglob("*_marked.png"))) > count

        wait_until(another_snapshot, within_s=60)
    (log,) = tmp_path.rglob("events.jsonl")
    kinds = [json.loads(line)["event"] for line in log.read_text().splitlines()]
    assert kinds[-1] == "session_ended"
    assert kinds.count("settings_changed") < 2_000
    assert "recording_stopped" in kinds
    terminal = (tmp_path / "terminal").read_text().splitlines()
    lines = [line for line in terminal if not line.startswith(("snapshot: ", "report: "))]
    assert len(lines) == len({line.partition(":")[2][:20] for line in lines})
    assert len(lines) <= 3, lines
    assert not any("Traceback" in line for line in lines)


def test_a_connection_that_asks_for_nothing_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "REQUEST_S", 0.3)
    with Page(PageConfig(port=0), Commands()) as page, ExitStack() as open_sockets:
        for beginning in (b"", b"GET / HTTP/1.1\r\nHost: localh"):
            idle = open_sockets.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=30))
            idle.sendall(beginning)
            assert idle.recv(1) == b""
        before = open_descriptors()
        assert "200 OK" in fetched(page.port)
        wait_until(lambda: open_descriptors() <= before)


def test_the_oldest_idle_connection_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module, "BESIDE_VIEWERS", 0)
    notices: list[str] = []
    with (
        Page(PageConfig(port=0, max_viewers=8), Commands(), on_notice=notices.append) as page,
        ExitStack() as open_sockets,
    ):
        idle = [
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", page.port), timeout=30)) for _ in range(8)
        ]
        assert "200 OK" in fetched(page.port)
        assert idle[0].recv(1) == b""
    assert len(notices) == 1


def test_descriptors_are_left_to_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections_module.resource, "getrlimit", lambda _: (256, 256))
    most = connections_module.most_connections(1000)
    in_use = open_descriptors()
    assert most + in_use + connections_module.RESERVE <= 256 + 2
