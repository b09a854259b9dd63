import logging
import socket
import threading
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import av
import pytest
from av.video.stream import VideoStream

from polypstream.errors import ConfigError, SourceError
from polypstream.realtime.live.sources import AtEnd, RtspTransport, SourceConfig, source_from_address
from polypstream.realtime.live.sources.config import label_of, reason_of, with_credentials
from polypstream.realtime.live.sources.decoder import LiveDecoder, SourceStatistics
from polypstream.realtime.live.sources.device import descriptors_of, device_options
from polypstream.realtime.live.sources.reader import Arrival
from polypstream.realtime.live.sources.source import ConnectionStatus, FrameSource
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.timestamps import LiveClock
from tests.clips import make_clip
from tests.realtime.live.feeds import (
    Coding,
    Playback,
    RtspCamera,
    TcpCamera,
    UdpCamera,
    free_port,
    runs,
    udp_is_open,
    wait_until,
    why_no_rtsp_server,
    write_coded,
)

pytestmark = pytest.mark.realtime

PATIENT = SourceConfig(late_s=30, watchdog_s=20)
"""Nothing is skipped, even on a slow machine."""
SECRETS = ("nurse", "t0psecret", "tok3n")


def udp_port() -> int:
    return free_port(socket.SOCK_DGRAM)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_frame_sent_over_udp_arrives_in_order(b_frames: int) -> None:
    coding = Coding(b_frames=b_frames, gop=12)
    port = udp_port()
    source = source_from_address(f"udp://@:{port}", PATIENT)
    with Playback(source) as viewing, UdpCamera(port, coding):
        wait_until(lambda: len(viewing.frames) >= 70)
        assert source.state.status is ConnectionStatus.RUNNING
    assert set(runs(viewing.numbers, coding.frames)) == {1}
    assert None not in viewing.numbers
    assert [frame.index for frame in viewing.frames] == list(range(len(viewing.frames)))
    assert all(a.pts < b.pts for a, b in pairwise(viewing.frames))
    assert source.state.status is ConnectionStatus.ENDED


def test_every_frame_sent_over_tcp_arrives_in_order() -> None:
    port = free_port()
    with TcpCamera(port) as camera, Playback(source_from_address(f"tcp://127.0.0.1:{port}", PATIENT)) as viewing:
        wait_until(lambda: len(viewing.frames) >= 70)
    assert set(runs(viewing.numbers, camera.coding.frames)) == {1}


@pytest.mark.skipif(bool(why_no_rtsp_server()), reason=why_no_rtsp_server())
@pytest.mark.parametrize("transport", RtspTransport)
def test_rtsp_with_a_password_over_both_transports(tmp_path: Path, transport: RtspTransport) -> None:
    clip = write_coded(tmp_path / "clip.mp4", Coding(frames=250))
    port = free_port()
    address = f"rtsp://nurse:t0psecret@127.0.0.1:{port}/scope"
    source = source_from_address(address, replace(PATIENT, rtsp_transport=transport))
    with RtspCamera(port, clip, "nurse", "t0psecret"), Playback(source) as viewing:
        wait_until(lambda: len(viewing.frames) >= 50)
    assert set(runs(viewing.numbers, 250)) == {1}
    assert None not in viewing.numbers


