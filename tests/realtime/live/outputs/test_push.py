"""A pushed stream arrives at real servers, is always on, survives its server, and delays nothing."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import EventKind
from polypstream.realtime.live.outputs import push as push_module
from polypstream.realtime.live.outputs.address import push_address
from polypstream.realtime.live.outputs.push import Push, PushConfig
from tests.realtime.live.feeds import free_port, wait_until, why_no_rtsp_server
from tests.realtime.live.outputs.servers import (
    NGINX,
    RTMP_MODULE,
    SIZE,
    STATISTICS,
    Received,
    RtmpServer,
    RtspServer,
    feeding,
    numbered,
)

pytestmark = [pytest.mark.slow, pytest.mark.realtime]
needs_rtsp = pytest.mark.skipif(bool(why_no_rtsp_server()), reason=why_no_rtsp_server())
needs_rtmp = pytest.mark.skipif(
    NGINX is None or not RTMP_MODULE.exists(), reason="needs Debian's nginx-light and libnginx-mod-rtmp"
)
LOST = Status(light=Light.LOST, reason="no video for 2 s")


@pytest.fixture(autouse=True)
def no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(push_module, "FIRST_RETRY_S", 0.2)
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def check_in_order(numbers: list[int | None], push: Push, *, at_least: int) -> None:
    """Frames came in order, and all but those that the push dropped because the machine was busy."""
    read = [number for number in numbers if number is not None]
    assert len(read) >= at_least
    assert read == sorted(set(read))
    assert read[-1] - read[0] + 1 - len(read) <= push.state.dropped


@needs_rtsp
def test_rtsp_server_receives_the_frames() -> None:
    with RtspServer(free_port()) as server, Push(push_address(server.url)) as push:
        assert server.process.stdout is not None
        with feeding(push), Received(server.process.stdout) as received:
            wait_until(lambda: len(received.numbers) > 30)
            server.process.kill()
        check_in_order(received.numbers, push, at_least=25)
        assert received.pictures[0].shape == (240, 320, 3)
        wait_until(lambda: "closed by the other side" in push.state.problem or "refused" in push.state.problem)


@needs_rtmp
def test_rtmp_server_gets_a_placeholder_while_there_is_no_video(tmp_path: Path) -> None:
    with RtmpServer(tmp_path, free_port()) as server:
        with Push(push_address(server.url), PushConfig(size=SIZE)) as push:
            push.tell(LOST, STATISTICS)
            wait_until(lambda: push.state.is_working)
            with Received(server.url) as received:
                wait_until(lambda: len(received.numbers) > 3)
                assert set(received.numbers) == {None}
                assert received.pictures[-1].max() > 150  # the text
                with feeding(push) as captured:
                    wait_until(lambda: sum(number is not None for number in received.numbers) > 25)
                check_in_order(received.numbers, push, at_least=25)
                delays = [
                    at - captured[number]
                    for number, at in zip(received.numbers, received.at, strict=True)
                    if number is not None
                ]
                assert np.median(delays) < 1
                shown = len(received.numbers)
                wait_until(lambda: received.numbers[shown + 5 :].count(None) > 3)
                push.close()
                server.process.terminate()
        assert "secretkey" not in push.state.label
        assert [event.kind for event in push.take_events()] == [EventKind.OUTPUT_CONNECTED]


@needs_rtmp
def test_push_returns_after_its_server_was_away(tmp_path: Path) -> None:
    notices: list[str] = []
    port = free_port()
    url = RtmpServer(tmp_path, port).url
    with Push(push_address(url), PushConfig(size=SIZE), on_notice=notices.append) as push, feeding(push):
        wait_until(lambda: push.state.failures > 1)
        assert "refused" in push.state.problem
        with RtmpServer(tmp_path, port):
            wait_until(lambda: push.state.is_working)
        wait_until(lambda: not push.state.is_working)
        with RtmpServer(tmp_path, port):
            wait_until(lambda: push.state.is_working)
        events = push.take_events()
    connected, failed = EventKind.OUTPUT_CONNECTED, EventKind.OUTPUT_FAILED
    assert [event.kind for event in events][:4] == [failed, connected, failed, connected]
    assert not any("secretkey" in str(event.details) for event in events)
    assert not any("secretkey" in line for line in notices)
    assert len(notices) < 10  # a server that stays away is one line, not one for each attempt


def test_silent_server_delays_neither_frames_nor_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = push_address(f"rtsp://127.0.0.1:{server.getsockname()[1]}/push")
        push = Push(address, PushConfig(size=SIZE))
        slowest = 0.0
        for index in range(50):
            shown, before = numbered(index), monotonic()
            push.show(shown, STATISTICS)
            slowest = max(slowest, monotonic() - before)
        assert slowest < 0.5
        assert push.state.dropped > 40
        before = monotonic()
        push.close()
        assert monotonic() - before < 3 * push_module.END_S


def test_killed_relay_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "hls"
    with Push(push_address(str(folder)), PushConfig(size=SIZE)) as push, feeding(push):
        wait_until(lambda: push.state.is_working)
        assert push._relay is not None
        os.kill(push._relay._process.pid, signal.SIGKILL)
        wait_until(lambda: push.state.failures == 1)
        wait_until(lambda: push.state.is_working)


def test_hls_folder_can_be_played(tmp_path: Path) -> None:
    folder = tmp_path / "hls"
    with Push(push_address(str(folder))) as push:
        with feeding(push):
            wait_until((folder / "index.m3u8").exists)
            wait_until(lambda: len(list(folder.glob("*.ts"))) > 2)
        push.close()
        assert not list(folder.glob("*.tmp"))
        with Received(str(folder / "index.m3u8")) as received:
            pass
    check_in_order(received.numbers, push, at_least=20)
    assert received.pictures[0].shape == (240, 320, 3)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_transport_stream_arrives_at_a_live_source(scheme: str) -> None:
    """What one session pushes, another one can watch."""
    from polypstream.realtime.live.sources import source_from_address
    from tests.realtime.live.feeds import Playback

    port = free_port(socket.SOCK_DGRAM if scheme == "udp" else socket.SOCK_STREAM)
    if scheme == "tcp":
        with (
            Push(push_address(f"tcp://127.0.0.1:{port}"), PushConfig(size=SIZE)) as push,
            socket.create_server(("127.0.0.1", port)) as server,
            feeding(push),
        ):
            opened, _ = server.accept()
            with opened, Received(opened.makefile("rb")) as received:
                wait_until(lambda: len(received.numbers) > 25)
                opened.shutdown(socket.SHUT_RDWR)
            check_in_order(received.numbers, push, at_least=20)
        return
    source = source_from_address(f"udp://127.0.0.1:{port}")
    with (
        Playback(source) as played,
        Push(push_address(f"udp://127.0.0.1:{port}"), PushConfig(size=SIZE)) as push,
        feeding(push) as captured,
    ):
        wait_until(lambda: len(played.numbers) > 25)
    check_in_order(played.numbers, push, at_least=20)
    delays = [at - captured[n] for n, at in zip(played.numbers, played.taken_at, strict=True) if n is not None]
    assert np.median(delays) < 0.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ftp://host/x", "ftp:// cannot be pushed to"),
        ("", "is empty"),
    ],
)
def test_wrong_address_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        push_address(text)


def test_labels_hold_no_secrets() -> None:
    texts = (
        "rtsp://user:secret@host:8554/scope?key=secret",
        "rtmp://host/app/secret",
        "rtmps://user:secret@host/app/secret?x=secret",
    )
    for text in texts:
        address = push_address(text)
        assert "secret" not in address.label + repr(address)
        assert "host" in address.label
