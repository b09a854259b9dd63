"""Decoding a live stream: every frame as soon as its order allows, and never one that is no longer of the present."""

import os
from enum import Enum
from fractions import Fraction

import av
from av.codec.context import Flags, ThreadType
from av.video.stream import VideoStream

from polypstream.realtime.frame import Frame
from polypstream.realtime.live.sources.backlog import Arrival
from polypstream.realtime.live.sources.counts import LineCounts
from polypstream.realtime.video import display_matrix_of

_MOST_THREADS = 4
_LEAP_S = 1
"""A stream whose times go back by more than this has begun anew."""
_HOPELESS = 10
"""At so many times the lateness at which frames are skipped, nothing is decoded up to the next keyframe."""


class Integrity(Enum):
    """Whether a picture is what the camera sent."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    """It was patched up by the decoder, or built upon a picture that was: worth a look, but not the network's."""


def integrity_of(frame: Frame) -> Integrity:
    """What the decoder of a live source found out about a frame; for other frames, what FFmpeg says of this one."""
    if isinstance(frame.picture.opaque, Integrity):
        return frame.picture.opaque
    return Integrity.DAMAGED if frame.picture.is_corrupt else Integrity.WHOLE


class LiveDecoder:
    """The decoder of one connection.

    Threads share the slices of a frame, never frames, which would wait for each other. A frame's `captured_at` is the
    moment its own packet had arrived, so that what B-frames wait for their order counts as delay. Errors are counted
    and survived: decoding goes on with the next packet that can be decoded. FFmpeg patches damaged pictures up and
    marks them, but not those that are built upon them: from an error to the next keyframe all are `Integrity.DAMAGED`.
    """

    def __init__(self, stream: VideoStream, counts: LineCounts, *, late_s: float) -> None:
        self._context, self._counts, self._late_s = stream.codec_context, counts, late_s
        self._context.thread_type = ThreadType.SLICE
        self._context.thread_count = min(os.cpu_count() or 1, _MOST_THREADS)
        self._context.flags |= Flags.copy_opaque
        self._clock = LiveClock(stream.time_base or Fraction(1, 90_000))
        self._awaits_keyframe = False
        self._integrity = Integrity.WHOLE

    @property
    def size(self) -> tuple[int, int]:
        """Width and height by the newest packet; zeros before the first."""
        return self._context.width, self._context.height

    def decode(self, arrival: Arrival, *, lag_s: float) -> list[Frame]:
        """The frames that a packet brings forth, not numbered yet; the packet waited for `lag_s`."""
        packet = arrival.packet
        if packet.is_keyframe:
            self._awaits_keyframe = False
        elif lag_s > _HOPELESS * self._late_s:
            self._awaits_keyframe = True
        if self._awaits_keyframe:
            self._counts.skipped += 1
            return []
        self._context.skip_frame = "NONREF" if lag_s > self._late_s else "DEFAULT"
        packet.opaque = arrival.at
        try:
            pictures = self._sent(packet)
        except av.FFmpegError:
            self._counts.undecodable += 1
            self._integrity = Integrity.DAMAGED
            return []
        return self._frames(pictures, arrival.at)

    def flush(self, *, at: float) -> list[Frame]:
        """The frames still waiting for their order, when no packet will follow."""
        try:
            return self._frames(self._context.decode(None), at)
        except av.FFmpegError:
            return []

    def _sent(self, packet: "av.Packet[VideoStream]") -> list[av.VideoFrame]:
        try:
            return self._context.decode(packet)
        except av.BlockingIOError:  # an earlier error left the decoder full; PyAV has no call that only receives
            self._context.flush_buffers()
            return self._context.decode(packet)

    def _frames(self, pictures: list[av.VideoFrame], at: float) -> list[Frame]:
        return [self._frame(picture, at) for picture in pictures]

    def _frame(self, picture: av.VideoFrame, at: float) -> Frame:
        captured_at = picture.opaque if isinstance(picture.opaque, float) else at
        if picture.is_corrupt:
            self._integrity = Integrity.DAMAGED
        elif picture.key_frame:
            self._integrity = Integrity.WHOLE
        self._counts.damaged += self._integrity is Integrity.DAMAGED
        picture.opaque = self._integrity
        picture.time_base = self._clock.time_base
        picture.pts = self._clock.pts_of(picture, captured_at)
        return Frame(
            index=0,
            picture=picture,
            time_base=self._clock.time_base,
            captured_at=captured_at,
            sample_aspect_ratio=self._context.sample_aspect_ratio or Fraction(1),
            display_matrix=display_matrix_of(picture),
        )


class LiveClock:
    """Gives the frames of one connection times that grow, whatever the sender's clock does.

    Where it leaps back, as at the wrap of MPEG-TS's 33 bits or when the sender restarts, the times go on by what has
    passed here since the frame before, and keep the sender's steps from then on.
    """

    def __init__(self, time_base: Fraction) -> None:
        self.time_base = time_base
        self._offset = 0
        self._last: int | None = None
        self._last_at = 0.0

    def pts_of(self, picture: av.VideoFrame, captured_at: float) -> int:
        """Presentation time in ticks of the time base, greater than the last one's."""
        pts = self._mended(picture.pts, captured_at)
        self._last, self._last_at = pts, captured_at
        return pts

    def _mended(self, received: int | None, captured_at: float) -> int:
        if self._last is None:
            return received or 0
        passed = self._last + max(round((captured_at - self._last_at) / self.time_base), 1)
        if received is None:
            return passed
        pts = received + self._offset
        if (self._last - pts) * self.time_base > _LEAP_S:
            self._offset += passed - pts
            return passed
        return max(pts, self._last + 1)
