"""Recordings are playable after a kill and a full disk, contain every packet unchanged, and never delay the caller."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import av
import numpy as np
import pytest

from polypstream.errors import OutputError
from polypstream.realtime.live.events import Event, EventKind
from polypstream.realtime.live.recording.event_log import EventLog
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.overlay import OverlayConfig, OverlayRecorder
from polypstream.realtime.live.recording.segment import Segment
from polypstream.realtime.outlines.drawing import MarkerStyle, marker_coverage
from polypstream.realtime.video.encoding import Encoding
from tests.clips import make_clip, plane_bytes, read_packets, read_video, times_of
from tests.live_frames import live_frame, marker
from tests.realtime.live.disks import disk_of

pytestmark = pytest.mark.realtime

LOSSLESS = Encoding(quality="lossless", preset="ultrafast")
NO_ONE = pytest.fail
STARTED = Event(kind=EventKind.SESSION_STARTED)
"""For recordings that have no reason to stop."""


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def send(recorder: FeedRecorder, path: Path, *, first: int = 0, connect: bool = True) -> None:
    """Play a file's video packets into a tap, as a source would."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if connect:
            recorder.connected(stream)
        for number, packet in enumerate(container.demux(stream)):
            if number >= first:
                before = packet.pts, packet.dts, packet.time_base, bytes(packet)
                recorder.packet(packet)
                assert (packet.pts, packet.dts, packet.time_base, bytes(packet)) == before
                assert packet.stream is stream


@pytest.mark.parametrize(
    ("codec", "suffix", "pixel_format"),
    [
        ("libx264", ".mp4", "yuv420p"),
        ("libx265", ".mkv", "yuv420p"),
        ("mpeg2video", ".mpg", "yuv420p"),
        ("mjpeg", ".avi", "yuvj420p"),
        ("libx264", ".ts", "yuv420p"),
    ],
)
def test_packets_are_written_as_they_came(tmp_path: Path, codec: str, suffix: str, pixel_format: str) -> None:
    clip = make_clip(
        tmp_path / f"clip{suffix}",
        codec=codec,
        pixel_format=pixel_format,
        options={} if codec == "mjpeg" else {"bf": "2"},
    )
    with FeedRecorder(tmp_path / "out" / "feed.mp4", on_stopped=NO_ONE) as recorder:
        send(recorder, clip)
    (written,) = recorder.files
    assert written == tmp_path / "out" / "feed.mkv"
    assert [shown.planes for shown in read_video(written)] == [shown.planes for shown in read_video(clip)]
    if suffix in {".mp4", ".avi", ".mkv"}:  # the others hold start codes, which Matroska has no use for
        assert [data for _, data in read_packets(written, 0)] == [data for _, data in read_packets(clip, 0)]
    steps = np.diff([float(time) for time in times_of(written)])
    np.testing.assert_allclose(steps, 1 / 25, atol=0.0011)
    assert recorder.written == 12


def test_a_recording_begins_with_a_key_frame(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=20, options={"g": "8", "keyint_min": "8", "bf": "0"})
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=NO_ONE) as recorder:
        send(recorder, clip, first=3, connect=False)
    shown = read_video(tmp_path / "feed.mkv")
    assert [picture.planes for picture in shown] == [picture.planes for picture in read_video(clip)][8:]
    assert shown[0].time == 0


def test_each_connection_has_its_own_file_and_none_is_overwritten(tmp_path: Path) -> None:
    small = make_clip(tmp_path / "small.mp4")
    large = make_clip(tmp_path / "large.mp4", width=128, height=96, codec="libx265")
    (tmp_path / "feed-2.mkv").write_text("mine")
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=NO_ONE) as recorder:
        send(recorder, small)
        send(recorder, large)
        send(recorder, large, connect=False)
    assert [path.name for path in recorder.files] == ["feed.mkv", "feed-3.mkv", "feed-4.mkv"]
    assert [len(read_video(path)) for path in recorder.files] == [12, 12, 12]
    assert (tmp_path / "feed-2.mkv").read_text() == "mine"


