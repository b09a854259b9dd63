"""An annotated recording for export: upright frames with names and exact times, read from records and summary.

Every export uses coordinates of the upright frame: with the display rotation applied, in stored pixels, without the
sample aspect ratio. FFmpeg, OpenCV and CVAT decode the file the same way; for formats with relative coordinates the
sample aspect ratio makes no difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import DatasetError
from polypstream.realtime.annotate.records import FrameRecord, read_records
from polypstream.realtime.annotate.summary import RECORDS_SUFFIX, Summary, read_summary, summary_path
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.outlines.contours import Polyp
from polypstream.realtime.video.rotation import Rotation

LABEL = "Polyp"
"""The only class."""
_QUARTER_TURNS = {
    0: Rotation(),
    90: Rotation(swaps_axes=True, swaps_up_down=True),
    180: Rotation(swaps_left_right=True, swaps_up_down=True),
    270: Rotation(swaps_axes=True, swaps_left_right=True),
}
"""Rotation by degrees counterclockwise."""


@dataclass(frozen=True, kw_only=True)
class TrackedPolyp:
    """One polyp in one frame, in pixels of the upright frame."""

    polyp: Polyp
    track: int | None
    """Id of its track; None in records without tracks."""
    interpolated: bool = False
    """Whether its contour was propagated from neighboring frames."""


@dataclass(frozen=True, kw_only=True)
class ExportFrame:
    """One frame of a recording and the polyps in it."""

    index: int
    """Index from 0, in presentation order, over all decodable frames."""
    name: str
    """Name of the recording and index, such as `clip_000012`; without a suffix."""
    pts: int
    """Presentation time in units of the video's time base, from the start of the video."""
    pts_s: float
    file_s: float
    """Presentation time in seconds on the clock in the file, which need not start at 0."""
    polyps: tuple[TrackedPolyp, ...]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """Records and summary of one video. Each iteration over the frames reads the records from disk."""

    records: Path
    summary: Summary
    times_s: NDArray[np.float64]
    """Presentation time of each frame in seconds."""
    proxy: tuple[str, Fraction] | None = None
    """File name and frame rate of a proxy that tools show instead of the video."""
    video: Path | None = None
    """The video itself, for formats that refer to more of it than its name."""

    @property
    def name(self) -> str:
        """Name without suffixes, which all exported files and frames start with."""
        return self.records.name.removesuffix(RECORDS_SUFFIX)

    @property
    def rotation(self) -> Rotation:
        """Rotation from decoded to upright frames; other angles are rounded to quarter turns, as players do."""
        return rotation_by(self.summary.video.rotation)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of an upright frame in pixels."""
        return self.rotation.size(self.summary.video.width, self.summary.video.height)

    @cached_property
    def rate(self) -> Fraction:
        """Frames per second: the stated rate if the frames follow it, else their average; 25 for a single frame."""
        stated, times = self.summary.video.average_rate, self.times_s
        if len(times) < 2:
            return stated or Fraction(25)
        measured = (len(times) - 1) / float(times[-1] - times[0])
        if stated and self.is_constant_rate and abs(measured / float(stated) - 1) < 1e-3:
            return stated
        return Fraction(measured).limit_denominator(1001)

    @property
    def is_constant_rate(self) -> bool:
        """Whether frames are equally spaced in time."""
        return self.summary.video.is_constant_rate

    @property
    def frame_step_s(self) -> float:
        """Typical time between two frames in seconds."""
        return float(np.median(np.diff(self.times_s))) if len(self.times_s) > 1 else float(1 / self.rate)

    @property
    def duration_s(self) -> float:
        """Time from the start of the video to the end of its last frame, in seconds."""
        return float(self.times_s[-1]) + self.frame_step_s if len(self.times_s) else 0.0

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for matching frames by time or number, one line each."""
        if self.is_constant_rate:
            return ()
        return (
            f"{self.summary.video.name} has a variable frame rate: tools that compute times from a rate display other "
            f"frames; match frames by {self.name}_frames.csv, or use a constant-rate proxy",
        )

    def frame_name(self, index: int) -> str:
        """Name of a frame, without a suffix; unique over recordings of different names."""
        return f"{self.name}_{index:06d}"

    def frames(self) -> Iterator[ExportFrame]:
        """Every frame in order, including those without a polyp."""
        rotation, time_base = self.rotation, self.summary.video.time_base
        width, height = self.summary.video.width, self.summary.video.height
        is_rotated = rotation != Rotation()
        for record in read_records(self.records):
            yield ExportFrame(
                index=record.index,
                name=self.frame_name(record.index),
                pts=round(Fraction(record.pts_s) / time_base),
                pts_s=record.pts_s,
                file_s=record.pts_s + record.start_offset_s,
                polyps=tuple(
                    TrackedPolyp(
                        polyp=rotation.polyp(polyp, width=width, height=height) if is_rotated else polyp,
                        track=track,
                        interpolated=interpolated,
                    )
                    for polyp, track, interpolated in zip(
                        record.polyps, record.tracks, record.interpolated, strict=True
                    )
                ),
            )

    def tracks(self) -> tuple[PolypTrack, ...]:
        """The polyps of the recording, in the order of their first frames."""
        return tuple(sorted(self.summary.tracks, key=lambda track: (track.first_index, track.id)))


def rotation_by(degrees: int) -> Rotation:
    """The rotation of a frame by an angle counterclockwise, rounded to a quarter turn."""
    return _QUARTER_TURNS[round(degrees / 90) % 4 * 90]


def open_recording(records: Path, *, proxy: tuple[str, Fraction] | None = None, video: Path | None = None) -> Recording:
    """Read the summary next to a records file, and check that they match.

    Args:
        records: A finished `<name>_polyps.jsonl`.
        proxy: File name and frame rate of a proxy that tools show instead of the video.
        video: The video itself, for formats that refer to more of it than its name (DICOM).

    Raises:
        DatasetError: The records or the summary are missing, damaged, or not of the same video.
    """
    summary = read_summary(summary_path(records))
    times = []
    for number, record in enumerate(read_records(records)):
        _check_order(records, record, number)
        times.append(record.pts_s)
    if len(times) != summary.video.frames:
        raise DatasetError(
            f"{records} has {len(times)} frames, its summary {summary.video.frames}; annotate the video again"
        )
    return Recording(records=records, summary=summary, times_s=np.array(times, np.float64), proxy=proxy, video=video)


def _check_order(records: Path, record: FrameRecord, number: int) -> None:
    if record.index != number:
        raise DatasetError(f"line {number + 1} of {records} is frame {record.index}; annotate the video again")
