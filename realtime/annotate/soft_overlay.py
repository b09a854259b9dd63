"""The soft overlay: a copy of the source with the contours as a subtitle track that players can switch off.

Each contour is a vector drawing in ASS format, without text or fonts. `PlayRes` and `LayoutRes` are both the size of
the upright coded frame: libass then maps drawings and positions by the same linear scale for every display size and
pixel aspect ratio, and renderers that know only the storage size agree.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from polypstream.arrays import Contour
from polypstream.realtime.annotate.records import FrameRecord, read_records
from polypstream.realtime.outlines.drawing import CASING_RGB, MIN_THICKNESS_PX, MarkerStyle
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.remux import SubtitleEvent, copy_with_subtitles
from polypstream.realtime.video.rotation import Rotation, rotation_of_matrix

LANGUAGE = "zxx"
"""ISO 639-2: no linguistic content."""
TITLE = "Polyps"

_SCALE = 8
"""Drawing units per pixel with `\\p4`."""
_EARLY_MS = 10
"""Contours appear and disappear up to this long before the frame, at most half a frame: players and tools round times
to 1 ms or 10 ms."""
_LAST_MS = 40
"""Display duration if the file has only one frame."""


def write_soft_overlay(video: Path, records: Path, path: Path, style: MarkerStyle) -> list[str]:
    """Copy a video without decoding it, with the contours of its records as a subtitle track.

    Args:
        video: The source.
        records: Its finished records.
        path: The `.mkv` file to write.
        style: Color and thickness of the contours.

    Returns:
        Notices about streams that could not be copied.

    Raises:
        SourceError: If the video cannot be read.
        OutputError: If the file cannot be written.
        DatasetError: If the records cannot be read.
    """
    with VideoReader(video) as source:
        info = source.info
    size, rotation = (info.width, info.height), rotation_of_matrix(info.display_matrix)
    header = _header(*rotation.size(*size), coded_height=info.height, style=style)
    events = _events(read_records(records), rotation, size)
    return copy_with_subtitles(video, path, header=header, events=events, language=LANGUAGE, title=TITLE)


def _header(width: int, height: int, *, coded_height: int, style: MarkerStyle) -> str:
    """The script without events. Line widths follow those of the burned overlay."""
    line = max(style.thickness * coded_height, MIN_THICKNESS_PX) / 2
    styles = [
        _style("Casing", CASING_RGB, style.opacity * style.casing_opacity, line + style.casing * coded_height),
        _style("Line", style.rgb, style.opacity, line),
    ]
    return "\n".join(
        [
            "[Script Info]",
            "ScriptType: v4.00+",
            f"PlayResX: {width}",
            f"PlayResY: {height}",
            f"LayoutResX: {width}",
            f"LayoutResY: {height}",
            "ScaledBorderAndShadow: yes",
            "WrapStyle: 2",
            "",
            "[V4+ Styles]",
            "Format: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, "
            "Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, "
            "MarginL, MarginR, MarginV, Encoding",
            *styles,
            "",
            "[Events]",
            "Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text",
            "",
        ]
    )


def _style(name: str, rgb: tuple[int, int, int], opacity: float, border: float) -> str:
    """A style that draws only borders; alpha 0 is opaque, and colors are blue, green, red."""
    red, green, blue = rgb
    color = f"&H{round(255 * (1 - opacity)):02X}{blue:02X}{green:02X}{red:02X}"
    none = "&HFF000000"
    return f"Style: {name},,20,{none},{none},{color},{none},0,0,0,0,100,100,0,0,1,{border:.2f},0,7,0,0,0,1"


def _events(records: Iterator[FrameRecord], rotation: Rotation, size: tuple[int, int]) -> Iterator[SubtitleEvent]:
    """Yield two events, edge and line, per run of frames with the same contours."""
    order, shown, since_ms, end_ms, step_ms = 0, "", 0, 0, _LAST_MS
    last_ms: int | None = None
    for record in chain(records, [None]):
        if record is None:
            drawing, now_ms = "", (last_ms or 0) + step_ms
        else:
            time_ms = round(record.pts_s * 1000)
            step_ms = step_ms if last_ms is None else max(time_ms - last_ms, 1)
            early_ms = min(_EARLY_MS, step_ms // 2) if last_ms is not None else _EARLY_MS
            drawing, now_ms, last_ms = _drawing(record, rotation, size), max(time_ms - early_ms, 0), time_ms
        if drawing == shown:
            continue
        end_ms = now_ms
        if shown and end_ms > since_ms:
            for layer, style in enumerate(("Casing", "Line")):
                text = f"{order},{layer},{style},,0,0,0,,{shown}"
                yield SubtitleEvent(start_ms=since_ms, duration_ms=end_ms - since_ms, text=text)
                order += 1
        shown, since_ms = drawing, now_ms


def _drawing(record: FrameRecord, rotation: Rotation, size: tuple[int, int]) -> str:
    """All contours of a frame as one drawing; empty without polyps."""
    width, height = size
    contours = [rotation.contour(polyp.contour, width=width, height=height) for polyp in record.polyps]
    paths = [_path(contour) for contour in contours if len(contour)]
    return rf"{{\pos(0,0)\p4}}{' '.join(paths)}" if paths else ""


def _path(contour: Contour) -> str:
    """Trace a contour forward and back, so that it encloses nothing and its border lies on both sides."""
    points = np.rint(np.asarray(contour, np.float64) * _SCALE).astype(int)
    points = points[np.any(points != np.roll(points, 1, axis=0), axis=1)] if len(points) > 1 else points
    there = [*points.tolist(), points[0].tolist()] if len(points) else []
    path: Sequence[list[int]] = [*there, *there[-2::-1]]
    (x, y), *others = path
    return f"m {x} {y} l {' '.join(f'{x} {y}' for x, y in others)}"
