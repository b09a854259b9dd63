"""The page's server on the network level: who may connect, what is sent, and when sending stops."""

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.recording.sightings import Verdict
from polypstream.realtime.live.viewers.access import Access, Visit, is_loopback
from polypstream.realtime.live.viewers.messages import Drawn, FrameMessages, Ping, reply_from_text
from polypstream.realtime.live.viewers.page import Page, PageConfig
from polypstream.realtime.live.viewers.server import UNDRAWN_MESSAGES
from polypstream.realtime.live.viewers.viewer import Action, Commands, Review, SetThreshold
from tests.realtime.live.feeds import wait_until
from tests.realtime.live.shown_frames import HEIGHT, STATISTICS, WIDTH, Showing, scene, shown

pytestmark = pytest.mark.realtime

aiohttp = pytest.importorskip("aiohttp")

A_FRAME_S = 1 / 30
"""A viewer that delays its caller takes at least this long."""


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def page(commands: Commands) -> Iterator[Page]:
    with Page(PageConfig(port=0), commands) as page:
        yield page


def unpacked(message: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(message[:4], "big")
    return json.loads(message[4 : 4 + length]), message[4 + length :]


async def frame_headers(session: Any, url: str, count: int) -> list[dict[str, Any]]:
    """The headers of a number of frames, each acknowledged immediately."""
    headers = []
    async with session.ws_connect(url) as line:
        async for message in line:
            if message.type is aiohttp.WSMsgType.BINARY:
                headers.append(unpacked(message.data)[0])
                await line.send_json({"kind": "drawn", "video_delay_s": 0.01})
                if len(headers) == count:
                    break
    return headers


def watch_url(page: Page) -> str:
    return page.url.replace("/?", "/watch?") if "?" in page.url else page.url + "watch"


async def status_of(url: str, **headers: str) -> int:
    jar = aiohttp.CookieJar(unsafe=True)  # unsafe: of addresses without a name
    async with aiohttp.ClientSession(cookie_jar=jar) as session, session.get(url, headers=headers) as response:
        return int(response.status)


def test_a_frame_message_holds_the_picture_in_its_own_colors_and_the_markers_beside_it() -> None:
    rgb, polyps = scene()
    header, jpeg = unpacked(FrameMessages(max_width=1280, quality=95).of_frame(shown(7), STATISTICS))
    assert (header["index"], header["width"], header["height"], header["light"]) == (7, WIDTH, HEIGHT, "ready")
    points = np.array(header["markers"][0]["points"]).reshape(-1, 2)
    assert np.abs(points - polyps[0].contour).max() <= 0.051
    assert header["statistics"]["marker_delay"] == {"p50_ms": 61.0, "p99_ms": 88.0}
    decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    error = decoded[:420].astype(int) - rgb[:420]
    assert np.abs(error.mean(axis=(0, 1))).max() < 1.5


@pytest.mark.parametrize(
    ("pixel_format", "matrix", "color_range"),
    [
        ("yuv420p", Colorspace.ITU709, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU601, ColorRange.MPEG),
        ("yuv420p", Colorspace.ITU709, ColorRange.JPEG),
        ("yuvj422p", Colorspace.ITU601, ColorRange.JPEG),
        ("nv12", Colorspace.ITU709, ColorRange.MPEG),
        ("bgr24", None, None),
        ("yuv420p10le", Colorspace.ITU709, ColorRange.MPEG),
    ],
)
def test_colors_do_not_shift_for_any_tags_of_the_source(
    pixel_format: str, matrix: Colorspace | None, color_range: ColorRange | None
) -> None:
    color = np.array([200, 90, 60])
    rgb = np.broadcast_to(color, (720, 1280, 3)).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(
        format=pixel_format, src_color_range=ColorRange.JPEG, dst_colorspace=matrix, dst_color_range=color_range
    )
    messages = FrameMessages(max_width=640, quality=95)
    item = shown(0)
    frame = type(item.frame)(index=0, picture=picture, time_base=item.frame.time_base)
    _, jpeg = unpacked(
        messages.of_frame(type(item)(frame=frame, markers=(), status=item.status, inference_age_s=None), STATISTICS)
    )
    decoded = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == (360, 640, 3)
    assert np.abs(decoded[180, 320, ::-1].astype(int) - color).max() <= 3


@pytest.mark.parametrize(
    ("text", "reply"),
    [
        ('{"kind": "ping", "sent_ms": 1.5}', Ping(sent_ms=1.5)),
        ('{"kind": "drawn"}', Drawn(video_delay_s=None, marker_delay_s=None)),
        ('{"kind": "command", "action": "record_start"}', Action.RECORD_START),
        ('{"kind": "threshold", "value": 0.35}', SetThreshold(value=0.35)),
        (
            '{"kind": "review", "number": 2, "verdict": "open", "note": " flat,\\n5 mm"}',
            Review(number=2, verdict=Verdict.OPEN, note="flat, 5 mm"),
        ),
    ],
)
def test_replies_are_read(text: str, reply: object) -> None:
    assert reply_from_text(text) == reply


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"kind": "command", "action": "quit"}',
        '{"kind": "command", "action": ["snapshot"]}',
        '{"kind": "threshold", "value": 2}',
        '{"kind": "threshold", "value": "0.5"}',
        '{"kind": "drawn", "video_delay_s": NaN}',
        '{"kind": "ping", "sent_ms": true}',
        '{"kind": "review", "number": 2, "verdict": "open", "note": 5}',
        '{"kind": "review", "number": 2, "verdict": "open", "note": "' + "x" * 1001 + '"}',
        pytest.param('{"kind": "ping", "sent_ms": ' + "9" * 4000 + "}", id="4000_digits"),
        "[" * 4000,
    ],
)
def test_messages_that_the_page_would_not_send_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="reload the page"):
        reply_from_text(text)


