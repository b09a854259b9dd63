"""Clips: the last seconds of a feed are buffered, so that a user can keep what has just been seen, and what follows.

Packets are kept as received; nothing is decoded or encoded. A clip starts at the last key frame before its time.
"""

from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any, Protocol

import av
from av.video.stream import VideoStream

from polypstream.realtime.live.recording.feed import FeedRecorder

BEFORE_S = AFTER_S = 10.0
MOST_BYTES = 192 * 2**20
"""Maximum size of the buffer: of feeds above about 75 Mbit/s, less than `BEFORE_S` is kept."""
MOST_CLIPS = 8
"""Clips written at the same time."""


class Tap(Protocol):
    """Receives packets; see `sources.source.PacketTap`."""

    def connected(self, stream: VideoStream) -> None:
        """Take note of a new stream."""
        ...

    def packet(self, packet: "av.Packet[Any]") -> None:
        """Take a packet."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Kept:
    at_s: float
    packet: "av.Packet[Any]"


@dataclass(frozen=True, kw_only=True)
class _Clip:
    recorder: FeedRecorder
    until_s: float


class ClipBuffer:
    """A packet tap that buffers packets, and passes them on to another tap, `recorder`.

    Source and user may call it from different threads. Use as a context manager, which completes all clips at the end.
    """

    def __init__(self, *, before_s: float = BEFORE_S, after_s: float = AFTER_S) -> None:
        self._before_s, self._after_s = before_s, after_s
        self._lock = Lock()
        self._packets: deque[_Kept] = deque()
        self._bytes = 0
        self._clips: list[_Clip] = []
        self._open = ExitStack()
        self.recorder: Tap | None = None
        """Receives every packet, too."""

    @property
    def buffered_s(self) -> float:
        """How far back the buffer reaches, in seconds."""
        with self._lock:
            return monotonic() - self._packets[0].at_s if self._packets else 0.0

    def connected(self, stream: VideoStream) -> None:
        """Drop the packets of an earlier connection, which cannot be in one file with new ones."""
        if (recorder := self.recorder) is not None:
            recorder.connected(stream)
        with self._lock:
            for clip in self._clips:
                clip.recorder.connected(stream)
            self._packets.clear()
            self._bytes = 0

    def packet(self, packet: "av.Packet[Any]") -> None:
        """Buffer a packet, and pass it on to the recorder and the clips that are being written."""
        now = monotonic()
        if (recorder := self.recorder) is not None:
            recorder.packet(packet)
        if not packet.size:
            return
        with self._lock:
            self._packets.append(_Kept(at_s=now, packet=packet))
            self._bytes += packet.size
            self._trim(now)
            for clip in self._clips:
                clip.recorder.packet(packet)
                if now >= clip.until_s:
                    clip.recorder.end()
            self._clips = [clip for clip in self._clips if now < clip.until_s and clip.recorder.is_running]

    def keep(self, path: Path, *, on_stopped: Callable[[str], None]) -> bool:
        """Write what is buffered, and what follows for `after_s`, to a Matroska file in a separate thread.

        Args:
            path: The file, ending in .mkv.
            on_stopped: Called with the reason if it cannot be written, from any thread.

        Returns:
            Whether a clip was started: not without packets, or if too many clips are being written.
        """
        with self._lock:
            if not self._packets or len(self._clips) >= MOST_CLIPS:
                return False
            recorder = FeedRecorder(path, on_stopped=on_stopped, waiting=2 * len(self._packets) + 512)
            self._open.enter_context(recorder)
            for kept in self._packets:
                recorder.packet(kept.packet)
            self._clips.append(_Clip(recorder=recorder, until_s=monotonic() + self._after_s))
        return True

    def close(self) -> None:
        """Complete all clips with what there is."""
        with self._lock:
            self._clips.clear()
            self._packets.clear()
        self._open.close()

    def __enter__(self) -> "ClipBuffer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _trim(self, now: float) -> None:
        """Drop the oldest packets up to a key frame, as long as enough remains after it."""
        while True:
            keys = (place for place, kept in enumerate(self._packets) if place and kept.packet.is_keyframe)
            second = next(keys, None)
            if second is None:
                if self._bytes > MOST_BYTES:  # no key frame at all: nothing that could be played
                    self._packets.clear()
                    self._bytes = 0
                return
            if now - self._packets[second].at_s < self._before_s and self._bytes <= MOST_BYTES:
                return
            for _ in range(second):
                self._bytes -= self._packets.popleft().packet.size
