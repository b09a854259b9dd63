"""Decodes single frames of a video file at given times."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from polypstream.errors import SourceError
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader

_READ_ON_S = 4.0
"""Time in seconds up to which a later frame is reached by decoding rather than seeking."""


def stills(video: Path, times_s: Sequence[float]) -> Iterator[tuple[float, Frame]]:
    """Yield the frames displayed at given times, without those that cannot be found, as in files with broken times.

    A file that cannot be searched, as a stream without a container, is read from its start.

    Args:
        video: The file.
        times_s: Presentation times on the timeline of `VideoReader`, in increasing order.

    Yields:
        Each time with its frame.

    Raises:
        SourceError: If the video cannot be read.
    """
    with ExitStack() as opened:
        reader = opened.enter_context(VideoReader(video))
        info, frames, is_searchable = reader.info, reader.frames(), True
        half_s = 0.5 * float(1 / info.average_rate) if info.average_rate else 0.02
        now_s = 0.0
        for time_s in times_s:
            if is_searchable and time_s > now_s + _READ_ON_S:
                try:
                    searched = opened.enter_context(VideoReader(video))
                    searched.skip_to(time_s - half_s)
                except SourceError:
                    is_searchable = False
                else:
                    reader.close()
                    reader, frames = searched, searched.frames()
            for frame in frames:
                now_s = frame.pts_s
                if now_s < time_s - half_s:
                    continue
                if now_s <= time_s + half_s:
                    yield time_s, replace(frame, index=0, display_matrix=info.display_matrix)
                break
