"""COCO instance segmentation with tracks, also for CocoVID readers."""

import json
import shutil
from pathlib import Path
from tempfile import TemporaryFile
from typing import TextIO

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Contour, Mask
from polypstream.content import Crop
from polypstream.metrics import Overlap
from polypstream.realtime.annotate.formats.folders import atomic_folder
from polypstream.realtime.annotate.formats.recording import LABEL, ExportFrame, Recording, TrackedPolyp
from polypstream.realtime.outlines.contours import mask_from_polyps, polyp_from_contour

IMAGE_SUFFIX = ".png"
ANNOTATIONS = Path("annotations", "instances_default.json")
"""Path in COCO's layout, where CVAT and Datumaro expect the file."""
_COARSE = 256
"""Largest side in pixels of the coarse drawing that is checked for holes first."""
_SMALL = 0.1
"""Length of a contour by its area, in 1/pixels, up to which rounding changes less than 1% of the pixels."""
_AGREEMENT = 0.99
_GRID = 5
_CATEGORY_ID = _VIDEO_ID = 1  # CVAT rejects a category 0


def write_coco(recording: Recording, path: Path) -> None:
    """Write a folder with `annotations/instances_default.json`. Image ids are frame indices + 1.

    The folder `images` remains empty; frames can be added under the names listed in the file.

    A polyp is a polygon, or run-length encoded if its contour intersects itself and so encloses a hole, or
    if it is so small that rounding by readers would change its pixels.
    """
    video = recording.summary.video
    width, height = recording.size
    head = {
        "info": {
            "description": f"{video.name}, annotated by polypstream {recording.summary.software}",
            "version": recording.summary.model,
        },
        "licenses": [],
        "categories": [{"id": _CATEGORY_ID, "name": LABEL, "supercategory": ""}],
        "videos": [
            {
                "id": _VIDEO_ID,
                "name": video.name,
                "width": width,
                "height": height,
                "length": video.frames,
                "fps": float(recording.rate),
            }
        ],
    }
    with atomic_folder(path) as folder:
        (folder / "images").mkdir()
        (folder / ANNOTATIONS).parent.mkdir()
        with (folder / ANNOTATIONS).open("w", encoding="utf-8") as file:
            file.write(f'{json.dumps(head)[:-1]}, "images": [')
            with TemporaryFile("w+", encoding="utf-8", dir=folder) as annotations:  # annotations follow all images
                _write_frames(recording, file, annotations)
                file.write('], "annotations": [')
                annotations.seek(0)
                shutil.copyfileobj(annotations, file)
            file.write("]}\n")


def _write_frames(recording: Recording, images: TextIO, annotations: TextIO) -> None:
    """Write both lists, one item per line, in one pass over the records."""
    width, height = recording.size
    number = 0
    for frame in recording.frames():
        images.write(",\n" if frame.index else "\n")
        images.write(_json(_image(frame, width, height)))
        for each in frame.polyps:
            annotations.write(",\n" if number else "\n")
            number += 1
            annotations.write(_json(_annotation(each, frame, number, width=width, height=height)))


def _json(item: dict[str, object]) -> str:
    return json.dumps(item, separators=(",", ":"))


def _image(frame: ExportFrame, width: int, height: int) -> dict[str, object]:
    return {
        "id": frame.index + 1,
        "file_name": frame.name + IMAGE_SUFFIX,
        "width": width,
        "height": height,
        "video_id": _VIDEO_ID,
        "frame_id": frame.index,
        "pts_s": frame.pts_s,
    }


def _annotation(each: TrackedPolyp, frame: ExportFrame, number: int, *, width: int, height: int) -> dict[str, object]:
    polyp = each.polyp
    track = {} if each.track is None else {"track_id": each.track}
    return {
        "id": number,
        "image_id": frame.index + 1,
        "video_id": _VIDEO_ID,
        "category_id": _CATEGORY_ID,
        **({} if each.track is None else {"instance_id": each.track}),
        "segmentation": segmentation_of(polyp.contour, width=width, height=height),
        "bbox": [round(side, 2) for side in polyp.box],
        "area": round(polyp.area, 1),
        "iscrowd": 0,
        "score": round(polyp.score, 4),
        "attributes": {
            **track,
            "score": round(polyp.score, 4),
            "interpolated": each.interpolated,
            "occluded": False,
        },
    }


