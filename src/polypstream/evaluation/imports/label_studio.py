"""Reads Label Studio's JSON exports: boxes on a video, and polygons, brushes or boxes on frames."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels, Shape, Wanted, box, by_frame, lookup
from polypstream.evaluation.imports.rle import mask_from_brush

_COUNT_TOLERANCE = 1
"""Label Studio computes the number of frames from the duration and the rate."""


def read_label_studio(path: Path, wanted: Wanted) -> Labels:
    """Read tasks: one with the video, or many with its frames as images.

    Predictions are used for a task without annotations. Boxes between two keyframes are interpolated.

    Raises:
        DatasetError: The file is not an export of Label Studio, or none of its tasks is the video.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        tasks = data if isinstance(data, list) else [data]
        videos = [task for task in tasks if "video" in task["data"]]
        return _of_video(videos, path, wanted) if videos else _of_frames(tasks, path, wanted)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a readable export of Label Studio ({error!r}); export it as JSON") from None


def _of_video(tasks: list[dict[str, Any]], path: Path, wanted: Wanted) -> Labels:
    own = [task for task in tasks if str(task["data"]["video"]).endswith(wanted.video)]
    if len(tasks) > 1 and len(own) != 1:
        raise DatasetError(f"{path} has {len(own)} tasks with the video {wanted.video}; export one task")
    results, notices = _results((own or tasks)[0])
    regions = [each for each in results if each["type"] == "videorectangle"]
    polyps = wanted.polyp_labels({_label(each) for each in regions}, path)
    counts = {int(each["value"]["framesCount"]) for each in regions if each["value"].get("framesCount")}
    count = max(counts, default=None)
    shapes = [pair for each in regions if _label(each) in polyps for pair in _sequence(each, wanted.size, count)]
    return Labels(
        path=path,
        format="Label Studio",
        at=lookup(by_frame(shapes)),
        last_index=max((index for index, _ in shapes), default=-1),
        frame_count=count,
        notices=(*notices, *_unread(results, "videorectangle")),
    )


def _sequence(region: dict[str, Any], size: tuple[int, int], count: int | None) -> Iterator[tuple[int, Shape]]:
    """The boxes of one region by frame index: a keyframe that is not `enabled` ends an interval."""
    keyframes = sorted(region["value"]["sequence"], key=lambda each: int(each["frame"]))
    placed = [(int(each["frame"]) - 1, _box(each, region, size), each.get("enabled", True)) for each in keyframes]
    for (index, shape, is_enabled), (after, following, _) in pairwise(placed):
        yield index, shape
        for between in range(index + 1, after) if is_enabled else ():
            share = np.float32((between - index) / (after - index))
            moved = shape.contours[0] + (following.contours[0] - shape.contours[0]) * share
            yield between, replace(shape, contours=(moved,))
    for index, shape, is_enabled in placed[-1:]:
        yield index, shape
        for later in range(index + 1, count) if is_enabled and count else ():
            yield later, shape


def _of_frames(tasks: list[dict[str, Any]], path: Path, wanted: Wanted) -> Labels:
    images = {str(task["data"].get("image") or task["data"]["img"]): task for task in tasks}
    indices = wanted.indices(images, path)
    found = [(index, *_results(images[name])) for name, index in indices.items()]
    labels = {_label(each) for _, results, _ in found for each in results}
    polyps = wanted.polyp_labels(labels, path)
    shapes, sizes = [], set()
    for index, results, _ in found:
        for each in results:
            if "original_width" in each:
                sizes.add((int(each["original_width"]), int(each["original_height"])))
            if _label(each) in polyps and (shape := _frame_shape(each, wanted.size)) is not None:
                shapes.append((index, shape))
    unread = tuple(dict.fromkeys(notice for _, results, _ in found for notice in _unread(results, *_ON_FRAMES)))
    return Labels(
        path=path,
        format="Label Studio",
        at=lookup(by_frame(shapes)),
        labeled=frozenset(indices.values()),
        last_index=max(indices.values(), default=-1),
        size=next(iter(sizes)) if len(sizes) == 1 else None,
        notices=(*dict.fromkeys(notice for *_, notices in found for notice in notices), *unread),
    )


_ON_FRAMES = ("polygonlabels", "polygon", "brushlabels", "brush", "rectanglelabels", "rectangle")


def _frame_shape(region: dict[str, Any], size: tuple[int, int]) -> Shape | None:
    label, value = _label(region), region["value"]
    if "points" in value:
        points = np.array(value["points"], np.float64) * size / 100
        return Shape(label=label, contours=(points.astype(np.float32),))
    if "rle" in value:
        width, height = int(region["original_width"]), int(region["original_height"])
        return Shape(label=label, bitmap=partial(mask_from_brush, value["rle"], width=width, height=height))
    return _box(value, region, size) if "width" in value else None


def _box(value: dict[str, Any], region: dict[str, Any], size: tuple[int, int]) -> Shape:
    left, top = value["x"] * size[0] / 100, value["y"] * size[1] / 100
    right, bottom = left + value["width"] * size[0] / 100, top + value["height"] * size[1] / 100
    return box(_label(region), left, top, right, bottom, track=region.get("id"))


def _results(task: dict[str, Any]) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The regions of the newest annotation that is not canceled, or else of the prediction, and notices."""
    done = [each for each in task.get("annotations") or () if not each.get("was_cancelled")]
    if done:
        return max(done, key=lambda each: str(each.get("updated_at", "")))["result"], ()
    predicted = task.get("predictions") or ()
    notice = "the export has no annotations: its predictions are used"
    return (predicted[-1]["result"], (notice,)) if predicted else ([], ())


def _label(region: dict[str, Any]) -> str:
    for name in ("labels", "polygonlabels", "brushlabels", "rectanglelabels"):
        if region.get("value", {}).get(name):
            return str(region["value"][name][0])
    return ""


def _unread(results: list[dict[str, Any]], *read: str) -> tuple[str, ...]:
    kinds = sorted({each["type"] for each in results if each["type"] not in read} - {"labels"})
    return tuple(f"regions of type {kind} are ignored" for kind in kinds)
