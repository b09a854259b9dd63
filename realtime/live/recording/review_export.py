"""Export of a reviewed session in the formats of annotated recordings, each reviewed frame once.

The frames become a video with one frame per second, since most formats refer to one. Accepted sightings are annotated,
deleted ones are frames without a polyp, and those that were not reviewed are left out.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream

from polypstream.arrays import Rgb
from polypstream.errors import OutputError, PolypstreamError
from polypstream.files import atomic_path, write_error
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import export_recording
from polypstream.realtime.annotate.formats.recording import open_recording
from polypstream.realtime.annotate.records import RecordWriter
from polypstream.realtime.annotate.summary import RECORDS_SUFFIX, Summary, VideoFacts, summary_path, write_summary
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.session_record import SessionRecord
from polypstream.realtime.live.recording.sightings import Kind, Sighting, Verdict
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour
from polypstream.realtime.video.encoding import Encoding
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader

FOLDER, NAME = "review", "review"
_SECOND = Fraction(1)
_DRAWN_SCORE = 1.0
"""Score of what a user has drawn where nothing was marked."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What exports and reports say about the model."""

    name: str = "unknown"
    """Name and version of the weights."""
    backend: str = "unknown"
    threshold: float = 0.5


@dataclass(frozen=True, kw_only=True)
class _Reviewed:
    sighting: Sighting
    polyp: Polyp | None


def export_review(
    record: SessionRecord, formats: Sequence[ExportFormat], folder: Path, model: ModelFacts
) -> tuple[list[Path], int]:
    """Write the reviewed frames of a session.

    Args:
        record: The record of the session.
        formats: Formats besides the records, which are always written.
        folder: Folder of the session; files go to `review/`. Frames of different sizes become different recordings.
        model: Model that found the polyps.

    Returns:
        What was written, and the number of reviewed frames.

    Raises:
        OutputError: If a file cannot be written.
    """
    written: list[Path] = []
    count = 0
    sizes = dict.fromkeys(each.size for each in record.sightings() if each.verdict is not Verdict.OPEN)
    for place, size in enumerate(sizes, start=1):
        name = NAME if place == 1 else f"{NAME}-{place}"
        reviewed = [each for each in _reviewed(record) if each.sighting.size == size]
        if not reviewed:
            continue
        try:
            (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(folder / FOLDER, error) from error
        video = folder / FOLDER / f"{name}.mp4"
        records = folder / FOLDER / f"{name}{RECORDS_SUFFIX}"
        _write_video(video, size or (2, 2), (_image(record, each.sighting.number) for each in reviewed))
        _write_records(records, video, reviewed, model)
        written += [video, records]
        written += export_recording(open_recording(records), formats, folder / FOLDER, images_of=video)
        count += len(reviewed)
    return written, count


def _reviewed(record: SessionRecord) -> Iterator[_Reviewed]:
    for each in record.sightings():
        if each.verdict is Verdict.OPEN or record.image(each.number) is None:
            continue
        polyp = None
        if each.verdict is Verdict.ACCEPTED and each.contour is not None:
            polyp = polyp_from_contour(each.contour, score=_DRAWN_SCORE if each.kind is Kind.MISSED else each.score)
        yield _Reviewed(sighting=each, polyp=polyp)


def _image(record: SessionRecord, number: int) -> Rgb:
    jpeg = record.image(number)
    if jpeg is None:
        raise OutputError(f"the frame of sighting {number} is missing; it was there a moment ago: export again")
    image = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR), np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def _write_video(path: Path, size: tuple[int, int], images: Iterable[Rgb]) -> None:
    """Write a video with one frame per second, all of them key frames."""
    width, height = size
    encoding = Encoding(quality=8)
    with atomic_path(path) as unfinished:
        try:
            with av.open(str(unfinished), "w", format="mp4") as container:
                stream = container.add_stream(encoding.encoder.name, rate=1, options=encoding.options())
                assert isinstance(stream, VideoStream)
                stream.width, stream.height = width, height
                stream.pix_fmt = "yuv444p" if width % 2 or height % 2 else "yuv420p"
                stream.codec_context.gop_size = 1
                for number, image in enumerate(images):
                    frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                    frame.pts, frame.time_base = number, _SECOND
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())
        except (OSError, av.FFmpegError) as error:
            raise write_error(path, error) from error


def _write_records(path: Path, video: Path, reviewed: Sequence[_Reviewed], model: ModelFacts) -> None:
    tracks = []
    with RecordWriter(path) as writer:
        for index, each in enumerate(reviewed):
            picture = av.VideoFrame(16, 16, "gray")
            picture.pts = index
            polyps = [] if each.polyp is None else [each.polyp]
            frame = Frame(index=index, picture=picture, time_base=_SECOND)
            writer.write(frame, polyps, [each.sighting.number for _ in polyps])
            tracks += [_track(each.sighting.number, index, polyp) for polyp in polyps]
    with VideoReader(video) as reader:
        facts = VideoFacts.of(reader.info, frames=len(reviewed), is_constant_rate=True)
    summary = Summary(
        video=facts,
        model=model.name,
        software=version("polypstream"),
        backend=model.backend,
        threshold=model.threshold,
        tracks=tuple(tracks),
        frames_with_polyp=len(tracks),
        notices=("reviewed frames of a live session, one per second; sightings.json has their times",),
    )
    write_summary(summary_path(path), summary)


def _track(number: int, index: int, polyp: Polyp) -> PolypTrack:
    return PolypTrack(
        id=number,
        first_index=index,
        last_index=index,
        first_pts_s=float(index),
        last_pts_s=float(index),
        frames=1,
        largest_area=polyp.area,
        largest_index=index,
        best_score=polyp.score,
        best_index=index,
        best_area=polyp.area,
        longest_gap_s=0.0,
    )


class ReviewExports(Background[tuple[tuple[ExportFormat, ...], ModelFacts]]):
    """Writes exports of the review in a separate thread. Use as a context manager.

    Args:
        record: The record of the session.
        folder: Folder of the session.
        on_done: Called with one line for the user, and whether it is a problem.
    """

    def __init__(self, record: SessionRecord, folder: Path, *, on_done: Callable[[str, bool], None]) -> None:
        self._record, self._folder, self._on_done = record, folder, on_done
        super().__init__("review-export", capacity=2, on_stopped=lambda reason: on_done(reason, True))

    def start(self, formats: tuple[ExportFormat, ...], model: ModelFacts) -> None:
        """Write an export of what has been reviewed by then."""
        self._give((formats, model))

    def _work(self, items: Iterator[tuple[tuple[ExportFormat, ...], ModelFacts]]) -> None:
        for formats, model in items:
            try:
                written, count = export_review(self._record, formats, self._folder, model)
            except PolypstreamError as error:
                self._on_done(f"the review could not be exported: {error}", True)
                continue
            if written:
                self._on_done(f"{count} reviewed frames exported to {self._folder / FOLDER}", False)
            else:
                self._on_done("nothing was exported: accept or delete at least one sighting first", True)
