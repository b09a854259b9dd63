"""Simulated camera: a process that sends a numbered clip over loopback in real time, in a loop.

Started by the benchmarks as `python -m benchmarks.camera CLIP URL LOG SECONDS`. Packets are copied, so sending costs
almost nothing. For each frame sent, LOG receives a line with its number since the start and the monotonic time.
"""

import sys
from fractions import Fraction
from pathlib import Path
from threading import Event
from time import monotonic

import av

from polypstream.synthetic import SyntheticClip, frames_of

BITS_PER_SECOND = 10_000_000
"""A common encoder setting for 1080p30."""
MUX = {"muxdelay": "0", "muxpreload": "0", "flush_packets": "1"}


def write_numbered_clip(path: Path, clip: SyntheticClip) -> None:
    """Render a clip and encode it as a live encoder would: H.264 in MPEG-TS, no B-frames, one keyframe per second."""
    with av.open(str(path), "w", format="mpegts") as container:
        options = {"preset": "veryfast", "tune": "zerolatency", "g": str(clip.fps), "maxrate": "12M", "bufsize": "2M"}
        stream = container.add_stream("libx264", rate=clip.fps, options=options)
        stream.bit_rate = BITS_PER_SECOND
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, "yuv420p"
        for frame in frames_of(clip):
            picture = av.VideoFrame.from_ndarray(frame.rgb, format="rgb24").reformat(format="yuv420p")
            picture.pts, picture.time_base = frame.index, Fraction(1, clip.fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def send(clip: Path, url: str, log: Path, *, seconds: float) -> None:
    """Send the clip in real time for a number of seconds, in a loop."""
    pause = Event()
    with (
        av.open(str(clip)) as source,
        av.open(url, "w", format="mpegts", options=MUX) as feed,
        log.open("w", buffering=1) as times,
    ):
        video = source.streams.video[0]
        out = feed.add_stream_from_template(video)
        rate, base = video.average_rate, video.time_base
        assert rate is not None
        assert base is not None
        step = round(1 / (rate * base))
        began, number = monotonic(), 0
        while number / rate < seconds:
            source.seek(0)
            for packet in source.demux(video):
                if not packet.size:
                    continue
                packet.stream, packet.pts, packet.dts = out, number * step, number * step
                pause.wait(max(0.0, began + float(number / rate) - monotonic()))
                times.write(f"{number} {monotonic():.6f}\n")
                feed.mux(packet)
                number += 1


if __name__ == "__main__":
    send(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), seconds=float(sys.argv[4]))
