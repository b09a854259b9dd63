"""Reads Ultralytics YOLO data sets: a text file per frame, with polygons or boxes in relative coordinates."""

import re
from pathlib import Path

import numpy as np

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels, Shape, Wanted, box, by_frame, lookup

_BOX_VALUES = 4


def read_yolo(folder: Path, wanted: Wanted) -> Labels:
    """Read the folder of a data set: `labels/` with text files, and `data.yaml` with the names of the classes.

    A file without lines is a clean frame; frames without a file count as not labeled. An additional number at the
    end of a line is a track id, as written by CVAT.

    Raises:
        DatasetError: There are no files of the video, or a line is malformed.
    """
    files = {str(path): path for path in sorted((folder / "labels").rglob("*.txt"))}
    indices = wanted.indices(files, folder)
    if not indices:
        raise DatasetError(f"{folder} holds no labels of {wanted.video}; it should hold labels/train/<name>.txt")
    names = _class_names(folder)
    lines = [
        (indices[name], files[name], number, line.split())
        for name in indices
        for number, line in enumerate(files[name].read_text(encoding="utf-8").splitlines(), start=1)
        if line.strip()
    ]
    polyps = wanted.polyp_labels({names.get(values[0], values[0]) for *_, values in lines}, folder)
    shapes = []
    for index, path, number, (kind, *values) in lines:
        label = names.get(kind, kind)
        if label in polyps:
            try:
                shapes.append((index, _shape(label, values, wanted.size)))
            except ValueError as error:
                raise DatasetError(f"line {number} of {path} is not a valid YOLO label ({error})") from None
    return Labels(
        path=folder,
        format="YOLO",
        at=lookup(by_frame(shapes)),
        labeled=frozenset(indices.values()),
        last_index=max(indices.values()),
    )


def _shape(label: str, texts: list[str], size: tuple[int, int]) -> Shape:
    track = texts.pop() if len(texts) % 2 else None
    values = np.array([float(text) for text in texts], np.float64)
    if len(values) == _BOX_VALUES:
        center, extent = values[:2] * size, values[2:] * size / 2
        return box(label, *(center - extent).tolist(), *(center + extent).tolist(), track=track)
    if len(values) < 2 * 3:
        raise ValueError(f"{len(values)} coordinates")
    return Shape(label=label, track=track, contours=((values.reshape(-1, 2) * size).astype(np.float32),))


def _class_names(folder: Path) -> dict[str, str]:
    """Names of the classes by number, from `names` in data.yaml: a list or a mapping."""
    files = [path for name in ("data.yaml", "data.yml") if (path := folder / name).is_file()]
    text = files[0].read_text(encoding="utf-8") if files else ""
    match = re.search(r"^names:[ \t]*(\S.*)?$((?:\n[ \t-].*)*)", text, re.MULTILINE)
    if match is None:
        return {}
    inline = (match[1] or "").strip("[]{} ")
    items = inline.split(",") if inline else match[2].strip().splitlines()
    names = {}
    for number, item in enumerate(items):
        key, colon, value = item.strip().lstrip("- ").partition(":")
        names[key.strip() if colon else str(number)] = (value if colon else key).strip(" '\"")
    return names
