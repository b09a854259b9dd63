"""Reads CVAT's XML formats: CVAT for video 1.1, interpolated as in CVAT, and CVAT for images 1.1."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np

from polypstream.arrays import Contour, Mask
from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels, Shape, Wanted, box, by_frame
from polypstream.evaluation.imports.rle import mask_from_runs
from polypstream.realtime.annotate.formats.keyframes import interpolated

_SHAPES = ("polygon", "mask", "box", "ellipse", "polyline", "points", "cuboid", "skeleton")
_READ = ("polygon", "mask", "box")


@dataclass(frozen=True, kw_only=True)
class _Task:
    """Properties of the labeled video as stated in the file."""

    size: tuple[int, int] | None
    start: int = 0
    stop: int | None = None
    step: int = 1
    count: int | None = None
    """Number of labeled frames."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A shape of a track, with its frame."""

    frame: int
    shape: Shape
    is_outside: bool


def read_cvat(path: Path, wanted: Wanted) -> Labels:
    """Read an `annotations.xml`. Raises `DatasetError` if it is malformed or the meaning of its labels unclear."""
    try:
        root = ET.parse(path).getroot()
        if root.tag != "annotations":
            raise DatasetError(f"{path} is not a CVAT file: it starts with <{root.tag}>, not <annotations>")
        return _labels(root, path, wanted)
    except (ET.ParseError, ValueError, KeyError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a readable CVAT file ({error}); export it again") from None


def _labels(root: ET.Element, path: Path, wanted: Wanted) -> Labels:
    task = _task(root)
    tracks, images = root.findall("track"), root.findall("image")
    if images and not tracks:
        return _of_images(images, path, wanted, task)
    ignored: Counter[str] = Counter()
    names = {track.get("label", "") for track in tracks}
    polyps = wanted.polyp_labels(names, path)
    seen = [_track(track, ignored) for track in tracks if track.get("label", "") in polyps]
    frames = {each.frame for track in seen for each in track}
    if task.step > 1 and not all((frame - task.start) % task.step == 0 for frame in frames):
        seen = [[replace(each, frame=task.start + each.frame * task.step) for each in track] for track in seen]
    filled = [_interpolated(track, task.step) for track in seen]
    shapes = by_frame((each.frame, each.shape) for track in filled for each in track if not each.is_outside)
    tails = [track[-1] for track in seen if track and not track[-1].is_outside]

    def at(index: int) -> Sequence[Shape]:
        held = [tail.shape for tail in tails if index > tail.frame]  # CVAT displays them to the end
        return [*shapes.get(index, ()), *held]

    whole = task.step == 1 and task.start == 0
    visible = [each.frame for track in seen for each in track if not each.is_outside]
    return Labels(
        path=path,
        format="CVAT for video",
        at=at,
        labeled=None if whole or task.stop is None else range(task.start, task.stop + 1, task.step),
        last_index=max([*visible, *([task.stop] if task.stop is not None else [])], default=-1),
        frame_count=task.count if whole else None,
        size=task.size,
        notices=_ignored(ignored),
    )


def _task(root: ET.Element) -> _Task:
    meta = root.find("meta")
    found = None if meta is None else next((each for tag in ("task", "job") for each in meta.iter(tag)), None)
    size = None if meta is None else next(meta.iter("original_size"), None)
    pixels = None if size is None else (int(size.findtext("width", "0")), int(size.findtext("height", "0")))
    if found is None:
        return _Task(size=pixels)
    step = found.findtext("frame_filter") or ""
    stop, count = found.findtext("stop_frame"), found.findtext("size")
    return _Task(
        size=pixels,
        start=int(found.findtext("start_frame") or 0),
        stop=int(stop) if stop else None,
        step=int(step.removeprefix("step=")) if step.startswith("step=") else 1,
        count=int(count) if count else None,
    )


def _track(track: ET.Element, ignored: Counter[str]) -> list[_Seen]:
    label, identity = track.get("label", ""), track.get("id")
    seen = []
    for element in track:
        if element.tag not in _SHAPES:
            continue
        if element.tag not in _READ:
            ignored[element.tag] += 1
            continue
        shape = _shape(element, label, identity)
        outside = element.get("outside") == "1"
        seen.append(_Seen(frame=int(element.attrib["frame"]), shape=shape, is_outside=outside))
    return sorted(seen, key=lambda each: each.frame)


def _shape(element: ET.Element, label: str, track: str | None) -> Shape:
    if element.tag == "polygon":
        return Shape(label=label, track=track, contours=(_points(element.attrib["points"]),))
    if element.tag == "box":
        edges = (float(element.attrib[name]) for name in ("xtl", "ytl", "xbr", "ybr"))
        return box(label, *edges, track=track)
    runs = [int(run) for run in element.attrib["rle"].split(",")]
    left, top, width, height = (int(float(element.attrib[name])) for name in ("left", "top", "width", "height"))
    if sum(runs) != width * height:
        raise ValueError(f"a mask of {width}x{height} has {sum(runs)} pixels")

    def bitmap() -> Mask:
        return mask_from_runs(runs, width=width, height=height)

    return Shape(label=label, track=track, bitmap=bitmap, offset=(left, top))


def _points(text: str) -> Contour:
    return np.array([[float(value) for value in point.split(",")] for point in text.split(";")], np.float32)


def _interpolated(track: Sequence[_Seen], step: int) -> Iterator[_Seen]:
    """The shapes of a track in every frame, as in CVAT: polygons and boxes are interpolated, masks repeated."""
    for before, after in zip_longest(track, track[1:]):
        yield before
        if after is None or before.is_outside:
            continue
        for frame in range(before.frame + step, after.frame, step):
            share = (frame - before.frame) / (after.frame - before.frame)
            yield replace(before, frame=frame, shape=_between(before.shape, after.shape, share))


def _between(before: Shape, after: Shape, share: float) -> Shape:
    if not before.contours or not after.contours:
        return before
    if before.is_box:
        moved = before.contours[0] + (after.contours[0] - before.contours[0]) * np.float32(share)
    else:
        moved = interpolated(before.contours[0], after.contours[0], share)
    return replace(before, contours=(moved,))


def _of_images(images: Sequence[ET.Element], path: Path, wanted: Wanted, task: _Task) -> Labels:
    ignored: Counter[str] = Counter()
    indices = wanted.indices((image.attrib["name"] for image in images), path)
    chosen = [(indices[image.attrib["name"]], image) for image in images if image.attrib["name"] in indices]
    polyps = wanted.polyp_labels({shape.get("label", "") for _, image in chosen for shape in image}, path)
    shapes = []
    for index, image in chosen:
        for element in image:
            if element.get("label", "") not in polyps or element.get("outside") == "1":
                continue
            if element.tag in _READ:
                shapes.append((index, _shape(element, element.get("label", ""), None)))
            elif element.tag in _SHAPES:
                ignored[element.tag] += 1
    grouped = by_frame(shapes)
    sizes = {
        (int(image.attrib["width"]), int(image.attrib["height"])) for _, image in chosen if "width" in image.attrib
    }
    return Labels(
        path=path,
        format="CVAT for images",
        at=lambda index: grouped.get(index, ()),
        labeled=frozenset(indices.values()),
        last_index=max(indices.values(), default=-1),
        size=next(iter(sizes)) if len(sizes) == 1 else task.size,
        notices=_ignored(ignored),
    )


def _ignored(ignored: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} shapes of type {tag} are ignored: they enclose no area" for tag, count in ignored.items())
