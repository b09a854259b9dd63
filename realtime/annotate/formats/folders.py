"""Exports that are folders with one file per frame: masks, YOLO and Pascal VOC; and their atomic writing."""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import PolypstreamError
from polypstream.files import write_error
from polypstream.realtime.annotate.formats.recording import LABEL, ExportFrame, Recording
from polypstream.realtime.outlines.contours import Polyp, mask_from_polyps


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A hidden temporary folder next to `path` that replaces it at the end of the block, or is deleted on an error.

    Args:
        path: The folder to create; an existing one is replaced.

    Yields:
        Path of the temporary folder.

    Raises:
        OutputError: If the folder cannot be written, or the block raises `OSError`.
    """
    unfinished = path.with_name(f".{path.name[:100]}-{token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if path.is_dir():
            older = unfinished.with_name(f"{unfinished.name}-old")
            path.rename(older)
            unfinished.rename(path)
            shutil.rmtree(older)
        else:
            unfinished.rename(path)
    except PolypstreamError:
        raise
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


UNTRACKED = 255
"""Value of a polyp without a track, or with an id above 254."""

_FAST = (cv2.IMWRITE_PNG_COMPRESSION, 1)


def write_masks(recording: Recording, path: Path) -> None:
    """Write a folder with an 8-bit gray PNG for every frame: 0 is background, other values are track ids.

    Polyps with an unknown id or one above 254 have the value 255. Where polyps overlap, the smaller one is on top.
    """
    width, height = recording.size
    with atomic_folder(path) as folder:
        for frame in recording.frames():
            shown = [
                (each.polyp, UNTRACKED if each.track is None else min(each.track, UNTRACKED)) for each in frame.polyps
            ]
            mask = labels_of(shown, width=width, height=height)
            _, png = cv2.imencode(".png", mask.astype(np.uint8), _FAST)
            (folder / f"{frame.name}.png").write_bytes(png.tobytes())


def labels_of(polyps: Iterable[tuple[Polyp, int]], *, width: int, height: int) -> NDArray[np.uint16]:
    """Draw polyps, each with its value, on zeros (H, W); where they overlap, the smaller one is on top."""
    labels = np.zeros((height, width), np.uint16)
    for polyp, value in sorted(polyps, key=lambda each: -each[0].area):
        _draw(labels, polyp, value)
    return labels


def _draw(labels: NDArray[np.uint16], polyp: Polyp, value: int) -> None:
    """Set the pixels that a polyp covers, within its bounding box."""
    left, top = np.maximum(np.floor(polyp.contour.min(axis=0)), 0).astype(int).tolist()
    right, bottom = np.ceil(polyp.contour.max(axis=0)).astype(int).tolist()
    part = labels[top:bottom, left:right]
    moved = replace(polyp, contour=polyp.contour - np.array([left, top], np.float32))
    part[mask_from_polyps([moved], width=part.shape[1], height=part.shape[0])] = value


SUBSET = "train"


def write_yolo(recording: Recording, path: Path) -> None:
    """Write the data set folder. Frames without polyps get an empty label file, which makes them negatives.

    A line is `0 x1 y1 x2 y2 …` in relative coordinates, clipped to 0…1. `images/train` remains empty; frames can be
    added under the same names.
    """
    size = np.array(recording.size, np.float64)
    with atomic_folder(path) as folder:
        labels = folder / "labels" / SUBSET
        labels.mkdir(parents=True)
        (folder / "images" / SUBSET).mkdir(parents=True)
        places = f"path: {json.dumps(str(path.absolute()))}\ntrain: images/{SUBSET}\nval: images/{SUBSET}\n"
        (folder / "data.yaml").write_text(f"{places}nc: 1\nnames: [{LABEL}]\n", encoding="utf-8")
        for frame in recording.frames():
            lines = [
                " ".join(["0", *(f"{value:.6f}" for value in np.clip(each.polyp.contour / size, 0, 1).ravel())])
                for each in frame.polyps
            ]
            (labels / f"{frame.name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


REAL_COLON_LABEL = "lesion"
"""Class name of polyps in REAL-Colon."""


def write_voc(recording: Recording, path: Path) -> None:
    """Write a folder of XML files, one per frame, `<name>_<index>.xml`; frames without polyps have no object.

    The edges of a box are rounded to pixels. `unique_id` is the recording's name and the track id.
    """
    with atomic_folder(path) as folder:
        for frame in recording.frames():
            tree = ET.ElementTree(_annotation(frame, recording))
            ET.indent(tree)
            tree.write(folder / f"{frame.name}.xml", encoding="utf-8")


def _annotation(frame: ExportFrame, recording: Recording) -> ET.Element:
    width, height = recording.size
    root = ET.Element("annotation")
    _add(root, "folder", recording.name)
    _add(root, "filename", f"{frame.name}.png")
    _add(ET.SubElement(root, "source"), "database", recording.summary.video.name)
    size = ET.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        _add(size, name, value)
    _add(root, "segmented", 0)
    for each in frame.polyps:
        left, top, across, down = each.polyp.box
        found = ET.SubElement(root, "object")
        _add(found, "name", REAL_COLON_LABEL)
        _add(found, "unique_id", f"{recording.name}_{'unknown' if each.track is None else each.track}")
        _add(found, "difficult", 0)
        box = ET.SubElement(found, "bndbox")
        _add(box, "xmin", _inside(left, width))
        _add(box, "ymin", _inside(top, height))
        _add(box, "xmax", _inside(left + across, width))
        _add(box, "ymax", _inside(top + down, height))
        _add(found, "score", f"{each.polyp.score:.4f}")
    return root


def _inside(edge: float, size: int) -> int:
    return max(0, min(round(edge), size - 1))  # limited as in the data set's reader


def _add(parent: ET.Element, name: str, text: object) -> None:
    ET.SubElement(parent, name).text = str(text)
