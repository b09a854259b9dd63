"""A push over WHIP arrives at a real WebRTC server, and survives its absence, its end and a wrong token."""

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any, Self

import numpy as np
import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import EventKind
from polypstream.realtime.live.outputs import push as push_module
from polypstream.realtime.live.outputs.address import push_address
from polypstream.realtime.live.outputs.push import Push, PushConfig
from tests.realtime.live.feeds import free_port, wait_until
from tests.realtime.live.outputs.servers import SIZE, STATISTICS, feeding

pytest.importorskip("aiohttp")
pytest.importorskip("aioice", reason="needs the extra [webrtc]")
pytestmark = [pytest.mark.slow, pytest.mark.realtime]
LONG_S = 40.0


class WhipServer:
    """The server of `whip_server.py`, and what it reports."""

    def __init__(self, port: int, *, token: str = "right", codec: str = "h264") -> None:
        self._arguments = [str(port), token, codec]
        self.lines: list[dict[str, Any]] = []

    @property
    def numbers(self) -> list[int | None]:
        return [line["number"] for line in self.lines if "number" in line]

    def has(self, event: str) -> bool:
        return any(line.get("event") == event for line in self.lines)

    def __enter__(self) -> Self:
        script = str(Path(__file__).with_name("whip_server.py"))
        self.process = subprocess.Popen([sys.executable, script, *self._arguments], stdout=subprocess.PIPE)
        self._thread = Thread(target=self._read)
        self._thread.start()
        wait_until(lambda: self.has("ready") or self.process.poll() is not None, within_s=LONG_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self._thread.join()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(json.loads(line))


@pytest.fixture(autouse=True)
def soon_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(push_module, "LONGEST_RETRY_S", 0.5)


def url(port: int) -> str:
    return f"whip+http://127.0.0.1:{port}/secretkey/whip"


@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_frames_and_the_placeholder_arrive_and_the_session_is_deleted(codec: str) -> None:
    port = free_port()
    with WhipServer(port, codec=codec) as server:
        address = push_address(url(port), credentials="right")
        with Push(address, PushConfig(size=SIZE)) as push:
            push.tell(Status(light=Light.LOST, reason="no video for 2 s"), STATISTICS)
            wait_until(lambda: len(server.numbers) > 3, within_s=LONG_S)
            assert set(server.numbers) == {None}
            with feeding(push) as captured:
                wait_until(lambda: sum(n is not None for n in server.numbers) > 40, within_s=LONG_S)
            assert push.state.is_working
            shown = len(server.numbers)
            wait_until(lambda: server.numbers[shown + 5 :].count(None) > 2, within_s=LONG_S)
        wait_until(lambda: server.has("deleted"))
        frames = [line for line in server.lines if line.get("number") is not None]
        read = [line["number"] for line in frames]
        assert read == sorted(set(read))
        assert set(read) <= set(captured)
        assert frames[-1]["shape"] == [240, 320, 3]
        posted = next(line for line in server.lines if line.get("event") == "posted")
        assert {"H264", "VP8"} <= set(posted["offered"])
        assert posted["accepted"] == [codec.upper()]
        delay_ms = 1000 * np.median([f["at"] - captured[f["number"]] for f in frames])
        print(f"median delay from capture to the decoded frame: {delay_ms:.0f} ms")
    assert [event.kind for event in push.take_events()] == [EventKind.OUTPUT_CONNECTED]


def test_a_push_returns_after_its_server_was_absent_and_after_it_was_killed() -> None:
    port, notices = free_port(), list[str]()
    address = push_address(url(port), credentials="right")
    with Push(address, PushConfig(size=SIZE), on_notice=notices.append) as push, feeding(push):
        wait_until(lambda: push.state.failures > 1, within_s=LONG_S)
        assert "refused" in push.state.problem
        with WhipServer(port) as server:
            wait_until(lambda: len(server.numbers) > 5, within_s=LONG_S)
        wait_until(lambda: not push.state.is_working, within_s=LONG_S)
        with WhipServer(port) as server:
            wait_until(lambda: len(server.numbers) > 5, within_s=LONG_S)
        events = push.take_events()
    connected, failed = EventKind.OUTPUT_CONNECTED, EventKind.OUTPUT_FAILED
    assert [event.kind for event in events][:3] == [failed, connected, failed]
    assert events[-1].kind is connected
    said = " ".join([*notices, *(str(event.details) for event in events), push.state.label, repr(address)])
    assert "secretkey" not in said
    assert "right" not in said


def test_a_wrong_token_is_named_and_never_shown() -> None:
    port = free_port()
    with WhipServer(port) as server:
        with Push(push_address(url(port), credentials="wrongtoken"), PushConfig(size=SIZE)) as push:
            wait_until(lambda: push.state.failures > 1, within_s=LONG_S)
            assert "rejects the token (401)" in push.state.problem
            assert "wrongtoken" not in push.state.problem
        assert server.has("rejected")
        assert not server.numbers


def test_an_address_without_a_host_is_named() -> None:
    with pytest.raises(ConfigError, match="names no host"):
        push_address("whip+https:///whip")
