"""A simulated camera: images with a counter, sent in real time over loopback, with all kinds of faults."""

import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Any, Self

import av
import numpy as np
from av.codec.context import Flags

from polypstream.realtime.video.frame import Frame
from polypstream.synthetic.counter import counter_from_rgb, draw_counter

DATAGRAM = 7 * 188
_NAMES = {"libx264": "h264", "mpeg2video": "mpeg2video"}
CLOCK = 90_000
"""Ticks of MPEG-TS a second."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """Encoding of the simulated camera."""

    width: int = 320
    height: int = 240
    fps: int = 25
    frames: int = 50
    """Length of the loop; every loop begins with a keyframe."""
    gop: int = 10
    b_frames: int = 0
    codec: str = "libx264"
    is_interlaced: bool = False


@lru_cache(maxsize=16)
def coded(coding: Coding) -> tuple[Any, list[tuple[bytes, int, int, bool]]]:
    """The open encoder, whose parameters a muxer needs, and each packet: data, pts, dts (in frames), keyframe."""
    context: Any = av.CodecContext.create(coding.codec, "w")
    context.width, context.height, context.pix_fmt = coding.width, coding.height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, coding.fps), Fraction(coding.fps)
    context.flags |= Flags.global_header
    context.gop_size, context.max_b_frames = coding.gop, coding.b_frames
    context.options = _options(coding)
    if coding.is_interlaced:
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    packets = []
    for index, frame in enumerate(_pictures(coding)):
        frame.pts, frame.time_base = index, Fraction(1, coding.fps)
        packets += context.encode(frame)
    packets += context.encode(None)
    return context, [(bytes(p), p.pts, p.dts, p.is_keyframe) for p in packets]


def _options(coding: Coding) -> dict[str, str]:
    if coding.codec != "libx264":
        return {}
    return {"preset": "ultrafast", "crf": "20", "bf": str(coding.b_frames), "sc_threshold": "0", "threads": "1"}


def _pictures(coding: Coding) -> Iterator[av.VideoFrame]:
    for index in range(coding.frames):
        yield av.VideoFrame.from_ndarray(numbered_rgb(index, coding), format="rgb24").reformat(format="yuv420p")


def numbered_rgb(index: int, coding: Coding) -> Any:
    """An image with some content and its number along the bottom."""
    y, x = np.indices((coding.height, coding.width))
    rgb = np.stack([(x + index * 3) % 256, (y + index * 2) % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    draw_counter(rgb, index)
    return rgb


def number_in(frame: Frame) -> int | None:
    """The counter that a frame shows."""
    return counter_from_rgb(np.asarray(frame.picture.to_ndarray(format="rgb24"), dtype=np.uint8))


class TransportStream:
    """Endless MPEG-TS loop, frame by frame, by copying packets."""

    def __init__(self, coding: Coding) -> None:
        self._coding = coding
        self._written = bytearray()
        context, self._packets = coded(coding)
        options = {"flush_packets": "1", "muxdelay": "0", "muxpreload": "0"}
        self._container = av.open(self, "w", format="mpegts", container_options=options)
        self._stream: Any = self._container.add_mux_stream(_NAMES[coding.codec], rate=coding.fps)
        self._stream.width, self._stream.height, self._stream.pix_fmt = coding.width, coding.height, "yuv420p"
        self._header = context.extradata or b""
        self.first_pts = 0
        """Offset in ticks; changing it simulates a jump of the sender's clock."""

    def write(self, data: bytes) -> int:
        """Called by the muxer."""
        self._written += data
        return len(data)

    def frame(self, number: int) -> bytes:
        """The bytes of the next packet in decoding order."""
        loop, place = divmod(number, len(self._packets))
        data, pts, dts, is_keyframe = self._packets[place]
        step = CLOCK // self._coding.fps
        packet = av.Packet(self._header + data if is_keyframe else data)
        packet.stream, packet.time_base, packet.is_keyframe = self._stream, Fraction(1, CLOCK), is_keyframe
        first = self.first_pts + loop * self._coding.frames * step
        packet.pts, packet.dts, packet.duration = first + pts * step, first + dts * step, step
        self._container.mux(packet)
        taken, self._written = bytes(self._written), bytearray()
        return taken


@dataclass(kw_only=True)
class Fault:
    """Current fault of the camera; may be changed while it runs."""

    is_stalled: bool = False
    """Stays connected, but sends nothing."""
    damage: Callable[[bytes], bytes] = field(default=lambda data: data)


class Camera:
    """A thread that sends frames in real time until it is left; `send` takes each frame's bytes."""

    def __init__(self, send: Callable[[bytes], None], coding: Coding | None = None) -> None:
        self._send, self.coding = send, coding or Coding()
        self.fault = Fault()
        self.sent = 0
        self.sent_at: dict[int, float] = {}
        """Monotonic seconds at which the last byte of each frame went out, by its number in the loop."""
        self._stop = Event()
        self._next: Coding | None = None
        self._thread = Thread(target=self._run, name="camera")

    def switch(self, coding: Coding) -> None:
        """Switch to another video, as if another processor was connected."""
        coded(coding)
        self._next = coding

    def _run(self) -> None:
        stream, start_at, number = TransportStream(self.coding), monotonic(), 0
        while not self._stop.wait(max(start_at + number / self.coding.fps - monotonic(), 0)):
            if self._next is not None:
                self.coding, self._next = self._next, None
                stream, start_at, number = TransportStream(self.coding), monotonic(), 0
            if not self.fault.is_stalled:
                with suppress(OSError):
                    self._send(self.fault.damage(stream.frame(number)))
                    self.sent_at[number % self.coding.frames] = monotonic()
                    self.sent += 1
            number += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


