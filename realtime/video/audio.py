"""Audio that no container supports in its format: decodes it and stores it as PCM."""

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream

from polypstream.realtime.video.streams import copy_metadata, named_layout

if TYPE_CHECKING:
    from av.container import OutputContainer

_WIDE = frozenset({"s32", "s32p", "s64", "s64p", "dbl", "dblp"})
"""Sample formats that are stored in 32 bits; all others in 16."""


class AudioConverter:
    """Converts the packets of a stream to PCM packets of a new one, at the same times.

    Args:
        container: Receives the new stream.
        stream: Audio for which `can_convert` is true; this object takes over its decoder.
    """

    def __init__(self, container: "OutputContainer", stream: AudioStream) -> None:
        self._decoder = stream.codec_context
        self._layout = named_layout(self._decoder.layout)
        rate = self._decoder.sample_rate
        sample_format, codec = ("s32", "pcm_s32le") if self._decoder.format.name in _WIDE else ("s16", "pcm_s16le")
        added = container.add_stream(codec, rate=rate, layout=self._layout.name)
        assert isinstance(added, AudioStream)
        self.stream = added
        self.stream.time_base = Fraction(1, rate)
        self._resampler = AudioResampler(format=sample_format, layout=self._layout, rate=rate)
        copy_metadata(stream, self.stream)
        self.stream.disposition = stream.disposition

    def convert(self, packet: "av.Packet[Any] | None") -> "Sequence[av.Packet[Any]]":
        """Return PCM packets for a packet of the source, or for its end; undecodable packets leave a gap."""
        try:
            frames = self._decoder.decode(packet)
        except av.FFmpegError:
            return ()
        packets: list[av.Packet[Any]] = []
        for frame in frames:
            for resampled in self._resampler.resample(self._with_layout(frame)):
                packets += self.stream.encode(resampled)
        return packets

    def _with_layout(self, frame: av.AudioFrame) -> av.AudioFrame:
        if frame.layout.name == self._layout.name or frame.layout.nb_channels != self._layout.nb_channels:
            return frame
        if frame.format.name.startswith("s64"):  # NumPy and PyAV have no common form for it
            return frame
        copy = av.AudioFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name, layout=self._layout.name)
        copy.sample_rate, copy.pts = frame.sample_rate, frame.pts
        if frame.time_base is not None:
            copy.time_base = frame.time_base
        return copy
