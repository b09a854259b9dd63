"""H.264 over WebRTC (extra [webrtc]): one encoding for all viewers that ask for it, at the source's full resolution.

Only the picture goes this way. Markers and status stay in the messages of the WebSocket, which state the time stamp of
their frame; a viewer draws them on exactly that frame, or does not draw it.
"""

import asyncio
import sys
from collections.abc import Callable
from fractions import Fraction
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import ColorRange, Colorspace

from polypstream.errors import ConfigError
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.rotation import rotation_of

if TYPE_CHECKING:
    from aiortc import RTCPeerConnection

CLOCK = 90_000
"""Ticks per second of RTP video."""
KEY_EVERY_S = 1.0
"""A viewer that joins or has lost packets waits for the next key frame."""
_WAITING = 60
"""Packets that may wait for one viewer; beyond them, everything up to the next key frame is dropped."""
_ENCODER = "libx264"
_QUALITY = "23"
_SMPTE170M = 6
_LIMITED = 1


def is_available() -> bool:
    """Whether the extra is installed and can be loaded, and FFmpeg has the encoder."""
    # Once TensorFlow is loaded, loading aiortc's libsrtp ends the process: both bring an OpenSSL.
    crashes = "tensorflow" in sys.modules and "pylibsrtp" not in sys.modules
    return find_spec("aiortc") is not None and not crashes and _ENCODER in av.codecs_available


class PacketEncoder:
    """Encodes frames for WebRTC; for use in one thread."""

    def __init__(self) -> None:
        self._context: VideoCodecContext | None = None
        self._began_s = self._key_s = float("-inf")
        self._last = -1

    def encode(self, frame: Frame) -> tuple[list["av.Packet[Any]"], int]:
        """Encode a frame upright; returns its packets and its time stamp, in ticks of `CLOCK` from the first frame."""
        picture, rotation = frame.picture, rotation_of(frame)
        if rotation_is_needed := rotation.size(2, 1) != (2, 1) or rotation.swaps_left_right or rotation.swaps_up_down:
            picture = av.VideoFrame.from_ndarray(rotation.image(frame.image), format="rgb24")
        width, height = picture.width // 2 * 2, picture.height // 2 * 2
        if self._context is None or (self._context.width, self._context.height) != (width, height):
            self._context, self._began_s = _context(width, height), frame.captured_at
            self._key_s, self._last = float("-inf"), -1
        ready = picture.reformat(
            width=width,
            height=height,
            format="yuv420p",
            src_color_range=ColorRange.JPEG if rotation_is_needed else None,
            dst_colorspace=Colorspace.ITU601,
            dst_color_range=ColorRange.MPEG,
        )
        self._last = max(round((frame.captured_at - self._began_s) * CLOCK), self._last + 1)
        ready.pts, ready.time_base = self._last, Fraction(1, CLOCK)
        is_key = frame.captured_at - self._key_s >= KEY_EVERY_S
        ready.pict_type = PictureType.I if is_key else PictureType.NONE
        self._key_s = frame.captured_at if is_key else self._key_s
        packets = self._context.encode(ready)
        for packet in packets:
            packet.time_base = Fraction(1, CLOCK)
        return packets, self._last


def _context(width: int, height: int) -> VideoCodecContext:
    context = av.CodecContext.create(_ENCODER, "w")
    assert isinstance(context, VideoCodecContext)
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, CLOCK), Fraction(30)
    context.thread_type = ThreadType.SLICE  # frame threads would delay each frame by some others
    context.color_primaries = context.color_trc = context.colorspace = _SMPTE170M
    context.color_range = _LIMITED
    context.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "profile": "baseline",
        "crf": _QUALITY,
        "g": "1000000",
        "forced-idr": "1",
    }
    return context


class Peer:
    """The WebRTC connection to one viewer; belongs to the server's event loop.

    Args:
        on_origin: Called with the time stamp that stands for 0 in this connection, as soon as it is known.
    """

    def __init__(self, *, on_origin: Callable[[int], None]) -> None:
        self._on_origin = on_origin
        self._queue: asyncio.Queue[av.Packet[Any]] = asyncio.Queue()
        self._needs_key = True
        self._sent: int | None = None
        self._origin: int | None = None
        self._connection: RTCPeerConnection | None = None
        self._sender: Any = None

    @property
    def is_connected(self) -> bool:
        """Whether packets reach the viewer."""
        return self._connection is not None and self._connection.connectionState == "connected"

    async def answer(self, sdp: str) -> str:
        """Accept a viewer's offer; returns the answer.

        Raises:
            ConfigError: The offer is not valid.
        """
        from aiortc import RTCPeerConnection, RTCSessionDescription
        from aiortc.mediastreams import MediaStreamTrack

        peer = self

        class Track(MediaStreamTrack):
            kind = "video"

            async def recv(self) -> "av.Packet[Any]":
                return await peer._next()

        self._connection = RTCPeerConnection()
        try:
            self._sender = self._connection.addTrack(Track())
            await self._connection.setRemoteDescription(RTCSessionDescription(sdp=sdp, type="offer"))
            await self._connection.setLocalDescription(await self._connection.createAnswer())
        except Exception as error:  # noqa: BLE001 - whatever aiortc raises for text that is no valid offer
            await self.close()
            raise ConfigError(f"the WebRTC offer is not valid ({type(error).__name__}); reload the page") from None
        return str(self._connection.localDescription.sdp)

    def offer(self, packets: "list[av.Packet[Any]]") -> None:
        """Send packets, unless the viewer is far behind."""
        for packet in packets:
            if self._needs_key and not packet.is_keyframe:
                continue
            if self._queue.qsize() >= _WAITING:
                self._needs_key = True
                while not self._queue.empty():
                    self._queue.get_nowait()
                continue
            self._needs_key = False
            self._queue.put_nowait(packet)

    async def close(self) -> None:
        """End the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _next(self) -> "av.Packet[Any]":
        """The next packet. By then, aiortc has sent the one before, whose time stamp tells the random origin."""
        if self._sent is not None and self._origin is None:
            stamp = getattr(self._sender, "_RTCRtpSender__rtp_timestamp", None)
            if stamp is not None:
                self._origin = (stamp - self._sent) % 2**32
                self._on_origin(self._origin)
        packet = await self._queue.get()
        self._sent = packet.pts
        return packet