class UdpCamera(Camera):
    """Sends to a port of this machine, with or without a receiver."""

    def __init__(self, port: int, coding: Coding | None = None) -> None:
        super().__init__(self._send_datagrams, coding)
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _send_datagrams(self, data: bytes) -> None:
        for start in range(0, len(data), DATAGRAM):
            with suppress(ConnectionRefusedError):
                self._socket.sendto(data[start : start + DATAGRAM], ("127.0.0.1", self._port))

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._socket.close()


class TcpCamera(Camera):
    """Serves one viewer after the other at a port of this machine; leaving it cuts the connection."""

    def __init__(self, port: int, coding: Coding | None = None) -> None:
        super().__init__(self._send_to_viewer, coding)
        self._server = socket.create_server(("127.0.0.1", port))
        self._server.setblocking(False)
        self._viewer: socket.socket | None = None

    def _send_to_viewer(self, data: bytes) -> None:
        with suppress(BlockingIOError):
            viewer, _ = self._server.accept()
            self._hang_up()
            viewer.settimeout(1)
            self._viewer = viewer
        if self._viewer is not None:
            try:
                self._viewer.sendall(data)
            except OSError:
                self._hang_up()

    def _hang_up(self) -> None:
        if self._viewer is not None:
            self._viewer.close()
        self._viewer = None

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)
        self._hang_up()
        self._server.close()


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """An unused port."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def udp_is_open(port: int) -> bool:
    """Whether a process on this machine receives data for a UDP port."""
    sockets = Path("/proc/net/udp").read_text(encoding="ascii").splitlines()[1:]
    return any(int(line.split()[1].rpartition(":")[2], 16) == port for line in sockets)


class Playback:
    """A source iterated in a thread, and all its frames; a context manager that closes the source."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.frames: list[Frame] = []
        self.numbers: list[int | None] = []
        self.taken_at: list[float] = []
        self._thread = Thread(target=self._run, name="viewer")
        self.on_frame: Callable[[Frame], object] = lambda frame: None

    def _run(self) -> None:
        for frame in self.source:
            self.taken_at.append(monotonic())
            self.frames.append(frame)
            self.numbers.append(number_in(frame))
            self.on_frame(frame)

    @property
    def is_over(self) -> bool:
        """Whether the iteration has ended."""
        return not self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the iteration, up to a limit."""
        self._thread.join(timeout_s)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()
        self._thread.join()
        self.source.__exit__(kind, error, trace)


def wait_until(holds: Callable[[], object], *, within_s: float = 20.0) -> None:
    """Wait until a condition is true; fails the test after a limit."""
    pause, deadline = Event(), monotonic() + within_s
    while not holds():
        assert monotonic() < deadline, "it did not come to pass"
        pause.wait(0.01)


def runs(numbers: list[int | None], length: int) -> Iterator[int]:
    """Difference of each number from the previous one, in a loop of the given length."""
    known = [number for number in numbers if number is not None]
    return ((b - a) % length for a, b in pairwise(known))


GSTREAMER_PYTHON = Path("/usr/bin/python3")


@lru_cache(maxsize=1)
def why_no_rtsp_server() -> str:
    """Missing requirement for `RtspCamera`; empty if there is none."""
    script = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if not GSTREAMER_PYTHON.exists():
        return f"needs {GSTREAMER_PYTHON}"
    found = subprocess.run([GSTREAMER_PYTHON, "-c", script], capture_output=True, check=False)
    return "" if not found.returncode else "needs Debian's python3-gst-1.0 and gir1.2-gst-rtsp-server-1.0"


class RtspCamera:
    """Plays a file over RTSP from the start to each viewer, in a separate process that ends on leaving."""

    def __init__(self, port: int, clip: Path, *credentials: str) -> None:
        self._arguments = [str(port), str(clip), *credentials]

    def __enter__(self) -> Self:
        script = Path(__file__).with_name("rtsp_server.py")
        self._process = subprocess.Popen(
            [GSTREAMER_PYTHON, script, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def freeze(self) -> None:
        """Freeze the process: connections stay open, but nothing is sent."""
        self._process.send_signal(signal.SIGSTOP)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def write_coded(path: Path, coding: Coding, times: Sequence[int] = ()) -> Path:
    """The loop of a coding as a file; `times` of the frames in thousandths of a second, else at the coding's rate."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(coding.codec, rate=coding.fps, options=_options(coding))
        stream.width, stream.height, stream.pix_fmt = coding.width, coding.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.gop_size = coding.gop
        for index, frame in enumerate(_pictures(coding)):
            frame.pts, frame.time_base = times[index] if times else index * 1000 // coding.fps, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path
