"""COCO instance segmentation: reads polygons, run lengths and boxes from polypstream, CVAT, Label Studio and others."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels, Shape, Wanted, box, by_frame, lookup
from polypstream.evaluation.imports.rle import mask_from_coco


def read_coco(path: Path, wanted: Wanted) -> Labels:
    """Read a COCO file. Only the frames that it lists count as labeled.

    Raises:
        DatasetError: The file is not COCO, or it is unclear which images are frames of the video or which labels mean
            polyp.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        images = _images(data, path, wanted)
        names = {each["id"]: str(each["name"]) for each in data["categories"]}
        annotations = [each for each in data["annotations"] if each["image_id"] in images and not _is_outside(each)]
        polyps = wanted.polyp_labels({names[each["category_id"]] for each in annotations}, path)
        shapes = by_frame(
            (images[each["image_id"]], _shape(each, names[each["category_id"]], wanted.size))
            for each in annotations
            if names[each["category_id"]] in polyps
        )
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path} is not a readable COCO file ({error!r}); export it again") from None
    stated = [
        (int(each.get("width", 0)), int(each.get("height", 0))) for each in data["images"] if each["id"] in images
    ]
    sizes = {size for size in stated if all(size)}  # Datumaro writes 0 where it has no image
    if len(sizes) > 1:
        raise DatasetError(f"{path} has frames of {len(sizes)} sizes; export the labels of one video")
    lengths = [each.get("length") for each in data.get("videos", []) if _is(each, wanted)]
    return Labels(
        path=path,
        format="COCO",
        at=lookup(shapes),
        labeled=frozenset(images.values()),
        last_index=max(images.values(), default=-1),
        frame_count=lengths[0] if len(lengths) == 1 else None,
        size=next(iter(sizes), None),
    )


def _images(data: dict[str, Any], path: Path, wanted: Wanted) -> dict[int, int]:
    """Frame index by image id, for the images of the video."""
    images, videos = data["images"], data.get("videos", [])
    if videos and len(chosen := [each["id"] for each in videos if _is(each, wanted)]) == 1:
        images = [each for each in images if each.get("video_id", chosen[0]) == chosen[0]]
    elif len(videos) > 1:
        listed = ", ".join(str(each.get("name")) for each in videos[:8])
        raise DatasetError(f"{path} has labels of {listed}, not of {wanted.video}; give the video that was labeled")
    if wanted.names is None and images and all("frame_id" in each for each in images):
        return {each["id"]: int(each["frame_id"]) for each in images}
    indices = wanted.indices((each["file_name"] for each in images), path)
    return {each["id"]: indices[each["file_name"]] for each in images if each["file_name"] in indices}


def _is(video: dict[str, Any], wanted: Wanted) -> bool:
    return Path(str(video.get("name", ""))).name in (wanted.video, wanted.stem)


def _is_outside(annotation: dict[str, Any]) -> bool:
    """Whether the annotation only marks the end of a track, as in CVAT shapes converted by Datumaro."""
    return bool((annotation.get("attributes") or {}).get("outside"))


def _shape(values: dict[str, Any], label: str, size: tuple[int, int]) -> Shape:
    attributes = values.get("attributes") or {}
    identity = attributes.get("track_id", values.get("instance_id"))
    track = None if identity is None else str(identity)
    segmentation = values.get("segmentation")
    if isinstance(segmentation, dict):
        height, width = segmentation["size"]
        if (width, height) != size:
            raise DatasetError(f"a mask of {width}x{height} for frames of {size[0]}x{size[1]}")
        decode = partial(mask_from_coco, segmentation["counts"], width=width, height=height)
        return Shape(label=label, track=track, bitmap=decode)
    if segmentation:
        contours = tuple(np.array(each, np.float32).reshape(-1, 2) for each in segmentation)
        return Shape(label=label, track=track, contours=contours)
    left, top, across, down = values["bbox"]
    return box(label, left, top, left + across, top + down, track=track)
