"""CSV tables: one row per frame with its times, which accompanies every export, and one row per polyp and frame."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from polypstream.files import atomic_path
from polypstream.realtime.annotate.formats.recording import Recording

FRAME_COLUMNS = ("frame", "name", "pts", "time_base", "seconds", "file_seconds", "polyps")
POLYP_COLUMNS = (
    *(
        "frame",
        "name",
        "seconds",
        "track",
        "left",
        "top",
        "width",
        "height",
        "area",
        "mean_probability",
        "interpolated",
        "contour",
    ),
)


def write_frame_table(recording: Recording, path: Path) -> None:
    """Write the table of all frames. Times count from the video's start; `file_seconds` is the file's own clock."""
    time_base = str(recording.summary.video.time_base)
    rows = (
        (frame.index, frame.name, frame.pts, time_base, f"{frame.pts_s:.9f}", f"{frame.file_s:.9f}", len(frame.polyps))
        for frame in recording.frames()
    )
    _write(path, FRAME_COLUMNS, rows)


def write_csv(recording: Recording, path: Path) -> None:
    """Write one row per polyp and frame; the contour as `x y x y …`."""
    rows = (
        (
            *(frame.index, frame.name, f"{frame.pts_s:.9f}", "" if each.track is None else each.track),
            *(f"{side:.2f}" for side in each.polyp.box),
            *(f"{each.polyp.area:.1f}", f"{each.polyp.score:.4f}", int(each.interpolated)),
            " ".join(f"{value:.2f}" for value in each.polyp.contour.ravel().tolist()),
        )
        for frame in recording.frames()
        for each in frame.polyps
    )
    _write(path, POLYP_COLUMNS, rows)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
