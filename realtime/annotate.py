"""The main job: a video in; out, a record of each frame, and the same video with every polyp outlined."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import cv2

from polypstream.errors import ConfigError
from polypstream.realtime.contours import polyps_from_probability
from polypstream.realtime.overlay import MarkerStyle, draw_markers
from polypstream.realtime.pipeline import Pipeline
from polypstream.realtime.records import RecordWriter
from polypstream.realtime.segmenter import Segmenter
from polypstream.realtime.sink import Encoding, FileSink, NullSink
from polypstream.realtime.source import Damage, FileSource, StreamPacket
from polypstream.realtime.stats import Percentiles, Rate, Samples


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig:
    """How a video is annotated."""

    threshold: float = 0.5
    """A pixel whose probability reaches this is polyp."""
    encoding: Encoding | None = field(default_factory=Encoding)
    """How the video with contours is written; None for records alone."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """What came of one video."""

    video: Path
    overlay: Path | None
    """None where records alone were wanted."""
    records: Path
    frames: int
    frames_with_polyp: int
    polyps: int
    seconds: float
    """Wall time of the whole job, opening and closing included."""
    fps: float | None
    """Frames per second between the first and the last frame written."""
    latency: Percentiles | None
    """From a frame's decoding to the hand-over of its record and its marked copy."""
    damage: tuple[Damage, ...]
    """Stretches of the source that could not be decoded."""
    notices: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far one video is."""

    frames: int
    frames_expected: int | None
    pts_s: float
    duration_s: float | None
    fps: float | None


def outputs_of(video: Path, folder: Path) -> tuple[Path, Path]:
    """Where the overlay and the records of a video go."""
    return folder / f"{video.stem}_overlay.mp4", folder / f"{video.stem}_polyps.jsonl"


@contextmanager
def _opencv_in_its_own_thread() -> Iterator[None]:
    """Keep OpenCV from sharing its work out: every core has a stage of the pipeline already."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def annotate_video(
    video: Path,
    folder: Path,
    segmenter: Segmenter,
    config: AnnotateConfig,
    *,
    on_step: Callable[[Step], None] | None = None,
) -> Annotated:
    """Annotate one video into `<stem>_polyps.jsonl` and, unless records alone are wanted, `<stem>_overlay.mp4`.

    Both lie in `folder` and have `.partial` in their names until they are complete. An interrupt or an error leaves
    what was done so far, playable, under those names. Raises `SourceError`, `SinkError` or `BackendError`.
    """
    began = monotonic()
    overlay, records = outputs_of(video, folder)
    rate, latency = Rate(), Samples()
    marked = polyps_found = 0
    with (
        _opencv_in_its_own_thread(),
        FileSource(video) as source,
        RecordWriter(records) as writer,
        FileSink(overlay, source=source, encoding=config.encoding) if config.encoding else NullSink() as sink,
        Pipeline(source, *segmenter.in_parallel()) as pipeline,
    ):
        info = source.info
        for item in pipeline:
            if isinstance(item, StreamPacket):
                sink.write(item)
                continue
            polyps = polyps_from_probability(
                item.probability, threshold=config.threshold, width=info.width, height=info.height
            )
            if config.encoding is not None:
                picture = sink.prepared(item.frame)
                draw_markers(picture, polyps, config.style)
                sink.write_picture(picture)
            writer.write(item.frame, polyps)
            latency.add(monotonic() - item.frame.captured_at)
            rate.tick()
            marked, polyps_found = marked + bool(polyps), polyps_found + len(polyps)
            if on_step is not None:
                on_step(
                    Step(
                        frames=rate.count,
                        frames_expected=info.frame_count,
                        pts_s=item.frame.pts_s,
                        duration_s=info.duration_s,
                        fps=rate.fps,
                    )
                )
    return Annotated(
        video=video,
        overlay=sink.path if config.encoding else None,
        records=records,
        frames=rate.count,
        frames_with_polyp=marked,
        polyps=polyps_found,
        seconds=monotonic() - began,
        fps=rate.fps,
        latency=latency.percentiles(),
        damage=tuple(source.damage),
        notices=tuple(sink.notices if config.encoding else source.notices),
    )
