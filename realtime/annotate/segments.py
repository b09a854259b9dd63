"""Inference on segments of a long video, in parallel on several machines; tracking follows in order."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from pathlib import Path

import av

from polypstream.errors import PolypstreamError
from polypstream.realtime.annotate.detections import image_checksum as checksum_of
from polypstream.realtime.annotate.detections import line_of
from polypstream.realtime.annotate.job import AnnotateConfig, polyps_found
from polypstream.realtime.annotate.pipeline import Pipeline, Segmented
from polypstream.realtime.inference.model_input import ModelInputs
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.video.container import open_video
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.resize import ModelInputScaler

_FIRST_FRAMES = 100
"""Number of frames at the start of the video that determine the crop of the network's input for all segments."""


@dataclass(frozen=True, kw_only=True)
class VideoSegment:
    """The frames of a video in a half-open interval of presentation times in seconds."""

    start_s: float
    end_s: float


def segments_of(video: Path, duration_s: float, *, segment_s: float) -> list[VideoSegment]:
    """Divide a video into segments that begin at key frames, if the container lists them.

    Args:
        video: Video file.
        duration_s: Its duration.
        segment_s: Target duration of a segment in seconds.

    Returns:
        Segments that cover all times; one if the video is short.
    """
    count = max(round(duration_s / segment_s), 1)
    key_frames_s = _key_frames_s(video)
    wanted = [duration_s * number / count for number in range(1, count)]
    borders = [max((time for time in key_frames_s if time <= border), default=border) for border in wanted]
    starts = sorted({-inf, *(border for border in borders if border > 0)})
    return [VideoSegment(start_s=start, end_s=end) for start, end in zip(starts, [*starts[1:], inf], strict=True)]


def detections_in(video: Path, segment: VideoSegment, segmenter: Segmenter, config: AnnotateConfig) -> bytes:
    """Run inference on one segment.

    Args:
        video: Video file.
        segment: The segment.
        segmenter: The network; closed at the end.
        config: Threshold and smallest region.

    Returns:
        Lines of a detection log, without its header; see `detections`.

    Raises:
        SourceError: If the video cannot be read or searched.
        BackendError: If the network fails.
    """
    lines = []
    with VideoReader(video) as source:
        info = source.info
        inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
        if segment.start_s > 0:
            with VideoReader(video) as beginning:
                scaler = ModelInputScaler()
                for frame in islice(beginning.frames(), _FIRST_FRAMES):
                    inputs.of(partial(scaler.scale, frame.picture))
            source.skip_to(segment.start_s)
        with Pipeline(_within(source, segment), *segmenter.in_parallel(), inputs=inputs) as pipeline:
            for item in pipeline:
                if isinstance(item, Segmented):
                    polyps = polyps_found(item, info, config)
                    lines.append(line_of(item.frame.pts, checksum_of(item.image), polyps))
    return b"".join(lines)


def _within(source: VideoReader, segment: VideoSegment) -> Iterator[Frame]:
    for frame in source.frames():
        if frame.pts_s >= segment.end_s:
            return
        if frame.pts_s >= segment.start_s:
            yield frame


def _key_frames_s(video: Path) -> list[float]:
    """Times in seconds of the key frames listed in the container's index; empty if there is none."""
    try:
        with open_video(video) as container:
            if not container.streams.video:
                return []
            stream = container.streams.video[0]
            base = float(stream.time_base or 0)
            return [entry.timestamp * base for entry in stream.index_entries if entry.is_keyframe]
    except (PolypstreamError, OSError, ValueError, av.FFmpegError):
        return []
