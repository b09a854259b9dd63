"""Reads folders with a file per frame: masks as images, and boxes as Pascal VOC files."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Mask
from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels, Shape, Wanted, box, by_frame, lookup
from polypstream.train.image_files import MaskValues, read_mask

_MOST_TRACKS = 64
_UNTRACKED = 255


def read_mask_folder(folder: Path, wanted: Wanted, mask_values: MaskValues | None = None) -> Labels:
    """Read a folder of masks: both `00012.png` and `clip_000012.png` belong to frame 12.

    In files of the second kind, which `annotate --format masks` writes, each gray level is a separate polyp. Masks are
    read on demand. Frames without a mask count as not labeled.

    Raises:
        DatasetError: There are no masks of the video.
    """
    files = {str(path): path for path in sorted(folder.glob("*.png"))}
    indices = wanted.indices(files, folder)
    if not indices:
        raise DatasetError(f"{folder} holds no masks of {wanted.video}; it should hold 00000.png, 00001.png, …")
    by_index = {index: files[name] for name, index in indices.items()}

    def at(index: int) -> Sequence[Shape]:
        return _mask_shapes(by_index[index], mask_values, wanted.size) if index in by_index else ()

    return Labels(
        path=folder,
        format="masks",
        at=at,
        labeled=frozenset(by_index),
        last_index=max(by_index),
    )


def check_masks(folder: Path, *, frames: int, size: tuple[int, int], mask_values: MaskValues | None = None) -> None:
    """Check that a folder contains exactly one usable mask per frame, `00000.png` for the first.

    Raises:
        DatasetError: Lists every frame without a mask, mask without a frame, and unusable mask.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder of masks at {folder}; it should hold 00000.png, 00001.png, …")
    files = {int(path.stem): path for path in sorted(folder.glob("*.png")) if path.stem.isdecimal()}
    if not files:
        raise DatasetError(f"{folder} holds no masks; it should hold 00000.png, 00001.png, …")
    problems = [f"frame {index} has no mask" for index in range(frames) if index not in files]
    for index, path in sorted(files.items()):
        if index >= frames:
            problems.append(f"{path} belongs to no frame")
            continue
        try:
            height, width = read_mask(path, mask_values).shape
            if (width, height) != size:
                problems.append(f"{path} is {width}x{height} but its frame is {size[0]}x{size[1]}")
        except DatasetError as error:
            problems.append(str(error))
    if problems:
        raise DatasetError(f"the video has {frames} frames, {folder} {len(files)} masks: {'; '.join(problems)}")


def _mask_shapes(path: Path, values: MaskValues | None, size: tuple[int, int]) -> list[Shape]:
    raw = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        raise DatasetError(f"{path} cannot be read as an image")
    if raw.shape[1::-1] != size:
        raise DatasetError(f"{path} is {raw.shape[1]}x{raw.shape[0]} but its frame is {size[0]}x{size[1]}")
    is_export = not path.stem.isdecimal() and raw.ndim == 2 and raw.dtype == np.uint8
    if values or not is_export or len(levels := np.unique(raw)) > _MOST_TRACKS:
        mask = read_mask(path, values)
        return [Shape(label="polyp", bitmap=lambda: mask)] if mask.any() else []
    return [
        Shape(
            label="polyp",
            track=None if level == _UNTRACKED else str(level),
            bitmap=partial(_equal, raw, level),
        )
        for level in levels.tolist()
        if level
    ]


def _equal(raw: NDArray[Any], level: int) -> Mask:
    return np.asarray(raw == level)


def read_voc(folder: Path, wanted: Wanted) -> Labels:
    """Read a folder of Pascal VOC files, one per frame, such as REAL-Colon's; `unique_id` identifies a polyp."""
    files = {str(path): path for path in sorted(folder.glob("*.xml"))}
    indices = wanted.indices(files, folder)
    objects = []
    for name, index in indices.items():
        try:
            objects += [(index, each) for each in ET.parse(files[name]).getroot().iter("object")]
        except ET.ParseError as error:
            raise DatasetError(f"{name} is not a readable Pascal VOC file ({error})") from None
    polyps = wanted.polyp_labels({each.findtext("name", "") for _, each in objects}, folder)
    shapes = []
    for index, each in objects:
        if (label := each.findtext("name", "")) in polyps:
            edges = (float(each.findtext(f"bndbox/{side}", "nan")) for side in ("xmin", "ymin", "xmax", "ymax"))
            shapes.append((index, box(label, *edges, track=each.findtext("unique_id"))))
    return Labels(
        path=folder,
        format="Pascal VOC",
        at=lookup(by_frame(shapes)),
        labeled=frozenset(indices.values()),
        last_index=max(indices.values(), default=-1),
    )
