"""Live decoding: outputs each frame as early as possible, and counts delivered, skipped and damaged frames."""

import os
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

import av
from av.codec.context import Flags, ThreadType
from av.video.stream import VideoStream

from polypstream.realtime.live.sources.reader import Arrival
from polypstream.realtime.video.container import display_matrix_of
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.timestamps import LiveClock


@dataclass(kw_only=True)
class SourceStatistics:
    """Counts of a source; written by the iterating thread, readable from any thread."""

    connections: int = 0
    """Established connections."""
    delivered: int = 0
    """Frames delivered to the caller."""
    skipped: int = 0
    """Packets not decoded and frames not delivered because newer ones were available."""
    undecodable: int = 0
    """Packets that could not be decoded."""
    damaged: int = 0
    """Frames that differ from what the camera sent; see `integrity_of`."""


_MOST_THREADS = 4
_HOPELESS = 10
"""When the delay reaches this multiple of the skipping limit, nothing is decoded until the next keyframe."""


class Integrity(Enum):
    """Whether an image is what the camera sent."""

    WHOLE = "whole"
    DAMAGED = "damaged"
    """Concealed by the decoder, or predicted from such an image: displayed, but not used for inference."""


def integrity_of(frame: Frame) -> Integrity:
    """Return the integrity that the live decoder determined for a frame; for other frames, FFmpeg's error flags."""
    if isinstance(frame.picture.opaque, Integrity):
        return frame.picture.opaque
    return Integrity.DAMAGED if frame.picture.is_corrupt else Integrity.WHOLE


class LiveDecoder:
    """Decodes the stream of one connection.

    It uses slice threads, never frame threads, which would add delay. `captured_at` of a frame is the arrival time of
    its own packet, so that the reordering of B-frames counts as delay. In a file (`is_file`), whose packets are
    delivered ahead of their presentation times, it is the arrival time of the packet that completes the frame. Errors
    are counted, and decoding continues with the next decodable packet. FFmpeg conceals and flags damaged images, but
    not images predicted from them: after an error, all frames up to the next keyframe are `Integrity.DAMAGED`.
    """

    def __init__(self, stream: VideoStream, counts: SourceStatistics, *, late_s: float, is_file: bool = False) -> None:
        self._context, self._counts, self._late_s = stream.codec_context, counts, late_s
        self._is_file = is_file
        self._context.thread_type = ThreadType.SLICE
        self._context.thread_count = min(os.cpu_count() or 1, _MOST_THREADS)
        self._context.flags |= Flags.copy_opaque
        self._clock = LiveClock(stream.time_base or Fraction(1, 90_000))
        self._awaits_keyframe = False
        self._integrity = Integrity.WHOLE

    @property
    def size(self) -> tuple[int, int]:
        """Width and height according to the newest packet; zeros before the first."""
        return self._context.width, self._context.height

    def decode(self, arrival: Arrival, *, lag_s: float) -> list[Frame]:
        """Decode a packet that waited for `lag_s`; returns the resulting frames, without numbers."""
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
        self._counts.skipped += lag_s > self._late_s and not pictures
        return self._frames(pictures, arrival.at)

    def flush(self, *, at: float) -> list[Frame]:
        """Return the frames still held for reordering, once no packet will follow."""
        try:
            return self._frames(self._context.decode(None), at)
        except av.FFmpegError:
            return []

    def _sent(self, packet: "av.Packet[VideoStream]") -> list[av.VideoFrame]:
        try:
            return self._context.decode(packet)
        except av.BlockingIOError:  # an earlier error left the decoder full; PyAV cannot receive without sending
            self._context.flush_buffers()
            return self._context.decode(packet)

    def _frames(self, pictures: list[av.VideoFrame], at: float) -> list[Frame]:
        return [self._frame(picture, at) for picture in pictures]

    def _frame(self, picture: av.VideoFrame, at: float) -> Frame:
        captured_at = picture.opaque if isinstance(picture.opaque, float) and not self._is_file else at
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