def segmentation_of(contour: Contour, *, width: int, height: int) -> list[list[float]] | dict[str, object]:
    """COCO `segmentation` of a contour in an image of `width` × `height` pixels.

    Returns:
        One polygon as a list; or run lengths if the contour encloses holes, or if readers, which round polygons to a
        fifth of a pixel, would fill other pixels.
    """
    polygon: NDArray[np.float64] = np.asarray(np.round(contour.astype(np.float64), 2), np.float64)
    is_small = cv2.arcLength(contour, closed=True) > _SMALL * cv2.contourArea(contour)
    if is_small or _may_have_hole(contour):
        box = _box_around(contour, width=width, height=height)
        moved = polyp_from_contour(contour - np.array([box.left, box.top], np.float32), score=0)
        mask = mask_from_polyps([moved], width=box.width, height=box.height)
        if _has_hole(mask) or (
            is_small and mask.any() and Overlap.of(mask, filled_by_readers(polygon, box)).iou < _AGREEMENT
        ):
            return rle_of(mask_from_polyps([polyp_from_contour(contour, score=0)], width=width, height=height))
    return [polygon.ravel().tolist()]


def _box_around(contour: Contour, *, width: int, height: int) -> Crop:
    """The part of an image, of `width` × `height` pixels, in which a contour lies, with a pixel around it."""
    low, high = np.floor(contour.min(axis=0)).astype(int) - 1, np.ceil(contour.max(axis=0)).astype(int) + 1
    left, top = np.clip(low, 0, [width - 1, height - 1]).tolist()
    right, bottom = np.clip(high, [left + 1, top + 1], [width, height]).tolist()
    return Crop(left=left, right=right, top=top, bottom=bottom)


def filled_by_readers(polygon: NDArray[np.float64], box: Crop) -> Mask:
    """Pixels of a part of the image, bool (H, W), that pycocotools and its relatives fill for a polygon (n, 2) in it.

    They draw its sides on a grid of fifths of a pixel, and note in each column where the centers of pixels change from
    outside to inside (`rleFrPoly` of the COCO API).
    """
    height, width = box.height, box.width
    corners = (polygon * _GRID + 0.5).astype(np.int64) - _GRID * np.array([box.left, box.top])
    points = np.concatenate([_side(*pair) for pair in zip(corners, np.roll(corners, -1, axis=0), strict=True)])
    across, down = points[:, 0], points[:, 1]
    moves = np.flatnonzero(np.diff(across)) + 1
    columns = (np.where(across[moves] < across[moves - 1], across[moves], across[moves] - 1) + 0.5) / _GRID - 0.5
    rows = np.ceil(np.clip((np.minimum(down[moves], down[moves - 1]) + 0.5) / _GRID - 0.5, 0, height))
    is_center = (columns == np.floor(columns)) & (columns >= 0) & (columns <= width - 1)
    changes = (columns * height + rows)[is_center].astype(np.int64)
    counts = np.bincount(changes, minlength=height * width)[: height * width]
    return np.asarray((np.cumsum(counts) % 2 == 1).reshape(width, height).T)


def _side(start: NDArray[np.int64], end: NDArray[np.int64]) -> NDArray[np.int64]:
    """Grid points (n, 2) of a side of a polygon, both ends included."""
    across, down = abs(int(end[0] - start[0])), abs(int(end[1] - start[1]))
    major = 0 if across >= down else 1
    is_reversed = bool(start[major] > end[major])
    first, last = (end, start) if is_reversed else (start, end)
    steps = np.arange(max(across, down) + 1)
    slope = (last[1 - major] - first[1 - major]) / max(across, down, 1)
    points = np.empty((len(steps), 2), np.int64)
    points[:, major] = first[major] + steps
    points[:, 1 - major] = (first[1 - major] + slope * steps + 0.5).astype(np.int64)
    return points[::-1] if is_reversed else points


def rle_of(mask: Mask) -> dict[str, object]:
    """Encode a mask (H, W) as COCO's uncompressed run lengths: column-wise, background first."""
    pixels = mask.ravel(order="F")
    changes = np.flatnonzero(np.diff(pixels)) + 1
    counts = np.diff([0, *changes.tolist(), len(pixels)]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if pixels[0] else counts}


def _may_have_hole(contour: Contour) -> bool:
    """Whether a coarse drawing has a hole; the even-odd rule keeps at least the holes of the exact mask."""
    origin = contour.min(axis=0)
    scale = min(1.0, _COARSE / max(float((contour.max(axis=0) - origin).max()), 1.0))
    corners = np.rint((contour - origin) * scale).astype(np.int32) + 1
    width, height = corners.max(axis=0).tolist()
    return _has_hole(cv2.fillPoly(np.zeros((height + 2, width + 2), np.uint8), [corners], 1) > 0)


def _has_hole(mask: Mask) -> bool:
    _, hierarchy = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return hierarchy is not None and bool((np.asarray(hierarchy)[0, :, 3] >= 0).any())