@pytest.mark.parametrize(
    ("host", "token", "origin", "is_welcome"),
    [
        ("localhost:8765", None, None, True),
        ("127.0.0.1:8765", None, "http://127.0.0.1:8765", True),
        ("[::1]:8765", None, None, True),
        ("evil.example:8765", None, None, False),
        ("", None, None, False),
        ("[", None, None, False),
        ("localhost:8765", None, "http://evil.example", False),
        ("localhost:8765", None, "http://localhost:9999", False),
        ("localhost:8765", None, "null", False),
    ],
)
def test_a_loopback_server_answers_to_loopback_names_and_its_own_page(
    host: str, token: str | None, origin: str | None, is_welcome: bool
) -> None:
    access = Access(only_loopback=True)
    assert (access.refusal(Visit(host=host, token=token, origin=origin)) is None) is is_welcome


@pytest.mark.parametrize(("token", "is_welcome"), [("right", True), ("wrong", False), ("", False), (None, False)])
def test_elsewhere_the_token_decides(token: str | None, is_welcome: bool) -> None:
    access = Access(token="right", only_loopback=False)
    assert (access.refusal(Visit(host="theatre-3:8765", token=token)) is None) is is_welcome


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("", False)],
)
def test_loopback_is_known(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_token_opens_the_page_and_nothing_else_does(commands: Commands) -> None:
    with Page(PageConfig(host="0.0.0.0", port=0), commands) as page:
        token = page.url.partition("token=")[2]
        local = f"http://127.0.0.1:{page.port}/"
        assert len(token) == 32
        for path in ("", "watch"):
            assert asyncio.run(status_of(f"{local}{path}")) == 403
            assert asyncio.run(status_of(f"{local}{path}?token={token[:-1]}x")) == 403
        assert asyncio.run(status_of(f"{local}?token={token}")) == 200
        assert asyncio.run(status_of(f"{local}app.js")) == 200
        assert asyncio.run(status_of(f"{local}server.py")) == 404


def test_a_loopback_page_needs_no_token_and_refuses_other_names(page: Page) -> None:
    assert "token" not in page.url
    assert asyncio.run(status_of(page.url)) == 200
    assert asyncio.run(status_of(page.url, Host="evil.example")) == 403
    assert asyncio.run(status_of(watch_url(page), Origin="http://evil.example")) == 403


def test_nothing_is_encoded_while_nobody_watches(page: Page) -> None:
    with Showing(page) as showing:
        threading.Event().wait(0.5)
        assert showing.number > 5
    assert page.encoded == 0
    assert np.median(showing.show_s) < A_FRAME_S


def test_a_viewer_gets_newer_and_newer_frames(page: Page) -> None:
    async def watched() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            return await frame_headers(session, watch_url(page), 20)

    with Showing(page):
        indices = [header["index"] for header in asyncio.run(watched())]
    assert indices == sorted(set(indices))


@pytest.mark.parametrize("claims", [0, 200], ids=["says_nothing", "claims_to_have_drawn"])
def test_a_viewer_that_never_reads_costs_the_others_nothing_and_no_memory(commands: Commands, claims: int) -> None:
    async def watched(page: Page) -> tuple[int, int]:
        async with aiohttp.ClientSession() as session:
            await frame_headers(session, watch_url(page), 30)
            before, encoded = _resident_bytes(), page.encoded
            await frame_headers(session, watch_url(page), 90)
            return page.encoded - encoded, _resident_bytes() - before

    scene()
    with (
        Page(PageConfig(port=0), commands) as page,
        _deaf_viewer(page.port, claims=claims),
        Showing(page) as showing,
    ):
        encoded, grown = asyncio.run(watched(page))
        wait_until(lambda: len(page.clients) == 1)
        (slow,) = page.clients
        page.close()
    if not claims:
        assert slow.sent == UNDRAWN_MESSAGES
    assert encoded <= 2 * 90  # all but those that were made while the viewer came and went
    assert grown < 8 * 2**20
    assert np.median(showing.show_s) < A_FRAME_S


def test_a_viewer_that_talks_nonsense_is_shown_the_door_and_the_rest_stay(page: Page) -> None:
    async def talk() -> int | None:
        async with aiohttp.ClientSession() as session, session.ws_connect(watch_url(page)) as line:
            await line.send_str("nonsense")
            async for _ in line:
                pass
            return line.close_code

    with Showing(page):
        assert asyncio.run(talk()) == aiohttp.WSCloseCode.POLICY_VIOLATION
        assert asyncio.run(status_of(page.url)) == 200


def test_commands_of_a_viewer_arrive(page: Page, commands: Commands) -> None:
    async def talk() -> None:
        async with aiohttp.ClientSession() as session, session.ws_connect(watch_url(page)) as line:
            await line.send_json({"kind": "threshold", "value": 0.3})
            await line.send_json({"kind": "ping", "sent_ms": 0})
            async for message in line:
                if json.loads(message.data)["kind"] == "pong":
                    return

    asyncio.run(talk())
    assert commands.waiting() == [SetThreshold(value=0.3)]


def test_there_are_only_so_many_viewers(commands: Commands) -> None:
    async def second(url: str) -> int:
        async with aiohttp.ClientSession() as session, session.ws_connect(url):
            return await status_of(url.replace("ws", "http"))

    with Page(PageConfig(port=0, max_viewers=1), commands) as page:
        assert asyncio.run(second(watch_url(page))) == 503


def test_the_status_is_shown_without_a_frame(page: Page) -> None:
    async def reported() -> tuple[dict[str, Any], bytes]:
        async with aiohttp.ClientSession() as session, session.ws_connect(watch_url(page)) as line:
            await line.receive()  # the greeting
            page.tell(Status(light=Light.LOST, reason="no signal"), STATISTICS)
            return unpacked((await line.receive()).data)

    header, jpeg = asyncio.run(reported())
    assert (header["light"], header["reason"], jpeg) == ("lost", "no signal", b"")
    assert header["statistics"]["threshold"] == STATISTICS.threshold


def test_closing_takes_leave_of_viewers_and_leaves_no_thread(commands: Commands) -> None:
    async def watched(page: Page) -> int | None:
        async with aiohttp.ClientSession() as session, session.ws_connect(watch_url(page)) as line:
            await line.receive()
            closing = asyncio.create_task(asyncio.to_thread(page.close))
            async for _ in line:
                pass
            await closing
            return line.close_code

    before = set(threading.enumerate())
    with Page(PageConfig(port=0), commands) as page:
        assert asyncio.run(watched(page)) == aiohttp.WSCloseCode.GOING_AWAY
        assert set(threading.enumerate()) <= before
        page.show(shown(0), STATISTICS)


def test_a_port_in_use_says_how_to_fix_it(page: Page, commands: Commands) -> None:
    with pytest.raises(OutputError, match="choose another address or port"):
        Page(PageConfig(port=page.port), commands)


@pytest.mark.parametrize("setting", [{"port": 70000}, {"quality": 0}, {"max_width": 1}, {"token": "short"}])
def test_invalid_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the page's"):
        PageConfig(**setting)


def test_without_aiohttp_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, commands: Commands) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(MissingExtraError, match=r"\[serve\]"):
        Page(PageConfig(port=0), commands)


@contextmanager
def _deaf_viewer(port: int, *, claims: int) -> Iterator[None]:
    """A viewer that reads nothing after the handshake, but may claim to have drawn some frames."""
    request = (
        f"GET /watch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    text = b'{"kind": "drawn"}'
    drawn = bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text  # masked with zeros
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port))
        line.sendall(request.encode())
        assert line.recv(64).startswith(b"HTTP/1.1 101")
        line.sendall(drawn * claims)
        yield


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
