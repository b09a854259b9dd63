"""Decodes one video stream, packet by packet, so that an error affects only the broken frame."""

from collections import deque
from typing import TypeAlias

import av
from av.codec.context import ThreadType
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from polypstream.realtime.video.damage import DamageLog
from polypstream.realtime.video.packed_bframes import PackedBFrames, is_filler

VideoPacket: TypeAlias = "av.Packet[VideoStream]"

_IN_FLIGHT = 40
"""Upper bound on the packets a decoder buffers: one per thread, and those it reorders."""
_REMEMBERED_BYTES = 64 << 20

_HIDDEN_FRAMES = frozenset({"vp8"})
"""Codecs whose packets may contain a frame that is never displayed."""


class Decoder:
    """Decodes packets to frames in presentation order; undecodable ones are recorded in the damage log.

    If an error occurs while a multi-threaded decoder is drained, FFmpeg returns no further frames. The last packets are
    therefore kept, and those whose frames are missing are decoded again in one thread.

    Args:
        stream: The video stream of an open container.
        log: Records lost and corrupt frames.
    """

    def __init__(self, stream: VideoStream, log: DamageLog) -> None:
        self._stream, self._log = stream, log
        self._context = stream.codec_context
        if not self._context.is_open:  # it is, after a search
            # each frame thread adds surfaces to NVDEC, which may fail if it has more than 32
            self._context.thread_type = ThreadType.SLICE if self._context.is_hwaccel else ThreadType.AUTO
        self._codec = stream.codec_context.codec.canonical_name
        self._packed = PackedBFrames(stream)
        self._groups: deque[list[VideoPacket]] = deque()
        self._bytes = 0
        self.last_error: str | None = None

    def decode(self, packet: VideoPacket) -> list[av.VideoFrame]:
        """Decode a packet; returns the frames that become available: usually one, sometimes none or several."""
        return [frame for each in self._packed.split(packet) for frame in self._decode(each)]

    def _decode(self, packet: VideoPacket) -> list[av.VideoFrame]:
        has_time = packet.pts is not None and self._codec not in _HIDDEN_FRAMES and not is_filler(packet, self._codec)
        if packet.pts is not None and has_time and not packet.is_discard:
            self._log.expect(packet.pts, packet.duration or 0, corrupt=packet.is_corrupt)
        self._remember(packet)
        try:
            frames = self._sent(packet)
        except av.FFmpegError as error:
            self.last_error = error.strerror
            if not has_time:
                self._log.failed()
            return []
        return self._logged(frames)

    def flush(self) -> list[av.VideoFrame]:
        """Return the frames still buffered in the decoder. Call it once, after the last packet."""
        frames = [frame for packet in self._packed.flush() for frame in self._decode(packet)]
        try:
            frames += self._logged(self._context.decode(None))
        except av.FFmpegError as error:
            self.last_error = error.strerror
        if self._log.missing():
            frames += self._logged(self._second_try())
        self._log.close()
        return frames

    def _sent(self, packet: VideoPacket) -> list[av.VideoFrame]:
        try:
            return self._context.decode(packet)
        except av.BlockingIOError:  # an earlier error left the decoder full; PyAV cannot receive without sending
            self._context.flush_buffers()
            return self._context.decode(packet)

    def _logged(self, frames: list[av.VideoFrame]) -> list[av.VideoFrame]:
        for frame in frames:
            if frame.pts is not None:
                self._log.delivered(frame.pts, frame.duration, corrupt=frame.is_corrupt)
        return frames

    def _remember(self, packet: VideoPacket) -> None:
        if packet.is_keyframe or not self._groups:
            self._groups.append([])
            while len(self._groups) > 2 and sum(map(len, self._groups)) - len(self._groups[0]) >= _IN_FLIGHT:
                self._forget()
        self._groups[-1].append(packet)
        self._bytes += packet.size
        while self._bytes > _REMEMBERED_BYTES:
            self._forget()

    def _forget(self) -> None:
        self._bytes -= sum(packet.size for packet in self._groups.popleft())

    def _second_try(self) -> list[av.VideoFrame]:
        context = av.CodecContext.create(self._context.name, "r")
        assert isinstance(context, VideoCodecContext)
        context.extradata = self._context.extradata
        context.width, context.height = self._context.width, self._context.height
        context.thread_count = 1
        frames: list[av.VideoFrame] = []
        for packet in [*(packet for group in self._groups for packet in group), None]:
            try:
                frames += context.decode(packet)
            except av.FFmpegError as error:
                self.last_error = error.strerror
        missing = self._log.missing()
        return [frame for frame in frames if frame.pts in missing]
