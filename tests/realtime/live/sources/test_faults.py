import os
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import pytest

from polypstream.realtime.live.sources import Integrity, SourceConfig, integrity_of, source_from_address
from polypstream.realtime.live.sources.source import ConnectionState, ConnectionStatus
from tests.realtime.live.feeds import (
    Coding,
    Playback,
    RtspCamera,
    TcpCamera,
    UdpCamera,
    free_port,
    wait_until,
    why_no_rtsp_server,
    write_coded,
)

pytestmark = pytest.mark.realtime

BRISK = SourceConfig(watchdog_s=0.5, first_retry_s=0.05, longest_retry_s=0.2, late_s=30)
"""The default configuration with a quarter of the times."""
ENDS_S = 1.0


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before, threads = open_descriptors(), set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == threads
    assert open_descriptors() <= before


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - counts the same way before and after


def camera_of(scheme: str) -> tuple[str, type[UdpCamera] | type[TcpCamera], int]:
    if scheme == "udp":
        port = free_port(socket.SOCK_DGRAM)
        return f"udp://@:{port}", UdpCamera, port
    port = free_port()
    return f"tcp://127.0.0.1:{port}", TcpCamera, port


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_source_that_is_not_there_yet_is_waited_for(scheme: str) -> None:
    address, camera, port = camera_of(scheme)
    source = source_from_address(address, BRISK)
    with Playback(source) as viewing:
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        reason = {
            "udp": "no video for 0.5 s",
            "tcp": "the connection was refused: no server is running at this address",
        }
        assert source.state.reason == reason[scheme]
        with camera(port):
            wait_until(lambda: len(viewing.frames) >= 10)
            assert source.state.status is ConnectionStatus.RUNNING


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
@pytest.mark.parametrize("away_s", [1, 5, pytest.param(30, marks=pytest.mark.slow)])
def test_a_lost_camera_is_displayed_after_reconnection(scheme: str, away_s: int) -> None:
    address, camera, port = camera_of(scheme)
    source: Any = source_from_address(address, replace(SourceConfig(), late_s=30))
    with Playback(source) as viewing:
        with camera(port):
            wait_until(lambda: len(viewing.frames) >= 10)
        Event().wait(away_s)
        if away_s > 3:
            assert source.state.status is ConnectionStatus.LOST
        seen = len(viewing.frames)
        with camera(port):
            wait_until(lambda: len(viewing.frames) >= seen + 10)
            assert source.state.status is ConnectionStatus.RUNNING
    assert [frame.index for frame in viewing.frames] == list(range(len(viewing.frames)))
    assert None not in viewing.numbers[seen:]


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_a_stalled_camera_is_noticed_and_shown_when_it_continues(scheme: str) -> None:
    address, camera, port = camera_of(scheme)
    source: Any = source_from_address(address, SourceConfig(late_s=30))
    with Playback(source) as viewing, camera(port) as stalling:
        wait_until(lambda: len(viewing.frames) >= 10)
        stalling.fault.is_stalled = True
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        assert source.state.reason in {"no video for 2 s", "no data for 2 s"}
        assert monotonic() - viewing.taken_at[-1] >= 1.5
        stalling.fault.is_stalled = False
        seen = len(viewing.frames)
        wait_until(lambda: len(viewing.frames) >= seen + 10)
        assert source.state.status is ConnectionStatus.RUNNING
    assert source.counts.connections >= 2