def test_a_feed_whose_times_jump_back_continues(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", frames=50, options={"bf": "0"})
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=NO_ONE) as recorder, av.open(str(clip)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        for _ in range(2):
            for packet in packets:
                recorder.packet(packet)
    times = times_of(tmp_path / "feed.mkv")
    assert len(times) == 100
    np.testing.assert_allclose(np.diff([float(time) for time in times]), 1 / 25, atol=0.0011)


def test_without_a_key_frame_there_is_no_file(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", options={"bf": "0"})
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=NO_ONE) as recorder:
        send(recorder, clip, first=1)
    assert recorder.files == ()
    assert not (tmp_path / "feed.mkv").exists()


def test_the_overlay_is_recorded_at_capture_times_and_the_shown_picture_stays_as_it_was(tmp_path: Path) -> None:
    frames = [live_frame(i, markers=(marker(opacity=0.5),), captured_at=100 + 0.04 * i + (i > 3)) for i in range(8)]
    before = [plane_bytes(item.frame.picture) for item in frames]
    config = OverlayConfig(encoding=LOSSLESS)
    with OverlayRecorder(tmp_path / "overlay.mkv", config, on_stopped=NO_ONE) as recorder:
        for item in frames:
            recorder.show(item)
    assert [plane_bytes(item.frame.picture) for item in frames] == before
    shown = read_video(tmp_path / "overlay.mkv")
    assert [float(picture.time) for picture in shown] == pytest.approx([0.04 * i + (i > 3) for i in range(8)], abs=2e-3)
    covered = [plane > 0 for plane in marker_coverage(frames[0].frame.picture, [marker().polyp], MarkerStyle())]
    for picture, item in zip(shown, before, strict=True):
        for drawn, plain, hidden in zip(picture.planes, item, covered, strict=True):
            differs = np.frombuffer(drawn, np.uint8) != np.frombuffer(plain, np.uint8)
            assert not differs[~hidden.ravel()].any()
            assert differs[hidden.ravel()].mean() > 0.5


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "yuyv422", "bgr24", "rgb24", "yuvj422p", "gray"])
@pytest.mark.parametrize("codec", ["h264", "ffv1"])
def test_pictures_of_a_source_without_packets_are_recorded(tmp_path: Path, pixel_format: str, codec: str) -> None:
    config = OverlayConfig(style=None, encoding=Encoding(codec=codec, quality="lossless", preset="ultrafast"))
    items = [live_frame(i, pixel_format=pixel_format, captured_at=i / 25) for i in range(5)]
    with OverlayRecorder(tmp_path / "raw.mkv", config, on_stopped=NO_ONE) as recorder:
        for item in items:
            recorder.show(item)
    shown = read_video(tmp_path / "raw.mkv")
    assert len(shown) == 5
    if pixel_format in {"yuv420p", "yuvj422p", "gray"}:
        for picture, item in zip(shown, items, strict=True):
            planes = plane_bytes(item.frame.picture)
            assert picture.planes[: len(planes)] == planes


