"""Data of a report: curves, intervals of poor view, and thumbnails of the best frames."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from polypstream.arrays import Contour, Rgb
from polypstream.realtime.annotate.records import read_records
from polypstream.realtime.annotate.summary import Summary
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.live.visibility import SteadyVisibility, Visibility
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.rotation import rotation_of
from polypstream.realtime.video.stills import stills

COLUMNS = 600
"""Number of points of a curve; each shows the maximum of its frames."""
THUMBNAIL = (480, 320)
"""Largest width and height of a thumbnail in pixels."""
MOST_THUMBNAILS = 200
"""Maximum number of thumbnails, so that a report has only a few megabytes; polyps with lower scores get none."""
_JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class TimeInterval:
    """An interval of poor view or damage."""

    kind: str
    """Name of a visibility, such as "red_out", or "damage"."""
    start_s: float
    end_s: float
    text: str = ""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s


@dataclass(kw_only=True)
class Curve:
    """Score and area of one polyp over time, as (seconds, value) points, split where it was not detected."""

    score: list[list[tuple[float, float]]] = field(default_factory=list)
    area: list[list[tuple[float, float]]] = field(default_factory=list)
    """Area in percent of the frame."""


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Data of a report beyond the summary."""

    duration_s: float
    curves: dict[int, Curve]
    """By track id."""
    intervals: tuple[TimeInterval, ...]
    thumbnails: dict[int, str]
    """JPEG images as data URIs, by track id."""
    best_s: dict[int, float]
    """Time of each polyp's best frame, by track id."""

    def total_s(self, kind: str) -> float:
        """Total duration in seconds of one kind of interval."""
        return sum(each.duration_s for each in self.intervals if each.kind == kind)


def findings_of(
    summary: Summary, records: Path, video: Path, *, hide: Callable[[Rgb, float], Rgb] | None = None
) -> Findings:
    """Collect the data of a report.

    Args:
        summary: The recording as a whole.
        records: Its records.
        video: The recording, from which thumbnails are taken.
        hide: De-identifies a coded frame, uint8 RGB (H, W, 3), given its time in seconds.

    Raises:
        SourceError: If the video cannot be read.
        DatasetError: If the records cannot be read.
    """
    facts = summary.video
    step_s = float(1 / facts.average_rate) if facts.average_rate else 0.04
    chosen = sorted(summary.tracks, key=lambda track: track.best_score, reverse=True)[:MOST_THUMBNAILS]
    best_s: dict[int, float] = {}
    best_at: dict[int, list[int]] = {}
    for track in summary.tracks:
        best_at.setdefault(track.best_index, []).append(track.id)
    tracks_at: dict[int, list[PolypTrack]] = {}
    for track in chosen:
        tracks_at.setdefault(track.best_index, []).append(track)
    drawn: dict[float, list[tuple[int, Contour]]] = {}
    times: list[float] = []
    curves: dict[int, list[tuple[float, float, float]]] = {}
    intervals: list[TimeInterval] = []
    steady, shown, since_s, now_s = SteadyVisibility(), Visibility.CLEAR, 0.0, 0.0
    for record in read_records(records):
        now_s = record.pts_s
        times.append(now_s)
        visibility = steady.smoothed(Visibility[record.visibility.upper()], at_s=now_s)
        if visibility is not shown:
            if shown is not Visibility.CLEAR:
                intervals.append(TimeInterval(kind=shown.name.lower(), start_s=since_s, end_s=now_s))
            shown, since_s = visibility, now_s
        for polyp, identity in zip(record.polyps, record.tracks, strict=True):
            if identity is not None:
                share = 100 * polyp.area / (facts.width * facts.height)
                curves.setdefault(identity, []).append((now_s, polyp.score, share))
        best_s |= dict.fromkeys(best_at.get(record.index, ()), now_s)
        if record.index in tracks_at:
            by_id = dict(zip(record.tracks, record.polyps, strict=True))
            drawn[now_s] = [
                (track.id, by_id[track.id].contour) for track in tracks_at[record.index] if track.id in by_id
            ]
    duration_s = max(now_s + step_s, facts.duration_s or 0.0)
    if shown is not Visibility.CLEAR:
        intervals.append(TimeInterval(kind=shown.name.lower(), start_s=since_s, end_s=duration_s))
    for damage in summary.damage:
        start_s = damage.start_s or 0.0
        end_s = duration_s if damage.end_s is None else damage.end_s
        intervals.append(TimeInterval(kind="damage", start_s=start_s, end_s=max(end_s, start_s), text=damage.message))
    thumbnails = {
        identity: _thumbnail(frame, frame.image if hide is None else hide(frame.image, time_s), contour)
        for time_s, frame in stills(video, sorted(drawn))
        for identity, contour in drawn[time_s]
    }
    return Findings(
        duration_s=duration_s,
        curves={identity: _curve(points, duration_s, step_s) for identity, points in curves.items()},
        intervals=tuple(intervals),
        thumbnails=thumbnails,
        best_s=best_s,
    )


def _curve(points: Sequence[tuple[float, float, float]], duration_s: float, step_s: float) -> Curve:
    """Reduce points to `COLUMNS`, split at gaps of more than two frames."""
    column_s = duration_s / COLUMNS
    thin: list[tuple[float, float, float]] = []
    for time_s, score, area in points:
        if thin and time_s // column_s == thin[-1][0] // column_s:
            thin[-1] = (thin[-1][0], max(thin[-1][1], score), max(thin[-1][2], area))
        else:
            thin.append((time_s, score, area))
    curve = Curve()
    last_s: float | None = None
    for time_s, score, area in thin:
        if last_s is None or time_s - last_s > 2.5 * step_s + 1.5 * column_s:
            curve.score.append([])
            curve.area.append([])
        curve.score[-1].append((time_s, score))
        curve.area[-1].append((time_s, area))
        last_s = time_s
    return curve


def _thumbnail(frame: Frame, image: Rgb, contour: Contour) -> str:
    """Thumbnail with the contour, upright and with square pixels, as a data URI."""
    height, width = image.shape[:2]
    rotation = rotation_of(frame)
    upright = rotation.image(image)
    corners = rotation.contour(contour, width=width, height=height)
    across = float(frame.sample_aspect_ratio)
    scale = (1.0, across) if rotation.swaps_axes else (across, 1.0)
    shown_width, shown_height = upright.shape[1] * scale[0], upright.shape[0] * scale[1]
    scale = min(THUMBNAIL[0] / shown_width, THUMBNAIL[1] / shown_height, 1.0)
    size = max(1, round(shown_width * scale)), max(1, round(shown_height * scale))
    small = np.ascontiguousarray(cv2.resize(upright, size, interpolation=cv2.INTER_AREA))
    points = np.rint(corners * (size[0] / upright.shape[1], size[1] / upright.shape[0]) * 16).astype(np.int32)
    cv2.polylines(small, [points], True, CASING_RGB, 3, cv2.LINE_AA, shift=4)
    cv2.polylines(small, [points], True, MarkerStyle().rgb, 1, cv2.LINE_AA, shift=4)
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