@pytest.mark.skipif(bool(why_no_rtsp_server()), reason=why_no_rtsp_server())
def test_an_rtsp_server_that_froze_or_died_is_connected_again(tmp_path: Path) -> None:
    clip, port = write_coded(tmp_path / "clip.mp4", Coding(frames=500)), free_port()
    source: Any = source_from_address(f"rtsp://127.0.0.1:{port}/scope", replace(BRISK, watchdog_s=1, connect_s=1))
    with Playback(source) as viewing:
        with RtspCamera(port, clip) as camera:
            wait_until(lambda: len(viewing.frames) >= 10)
            camera.freeze()
            wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        seen = len(viewing.frames)
        with RtspCamera(port, clip):
            wait_until(lambda: len(viewing.frames) >= seen + 10)
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        with RtspCamera(port, clip):
            wait_until(lambda: len(viewing.frames) >= seen + 20)
    assert None not in viewing.numbers


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_corrupt_packets_damage_frames_but_not_the_connection(scheme: str) -> None:
    address, camera, port = camera_of(scheme)
    source: Any = source_from_address(address, BRISK)
    generator = random.Random(7)

    def damaged(data: bytes) -> bytes:
        damaged_frames = bytearray(data)
        for _ in range(len(data) // 2000):
            damaged_frames[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(damaged_frames)

    with Playback(source) as viewing, camera(port) as failing:
        wait_until(lambda: len(viewing.frames) >= 10)
        failing.fault.damage = damaged
        sent = failing.sent
        wait_until(lambda: failing.sent >= sent + 50)
        failing.fault.damage = bytes
        sent, seen = failing.sent, len(viewing.frames)
        wait_until(lambda: failing.sent >= sent + 60)
        wait_until(lambda: len(viewing.frames) >= seen + 40)
        assert source.state.status is ConnectionStatus.RUNNING
        assert not viewing.is_over
    assert None not in viewing.numbers[-20:]
    assert {integrity_of(frame) for frame in viewing.frames[-20:]} == {Integrity.WHOLE}
    damaged_frames = [frame for frame, number in zip(viewing.frames, viewing.numbers, strict=True) if number is None]
    reported = [frame for frame in damaged_frames if integrity_of(frame) is Integrity.DAMAGED]
    assert len(reported) >= 0.9 * len(damaged_frames)
    assert source.counts.damaged >= len(reported)


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Coding(), Coding(width=640, height=480)),
        (Coding(fps=60), Coding(fps=25)),
        (Coding(), Coding(codec="mpeg2video")),
    ],
    ids=["size", "rate", "codec"],
)
def test_another_size_rate_or_codec_in_mid_stream_is_survived(scheme: str, before: Coding, after: Coding) -> None:
    address, camera, port = camera_of(scheme)
    source: Any = source_from_address(address, BRISK)
    with Playback(source) as viewing, camera(port, before) as changing:
        wait_until(lambda: len(viewing.frames) >= 20)
        changing.switch(after)
        wait_until(lambda: changing.coding is after)
        seen = len(viewing.frames)
        wait_until(lambda: len(viewing.frames) >= seen + 40)
        assert source.state.status is ConnectionStatus.RUNNING
    last = viewing.frames[-1].picture
    assert (last.width, last.height) == (after.width, after.height)
    assert None not in viewing.numbers[-20:]


def test_reconnecting_leaks_nothing() -> None:
    port = free_port()
    source: Any = source_from_address(f"tcp://127.0.0.1:{port}", BRISK)
    counts = []
    with Playback(source) as viewing:
        for _ in range(6):
            seen = len(viewing.frames)
            with TcpCamera(port):
                wait_until(lambda seen=seen: len(viewing.frames) >= seen + 3)  # type: ignore[misc]
                counts.append((open_descriptors(), threading.active_count()))
            wait_until(lambda: source.state.status is ConnectionStatus.LOST)
    assert counts[-1][0] <= counts[0][0] + 1
    assert counts[-1][1] == counts[0][1]
    assert source.counts.connections >= 6


@pytest.mark.parametrize(
    "address",
    ["udp://@:{udp}", "tcp://127.0.0.1:{silent}", "rtsp://127.0.0.1:{silent}/a", "tcp://192.0.2.1:9", "/dev/video77"],
)
def test_closing_ends_the_iteration_while_it_connects(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = address.format(udp=free_port(socket.SOCK_DGRAM), silent=silent.getsockname()[1])
        source = source_from_address(place, SourceConfig(connect_s=2))
        with Playback(source) as viewing:
            Event().wait(0.3)
            source.close()
            viewing.join(ENDS_S)
            assert viewing.is_over
    assert source.state.status is ConnectionStatus.ENDED


@pytest.mark.parametrize("scheme", ["udp", "tcp"])
def test_closing_ends_the_iteration_while_the_camera_is_silent(scheme: str) -> None:
    address, camera, port = camera_of(scheme)
    source = source_from_address(address, SourceConfig(watchdog_s=60))
    with Playback(source) as viewing, camera(port) as stalling:
        wait_until(lambda: len(viewing.frames) >= 3)
        stalling.fault.is_stalled = True
        Event().wait(0.3)
        source.close()
        viewing.join(ENDS_S)
        assert viewing.is_over


def test_the_state_keeps_the_moment_of_the_loss() -> None:
    states: list[ConnectionState] = []
    source = source_from_address(f"tcp://127.0.0.1:{free_port()}", BRISK)
    with Playback(source):
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        states.append(source.state)
        Event().wait(0.5)
        states.append(source.state)
    assert states[0].since == states[1].since