@pytest.mark.skipif(bool(why_no_rtsp_server()), reason=why_no_rtsp_server())
def test_a_wrong_password_is_reported_without_showing_it(tmp_path: Path) -> None:
    clip = write_coded(tmp_path / "clip.mp4", Coding())
    port = free_port()
    source = source_from_address(f"rtsp://nurse:t0psecret@127.0.0.1:{port}/scope?key=tok3n")
    with RtspCamera(port, clip, "nurse", "other"), Playback(source):
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        assert source.state.reason == "the user name or password is wrong"


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://nurse:t0psecret@127.0.0.1:9/scope?key=tok3n",
        "http://nurse:t0psecret@127.0.0.1:9/scope?key=tok3n#tok3n",
        "tcp://nurse:t0psecret@127.0.0.1:9",
        "srt://127.0.0.1:9?passphrase=t0psecret&streamid=tok3n",
        "rtsp://nurse:t0psecret/@[::1:9/?tok3n",
        "rtsp://nurse:12/t0psecret?#@127.0.0.1:9/",
        "rtmp://nurse:t0psecret@host/app?tok3n",
    ],
)
def test_credentials_are_never_shown(
    address: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    said = []
    av.logging.set_level(av.logging.TRACE)
    caplog.set_level(logging.NOTSET)
    caplog.set_level(logging.NOTSET, "libav")
    try:
        source = source_from_address(address)
    except ConfigError as error:
        said += [str(error), repr(error), repr(error.__cause__)]
    else:
        with Playback(source):
            wait_until(lambda: source.state.status is ConnectionStatus.LOST)
            said += [repr(source), str(source), source.label, repr(source.state)]
            assert source.state.reason
    finally:
        av.logging.set_level(None)
    out, err = capfd.readouterr()
    text = "\n".join([*said, caplog.text, out, err])
    assert not [secret for secret in SECRETS if secret in text]


def test_a_label_says_where_it_comes_from() -> None:
    assert label_of("rtsp://nurse:t0psecret@cart-3.ward:8554/scope/1?key=tok3n") == "rtsp://cart-3.ward:8554/scope/1"
    assert label_of("/dev/video0") == "/dev/video0"
    assert label_of("clips/day?1@home.mp4") == "clips/day?1@home.mp4"
    assert reason_of(RuntimeError("t0psecret")) == "the connection failed"


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("rtmp://host/app", r"rtmp:// is not supported.*give /dev/video0"),
        ("", "source is empty"),
        ("udp://@", "has no port.*udp://@:5000"),
        ("tcp://:80", "has no port or host"),
        ("rtsp://host:port/scope", r"the port must be a number.*%40"),
    ],
)
def test_invalid_addresses_are_refused(address: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        source_from_address(address)


def test_a_missing_file_is_refused_immediately(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no file"):
        source_from_address(str(tmp_path / "none.mp4"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("watchdog_s", 0),
        ("late_s", -1),
        ("longest_retry_s", 0.1),
        ("device_size", (0, 5)),
        ("device_rate", Fraction(0)),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=option):
        SourceConfig(**{option: value})


def test_a_file_is_played_in_real_time_by_its_times(tmp_path: Path) -> None:
    times = [*range(0, 400, 20), *range(400, 1000, 100), *range(1000, 1200, 40)]
    clip = write_coded(tmp_path / "clip.mkv", Coding(frames=len(times), b_frames=2), times)
    source = source_from_address(str(clip), PATIENT)
    with Playback(source) as viewing:
        wait_until(lambda: viewing.is_over)
    assert viewing.numbers == list(range(len(times)))
    assert [round(frame.pts_s * 1000) for frame in viewing.frames] == times
    assert viewing.taken_at[-1] - viewing.taken_at[0] >= 1.0
    assert source.state.status is ConnectionStatus.ENDED


def test_a_frame_knows_the_aspect_of_its_pixels(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=3, sample_aspect_ratio=Fraction(4, 3))
    with source_from_address(str(clip)) as source:
        assert {frame.sample_aspect_ratio for frame in source} == {Fraction(4, 3)}


def test_a_looped_file_continues_until_it_is_closed(tmp_path: Path) -> None:
    clip = write_coded(tmp_path / "clip.mp4", Coding(frames=10, fps=50, gop=5, b_frames=1))
    with Playback(source_from_address(str(clip), replace(PATIENT, at_end=AtEnd.LOOP))) as viewing:
        wait_until(lambda: len(viewing.frames) >= 35)
    assert set(runs(viewing.numbers, 10)) == {1}
    assert {b.pts - a.pts for a, b in pairwise(viewing.frames)} == {viewing.frames[1].pts - viewing.frames[0].pts}


class Tape:
    """A tap that records what it receives."""

    def __init__(self) -> None:
        self.streams: list[VideoStream] = []
        self.threads: set[int] = set()
        self.sizes: list[int] = []
        self.times: list[int | None] = []

    def connected(self, stream: VideoStream) -> None:
        self.streams.append(stream)
        self.threads.add(threading.get_ident())

    def packet(self, packet: "av.Packet[Any]") -> None:
        assert self.streams
        assert packet.stream is self.streams[-1]
        self.sizes.append(packet.size)
        self.times.append(packet.dts)
        self.threads.add(threading.get_ident())


def test_a_tap_is_attached_and_detached_in_mid_stream() -> None:
    port, first, second = udp_port(), Tape(), Tape()
    source = source_from_address(f"udp://@:{port}", PATIENT)
    source.attach(first)
    with Playback(source) as viewing, UdpCamera(port):
        wait_until(lambda: len(viewing.frames) >= 5)
        source.attach(second)
        wait_until(lambda: len(second.sizes) >= 20)
        source.attach(None)
        assert source.has_packets
        detached_at = len(viewing.frames)
        wait_until(lambda: len(viewing.frames) >= len(first.sizes) + len(second.sizes) + detached_at)
    assert len(first.streams) == len(second.streams) == 1
    assert first.times
    times = [*first.times, *second.times]
    assert times == sorted(set(times))
    assert len(times) < len(viewing.frames)
    assert len(first.threads | second.threads) == 1


def test_a_slow_viewer_sees_the_present_and_the_tap_gets_all() -> None:
    port, tape, pause = udp_port(), Tape(), Event()
    source: Any = source_from_address(f"udp://@:{port}", SourceConfig(late_s=0.05))
    source.attach(tape)
    viewing = Playback(source)
    viewing.on_frame = lambda frame: bool(pause.wait(0.3))
    with viewing:
        wait_until(lambda: udp_is_open(port))  # its only keyframe is the first
        with UdpCamera(port, Coding(frames=500, gop=500)) as camera:
            wait_until(lambda: len(viewing.frames) >= 12)
            lags = [number for number in viewing.numbers if number is not None]
            assert camera.sent - lags[-1] < camera.sent / 2
    assert source.skipped > 20
    assert len(viewing.frames) + source.skipped >= lags[-1] - lags[0] + 1  # every frame is accounted for
    assert len(viewing.frames) + source.skipped <= len(tape.sizes)
    assert len(tape.sizes) >= lags[-1]
    assert all(age < 2 for age in ages(viewing)[2:])  # three, and growing, if nothing were skipped


@pytest.mark.parametrize("b_frames", ["0", "2"])
def test_a_decoder_that_is_late_counts_every_frame_that_it_leaves_out(tmp_path: Path, b_frames: str) -> None:
    options = {"bf": b_frames, "b-pyramid": "none", "g": "100", "preset": "veryfast", "qp": "10"}
    clip = make_clip(tmp_path / "clip.mp4", frames=60, options=options)
    counts, frames = SourceStatistics(), 0
    with av.open(str(clip)) as container:
        decoder = LiveDecoder(container.streams.video[0], counts, late_s=0.1)
        for number, packet in enumerate(each for each in container.demux(video=0) if each.size):
            frames += len(decoder.decode(Arrival(packet=packet, at=0.0), lag_s=0.5 * (20 <= number < 40)))
        frames += len(decoder.flush(at=0.0))
    assert (counts.skipped > 5) == (b_frames == "2")
    assert frames + counts.skipped == 60


@pytest.mark.parametrize("b_frames", ["0", "3"])
def test_reordering_delays_the_frames_of_a_camera_but_not_those_of_a_file(tmp_path: Path, b_frames: str) -> None:
    options = {"bf": b_frames, "b-pyramid": "none", "preset": "veryfast", "qp": "10"}
    clip = make_clip(tmp_path / "clip.mp4", frames=30, options=options)

    def delays(*, is_file: bool) -> list[float]:
        """Capture times after the presentation times, of packets that arrive at their decoding times."""
        with av.open(str(clip)) as container:
            (stream,) = container.streams.video
            decoder = LiveDecoder(stream, SourceStatistics(), late_s=0.1, is_file=is_file)
            times: list[float] = []
            presented = []
            for packet in (each for each in container.demux(stream) if each.size):
                assert packet.dts is not None
                assert packet.pts is not None
                presented.append(float(packet.pts * packet.time_base))
                arrival = Arrival(packet=packet, at=float(packet.dts * packet.time_base))
                times += [frame.captured_at for frame in decoder.decode(arrival, lag_s=0)]
        return [round(time - due, 6) for time, due in zip(times, sorted(presented), strict=False)]

    assert len(set(delays(is_file=True))) == 1
    assert (len(set(delays(is_file=False))) > 1) == (b_frames != "0")


def test_a_tap_is_informed_of_another_size() -> None:
    port, tape = udp_port(), Tape()
    source = source_from_address(f"udp://@:{port}", PATIENT)
    source.attach(tape)
    with Playback(source) as viewing, UdpCamera(port) as camera:
        wait_until(lambda: len(viewing.frames) >= 5)
        camera.switch(Coding(width=640, height=480))
        wait_until(lambda: viewing.frames[-1].picture.width == 640)
    assert len(tape.streams) >= 2


def test_where_a_keyframe_waits_decoding_continues_from_there() -> None:
    port, gate, tape = udp_port(), Event(), Tape()
    source: Any = source_from_address(f"udp://@:{port}", replace(PATIENT, late_s=0.2))
    source.attach(tape)
    viewing = Playback(source)
    viewing.on_frame = lambda frame: gate.wait() if frame.index == 3 else None
    with viewing, UdpCamera(port, Coding(frames=500, gop=10)) as camera:
        wait_until(lambda: camera.sent >= 60)
        gate.set()
        wait_until(lambda: len(viewing.frames) >= 20)
    numbers = [number for number in viewing.numbers if number is not None]
    after = numbers[4]
    assert after >= 40
    assert len(numbers) == len(viewing.numbers)
    assert source.counts.undecodable == 0
    assert source.skipped >= 30
    assert numbers[-1] - numbers[0] + 1 <= len(numbers) + source.skipped <= len(tape.sizes)
    assert len(tape.sizes) >= len(viewing.frames) + 30


def ages(viewing: Playback) -> list[float]:
    return [at - frame.captured_at for at, frame in zip(viewing.taken_at, viewing.frames, strict=False)]


def test_a_source_is_iterated_once_and_needs_no_iteration(tmp_path: Path) -> None:
    with source_from_address(f"udp://@:{udp_port()}") as unused:
        assert unused.state.status is ConnectionStatus.CONNECTING
        assert not unused.has_packets
    clip = write_coded(tmp_path / "clip.mp4", Coding(frames=2))
    with source_from_address(str(clip)) as source:
        assert len(list(source)) == 2
        with pytest.raises(SourceError, match="open the source again"):
            list(source)


def test_leaving_the_loop_ends_everything(tmp_path: Path) -> None:
    clip = write_coded(tmp_path / "clip.mp4", Coding())
    before = set(threading.enumerate())
    with source_from_address(str(clip)) as source:
        first: Frame = next(iter(source))
        assert first.index == 0
    assert set(threading.enumerate()) == before
    failing = source_from_address(str(clip))
    with pytest.raises(ZeroDivisionError), failing:
        _ = [1 / frame.index for frame in failing]
    assert set(threading.enumerate()) == before


def test_times_increase_with_any_clock_of_the_sender() -> None:
    clock = LiveClock(Fraction(1, 90_000))
    wrap = 1 << 33
    sent = [wrap - 7200, wrap - 3600, 0, 3600, 3600, None, 10800, 900_000, 7200]
    got = []
    for number, pts in enumerate(sent):
        picture = av.VideoFrame(16, 16, "gray")
        picture.pts = pts
        got.append(clock.pts_of(picture, number * 0.04))
    assert all(a < b for a, b in pairwise(got))
    assert got[3] - got[2] == got[2] - got[1] == 3600
    assert got[7] - got[6] > 800_000  # a leap ahead is believed
    assert got[8] - got[7] == 3600


def test_device_options_are_requested_from_the_driver(tmp_path: Path) -> None:
    config = SourceConfig(device_size=(1920, 1080), device_rate=Fraction(30_000, 1001), device_format="mjpeg")
    asked = {"video_size": "1920x1080", "framerate": "30000/1001", "input_format": "mjpeg"}
    assert device_options(config) == asked
    assert device_options(SourceConfig()) == {}
    place = tmp_path / "device"
    place.touch()
    assert descriptors_of(str(place)) == set()
    with place.open() as file:
        assert descriptors_of(str(place)) == {file.fileno()}


def test_a_device_that_is_not_there_is_waited_for() -> None:
    source: FrameSource = source_from_address("v4l2:/dev/video99")
    with Playback(source) as viewing:
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        assert source.state.reason.startswith("there is no camera /dev/video99")
        assert not viewing.is_over
    assert viewing.is_over


@pytest.mark.parametrize(
    ("address", "credentials", "whole"),
    [
        ("rtsp://cart:554/a", "nurse:t0p/se@cret", "rtsp://nurse:t0p%2Fse%40cret@cart:554/a"),
        ("rtsp://nurse@cart/a", "t0p:secret", "rtsp://nurse:t0p%3Asecret@cart/a"),
        ("https://cart/a?b=c", "n u:x", "https://n%20u:x@cart/a?b=c"),
    ],
)
def test_credentials_are_put_into_an_address(address: str, credentials: str, whole: str) -> None:
    assert with_credentials(address, credentials) == whole


@pytest.mark.parametrize(
    ("address", "credentials", "says"),
    [
        ("/dev/video0", "nurse:t0psecret", "does not accept credentials"),
        ("rtsp://cart/a", "t0psecret", "have no user name"),
        ("rtsp://nurse:t0psecret@cart/a", "x", "already has a password"),
    ],
)
def test_credentials_that_fit_no_address_are_refused_without_showing_them(
    address: str, credentials: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        with_credentials(address, credentials)
    assert "t0psecret" not in str(caught.value)
