"""CVAT for video 1.1: one track of polygons per polyp, with gaps where the polyp is not detected."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from polypstream.arrays import Contour
from polypstream.files import atomic_path
from polypstream.realtime.annotate.formats.keyframes import aligned, keyframes_of
from polypstream.realtime.annotate.formats.recording import LABEL, Recording

KEYFRAME_TOLERANCE_PX = 0.5
"""Default for the largest distance in pixels between CVAT's interpolation and the detected contour."""
ATTRIBUTES = (("track_id", False), ("score", True))
"""Attributes of the label, all of type `text`, and whether they change between frames."""


@dataclass(frozen=True, kw_only=True)
class _Shape:
    frame: int
    contour: Contour
    score: float


def write_cvat(recording: Recording, path: Path, *, tolerance_px: float = KEYFRAME_TOLERANCE_PX) -> None:
    """Write one XML file for CVAT's import `CVAT 1.1`.

    Every frame with a polyp has its exact contour. Contours that CVAT interpolates to within the tolerance are not
    keyframes, as in CVAT's own exports: CVAT drops them on import. The frame after each run of frames has a shape with
    `outside="1"`, without which CVAT would display the polygon to the end of the video.

    Args:
        recording: The recording.
        path: The file to write.
        tolerance_px: Distance in pixels; 0 makes every frame a keyframe.
    """
    tracks = _tracks(recording)
    with atomic_path(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(_head(recording))
        for track, shapes in tracks.items():
            file.write(f'  <track id="{track}" label={quoteattr(LABEL)} source="auto">\n')
            for line in _polygons(track, shapes, tolerance_px=tolerance_px, frames=recording.summary.video.frames):
                file.write(line)
            file.write("  </track>\n")
        file.write("</annotations>\n")


def label_specification() -> dict[str, object]:
    """The label with its attributes, in the form that CVAT's API expects for a new task."""
    attributes = [
        {"name": name, "mutable": is_mutable, "input_type": "text", "default_value": "", "values": []}
        for name, is_mutable in ATTRIBUTES
    ]
    return {"name": LABEL, "type": "polygon", "attributes": attributes}


def _tracks(recording: Recording) -> dict[int, list[_Shape]]:
    """Shapes by track; each polyp without a track becomes a separate track."""
    tracks: dict[int, list[_Shape]] = {}
    untracked = max((track.id for track in recording.summary.tracks), default=0)
    for frame in recording.frames():
        for each in frame.polyps:
            if each.track is None:
                untracked += 1
            identity = untracked if each.track is None else each.track
            shape = _Shape(frame=frame.index, contour=each.polyp.contour, score=each.polyp.score)
            tracks.setdefault(identity, []).append(shape)
    return tracks


def _head(recording: Recording) -> str:
    width, height = recording.size
    frames = recording.summary.video.frames
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>{is_mutable}</mutable><input_type>text</input_type>"
        "<default_value></default_value><values></values></attribute>"
        for name, is_mutable in ATTRIBUTES
    )
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <name>{escape(recording.name)}</name>
      <size>{frames}</size>
      <mode>interpolation</mode>
      <overlap>0</overlap>
      <start_frame>0</start_frame>
      <stop_frame>{max(frames - 1, 0)}</stop_frame>
      <frame_filter></frame_filter>
      <labels>
        <label><name>{LABEL}</name><type>polygon</type><attributes>{attributes}</attributes></label>
      </labels>
      <original_size><width>{width}</width><height>{height}</height></original_size>
      <source>{escape(recording.summary.video.name)}</source>
    </task>
  </meta>
"""


def _intervals(shapes: Sequence[_Shape]) -> Iterator[list[_Shape]]:
    """Split the shapes of a track into runs of consecutive frames."""
    run: list[_Shape] = []
    for shape in shapes:
        if run and shape.frame != run[-1].frame + 1:
            yield run
            run = []
        run.append(shape)
    if run:
        yield run


def _polygons(track: int, shapes: Sequence[_Shape], *, tolerance_px: float, frames: int) -> Iterator[str]:
    for run in _intervals(shapes):
        contours = [run[0].contour]
        for shape in run[1:]:
            contours.append(aligned(shape.contour, contours[-1]))
        keyframes = set(keyframes_of(contours, tolerance_px=tolerance_px))
        for number, (shape, contour) in enumerate(zip(run, contours, strict=True)):
            yield _polygon(track, shape.frame, contour, shape.score, is_keyframe=number in keyframes, is_outside=False)
        if run[-1].frame + 1 < frames:
            last = run[-1]
            yield _polygon(track, last.frame + 1, contours[-1], last.score, is_keyframe=True, is_outside=True)


def _polygon(track: int, frame: int, contour: Contour, score: float, *, is_keyframe: bool, is_outside: bool) -> str:
    points = ";".join(f"{x:.2f},{y:.2f}" for x, y in contour.tolist())
    values = {"track_id": str(track), "score": f"{score:.4f}"}
    attributes = "".join(f'<attribute name="{name}">{values[name]}</attribute>' for name, _ in ATTRIBUTES)
    return (
        f'    <polygon frame="{frame}" keyframe="{is_keyframe:d}" outside="{is_outside:d}" occluded="0" '
        f'points="{points}" z_order="0">{attributes}</polygon>\n'
    )
