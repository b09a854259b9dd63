"""Annotated recordings of real video files, with contours chosen by tests instead of a network."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.annotate.formats.recording import Recording, open_recording
from polypstream.realtime.annotate.records import RecordWriter
from polypstream.realtime.annotate.summary import Summary, VideoFacts, is_constant_rate, summary_path, write_summary
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour
from polypstream.realtime.video.reader import VideoReader
from tests.clips import make_clip

Found = dict[int, Polyp]
"""Polyps of a frame by track."""


def ellipse(x: float, y: float, *, across: float, down: float, count: int = 40) -> NDArray[np.float32]:
    """A closed curve of `count` vertices around (x, y)."""
    angle = np.arange(count) * 2 * np.pi / count
    return np.column_stack((x + across * np.cos(angle), y + down * np.sin(angle))).astype(np.float32)


def two_polyps(index: int) -> Found:
    """Track 1 moves, grows and is missing in frames 5 and 6; track 2 lies at the edge of the frame from frame 8 on."""
    found: Found = {}
    if index not in (5, 6):
        contour = ellipse(80 + 4.3 * index, 100 + 2 * index, across=36 + 1.4 * index, down=29.5)
        found[1] = polyp_from_contour(contour, score=0.75 + index / 100)
    if index >= 8:
        contour = np.clip(ellipse(300, 40, across=60, down=52), 0, (320, 240)).astype(np.float32)
        found[2] = polyp_from_contour(contour, score=0.6)
    return found


def annotate(video: Path, folder: Path, polyps: Callable[[int], Found] = two_polyps) -> Recording:
    """Write the records and the summary of a video as annotation does, and open them."""
    folder.mkdir(parents=True, exist_ok=True)
    records = folder / f"{video.stem}_polyps.jsonl"
    seen: dict[int, list[tuple[int, float, Polyp]]] = {}
    pts: list[int] = []
    marked = 0
    with VideoReader(video) as reader, RecordWriter(records, start_offset_s=reader.info.start_offset_s) as writer:
        for frame in reader.frames():
            found = polyps(frame.index)
            writer.write(frame, list(found.values()), list(found))
            pts.append(frame.pts)
            marked += bool(found)
            for track, polyp in found.items():
                seen.setdefault(track, []).append((frame.index, frame.pts_s, polyp))
        info = reader.info
    summary = Summary(
        video=VideoFacts.of(info, frames=len(pts), is_constant_rate=is_constant_rate(pts)),
        model="tiny 1 (fp32)",
        software="0",
        backend="none",
        threshold=0.5,
        tracks=tuple(track_of(track, each) for track, each in seen.items()),
        frames_with_polyp=marked,
    )
    write_summary(summary_path(records), summary)
    return open_recording(records, video=video)


def track_of(identity: int, seen: Sequence[tuple[int, float, Polyp]]) -> PolypTrack:
    best = max(seen, key=lambda each: each[2].score)
    largest = max(seen, key=lambda each: each[2].area)
    return PolypTrack(
        id=identity,
        first_index=seen[0][0],
        last_index=seen[-1][0],
        first_pts_s=seen[0][1],
        last_pts_s=seen[-1][1],
        frames=len(seen),
        largest_area=largest[2].area,
        largest_index=largest[0],
        best_score=best[2].score,
        best_index=best[0],
        best_area=best[2].area,
        longest_gap_s=0.0,
    )


CLIPS: dict[str, Callable[[Path], Path]] = {
    "vfr": lambda folder: make_clip(
        folder / "vfr.mkv",
        width=320,
        height=240,
        time_base=Fraction(1, 1000),
        pts=[0, 40, 80, 100, 160, 200, 290, 330, 370, 400, 500, 540],
    ),
    "ntsc": lambda folder: make_clip(
        folder / "ntsc.mp4",
        width=320,
        height=240,
        time_base=Fraction(1, 30000),
        rate=Fraction(30000, 1001),
        pts=[1001 * number for number in range(12)],
    ),
    "negative": lambda folder: make_clip(
        folder / "negative.ts",
        width=320,
        height=240,
        options={"preset": "veryfast", "qp": "10", "bf": "2", "b-adapt": "0"},
        container_options={"avoid_negative_ts": "disabled"},
        pts=[number - 2 for number in range(12)],
    ),
}
"""A variable rate; 29.97 frames per second; B-frames and a first frame before 0.

Twelve frames of 320 by 240 pixels each.
"""