def test_the_aspect_of_pixels_is_kept(tmp_path: Path) -> None:
    item = live_frame(0)
    wide = replace(item, frame=replace(item.frame, sample_aspect_ratio=Fraction(4, 3)))
    with OverlayRecorder(tmp_path / "overlay.mkv", on_stopped=NO_ONE) as recorder:
        recorder.show(wide)
    with av.open(str(tmp_path / "overlay.mkv")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


def test_a_change_of_size_begins_a_new_file(tmp_path: Path) -> None:
    with OverlayRecorder(tmp_path / "overlay.mkv", on_stopped=NO_ONE) as recorder:
        for size in ((64, 48), (128, 96), (64, 48)):
            recorder.show(live_frame(0, size=size))
            recorder.show(live_frame(1, size=size))
    assert [path.name for path in recorder.files] == ["overlay.mkv", "overlay-2.mkv", "overlay-3.mkv"]
    assert [len(read_video(path)) for path in recorder.files] == [2, 2, 2]


def test_a_slow_encoder_drops_frames_and_holds_nobody_up(tmp_path: Path) -> None:
    config = OverlayConfig(encoding=Encoding(codec="h264", quality=0, preset="veryslow"))
    items = [live_frame(i, size=(1280, 720), captured_at=i / 30) for i in range(30)]
    with OverlayRecorder(tmp_path / "overlay.mkv", config, on_stopped=NO_ONE) as recorder:
        began = monotonic()
        for item in items:
            recorder.show(item)
        assert monotonic() - began < 1  # of many
    assert recorder.dropped > 0
    assert recorder.written + recorder.dropped == 30
    assert len(times_of(tmp_path / "overlay.mkv")) == recorder.written


def test_packets_that_a_slow_disk_leaves_no_time_for_are_dropped_up_to_the_next_key_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polypstream.realtime.live.recording.feed._WAITING", 4)
    clip = make_clip(tmp_path / "clip.mp4", frames=200, options={"g": "5", "keyint_min": "5", "bf": "0"})
    calls, goes_on, plain = [0], threading.Event(), Segment.mux

    def mux(segment: Segment, packet: "av.Packet[Any]") -> None:
        calls[0] += 1
        if calls[0] == 20:
            assert goes_on.wait(60)
        plain(segment, packet)

    monkeypatch.setattr(Segment, "mux", mux)
    with FeedRecorder(tmp_path / "feed.mkv", on_stopped=NO_ONE) as recorder, av.open(str(clip)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            recorder.packet(packet)
            if number == 102:  # the last key frame before is 100
                goes_on.set()
                until = monotonic() + 60
                while calls[0] < 22 and monotonic() < until:
                    sleep(0.01)
    assert recorder.dropped > 70
    everything = [picture.planes for picture in read_video(clip)]
    kept = [everything.index(picture.planes) for picture in read_video(tmp_path / "feed.mkv")]
    assert kept == sorted(kept)
    assert all(here == before + 1 or here % 5 == 0 for before, here in pairwise(kept))
    assert 100 in kept


PROGRAM = """
import sys
from pathlib import Path
from time import monotonic, sleep
import av
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.overlay import OverlayRecorder
from tests.live_frames import live_frame, marker
from tests.realtime.live.disks import disk_of

kind, clip, path = sys.argv[1], sys.argv[2], Path(sys.argv[3])
began = monotonic()
recorder = (FeedRecorder if kind == "feed" else OverlayRecorder)(path, on_stopped=print)
with av.open(clip) as container:
    for number, packet in enumerate(container.demux(video=0)):
        sleep(max(0, number / 25 - (monotonic() - began)))
        if kind == "feed":
            recorder.packet(packet)
        else:
            recorder.show(live_frame(number, markers=(marker(),), captured_at=began + number / 25))
        print(number / 25, flush=True)
"""


@pytest.mark.parametrize("kind", ["feed", "overlay"])
@pytest.mark.slow
def test_a_kill_costs_less_than_a_second(tmp_path: Path, kind: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=250, options={"g": "100", "bf": "0"})
    path = tmp_path / "recording.mkv"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, clip, path], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        sent_s = next(time for time in map(float, program.stdout) if time >= 3.3)
        program.send_signal(signal.SIGKILL)
    times = times_of(path)
    assert sent_s - times[-1] < 1
    places = [round(time * 25) for time in times]
    assert places == sorted(set(places))
    if kind == "feed":  # an encoder that is too slow leaves frames out; a feed is only copied
        assert places == list(range(len(times)))


FULL = """
import resource, signal, sys
from pathlib import Path
from time import sleep
from polypstream.realtime.live.recording.feed import FeedRecorder
from polypstream.realtime.live.recording.overlay import OverlayRecorder
from tests.live_frames import live_frame
import av

kind, clip, path, limit = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
shown = 0
if kind == "feed":
    with FeedRecorder(path, on_stopped=print) as recorder, av.open(clip) as container:
        for packet in container.demux(video=0):
            recorder.packet(packet)
            shown += 1
else:
    with OverlayRecorder(path, on_stopped=print) as recorder:
        for index in range(100):
            item = live_frame(index, size=(640, 480), captured_at=index / 25)
            recorder.show(item)
            while recorder.is_running and recorder.written + recorder.dropped <= index:
                sleep(0.001)
            shown += 1
assert not recorder.is_running
print("shown", shown)
"""


@pytest.mark.parametrize("kind", ["feed", "overlay"])
@pytest.mark.parametrize("disk", ["limited", "full"])
def test_a_full_disk_ends_the_recording_with_one_line_and_the_file_plays(
    tmp_path: Path, kind: str, disk: str, small_disk: Path
) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=100, width=320, height=240, options={"g": "10", "bf": "0"})
    assert clip.stat().st_size > 600_000
    folder, limit = (tmp_path, 300_000) if disk == "limited" else (small_disk, 0)
    path = folder / "recording.mkv"
    done = subprocess.run(
        [sys.executable, "-c", FULL, kind, clip, path, str(limit)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line, shown = done.stdout.splitlines()
    assert line.startswith(f"recording to {path} has stopped")
    assert ("the disk is full: free some space" if disk == "full" else "ulimit -f") in line
    assert shown in {"shown 100", "shown 101"}
    written_share = path.stat().st_size / clip.stat().st_size
    assert kind == "overlay" or len(playable_frames(path)) >= 0.8 * 100 * written_share
    assert playable_frames(path)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A disk with room for 400 kB."""
    if "full" not in request.node.callspec.params.values():
        yield tmp_path
        return
    with disk_of(tmp_path / "small", kilobytes=400) as disk:
        yield disk


def playable_frames(path: Path) -> list[av.VideoFrame]:
    """What a player shows of a file that ends in the middle of a packet."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                frames += packet.decode()
            except av.FFmpegError:
                continue
    return frames


@pytest.mark.parametrize("recorder_type", [FeedRecorder, OverlayRecorder])
def test_a_folder_that_cannot_be_written_is_reported_and_raises_nothing(tmp_path: Path, recorder_type: Any) -> None:
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "file").write_text("no folder")
    reported: list[str] = []
    with recorder_type(tmp_path / "file" / "feed.mkv", on_stopped=reported.append) as recorder:
        if isinstance(recorder, FeedRecorder):
            send(recorder, clip)
        else:
            recorder.show(live_frame(0))
        while recorder.is_running:
            sleep(0.01)
        recorder.show(live_frame(1)) if isinstance(recorder, OverlayRecorder) else send(recorder, clip)
    assert len(reported) == 1
    assert reported[0].startswith(
        f"recording to {tmp_path / 'file' / 'feed.mkv'} has stopped (File exists); there is a file where"
    )


def test_a_bug_in_a_recorder_is_not_hidden(tmp_path: Path) -> None:
    class Buggy(EventLog):
        def _work(self, items: Iterator[Any]) -> None:
            raise KeyError(next(items))

    log = Buggy(tmp_path / "events.jsonl", on_notice=NO_ONE)
    log.add(STARTED)
    with pytest.raises(KeyError):
        log.close()
    log.add(STARTED)


def test_the_reason_is_reported_once(tmp_path: Path) -> None:
    reported: list[str] = []

    class Full(EventLog):
        def _work(self, items: Iterator[Any]) -> None:
            next(items)
            raise OutputError("full")

    with Full(tmp_path / "events.jsonl", on_notice=reported.append) as log:
        log.add(STARTED)
        while log.is_running:
            sleep(0.01)
        log.add(STARTED)
    assert reported == ["full"]
