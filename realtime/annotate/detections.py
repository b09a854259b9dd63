"""The detection log, with which an interrupted annotation resumes without repeating inference.

It is stored next to the unfinished records and removed when they are complete. Each line holds the exact polyps of one
frame, with the frame's presentation time and a checksum of the network's input. A later run decodes the video from its
start and runs inference only on frames whose image is not in the log. Missing or wrong entries therefore change the
duration of a run, never its results.
"""

import json
import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from polypstream.files import write_atomically, write_error
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.outlines.content_area import ModelInput
from polypstream.realtime.outlines.contours import Polyp

FORMAT = 2
SUFFIX = ".detections"

Known = dict[tuple[int, int], tuple[Polyp, ...]]
"""Polyps by presentation time, in units of the time base, and image checksum."""


def log_path(records: Path) -> Path:
    """Path of the log that belongs to a records file."""
    return records.with_suffix(SUFFIX)


def image_checksum(image: ModelInput) -> int:
    """CRC-32 of a scaled frame and of the crop that the network receives."""
    shown = image.shown
    part = repr((image.rgb.shape, shown.top, shown.bottom, shown.left, shown.right))
    return zlib.crc32(np.ascontiguousarray(image.rgb).data, zlib.crc32(part.encode()))


def line_of(pts: int, checksum: int, polyps: Sequence[Polyp]) -> bytes:
    """One line of the log."""
    found = [
        [b64encode(each.contour.astype("<f4").tobytes()).decode(), each.box, each.area, each.score] for each in polyps
    ]
    return json.dumps([pts, checksum, found], separators=(",", ":")).encode() + b"\n"


def detection_key(resume_key: str, segmenter: Segmenter) -> str:
    """Key of everything that detections depend on: the video's content, settings, software version and backend."""
    return f"{resume_key} {version('polypstream')} {segmenter.backend}"


def header_of(key: str) -> bytes:
    """First line of the log.

    Args:
        key: See `detection_key`.
    """
    return json.dumps({"format": FORMAT, "key": key}).encode() + b"\n"


def known_from(data: bytes, key: str) -> tuple[Known, int]:
    """Read a log.

    Returns:
        Its detections, and the number of bytes up to the end of its last complete line; empty and 0 if the key
        differs.
    """
    header = header_of(key)
    if not data.startswith(header):
        return {}, 0
    known: Known = {}
    end = len(header)
    for line in data[end:].splitlines(keepends=True):
        try:
            pts, checksum, found = json.loads(line)
            polyps = tuple(_polyp(*each) for each in found)
        except (ValueError, TypeError, KeyError):
            break
        if not line.endswith(b"\n"):
            break
        known[pts, checksum] = polyps
        end += len(line)
    return known, end


def _polyp(contour: str, box: Sequence[float], area: float, score: float) -> Polyp:
    points = np.frombuffer(b64decode(contour, validate=True), "<f4").astype(np.float32).reshape(-1, 2)
    return Polyp(contour=points, box=(box[0], box[1], box[2], box[3]), area=area, score=score)


def write_detections(path: Path, key: str, lines: bytes) -> None:
    """Append detections computed elsewhere, as lines of `segments.detections_in`, to the log of an annotation.

    Raises:
        OutputError: If the log cannot be written.
    """
    data = path.read_bytes() if path.exists() else b""
    _, end = known_from(data, key)
    write_atomically(path, (data[:end] or header_of(key)) + lines)


class DetectionLog:
    """The log of a running annotation: detections of earlier runs, and those of this one.

    Args:
        path: See `log_path`. The file is created by the first `add` and deleted by `remove`.
        key: See `header_of`.

    Raises:
        OutputError: If it cannot be read.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._file: FileIO | None = None
        self._has_failed = False
        try:
            self._known, self._end = known_from(path.read_bytes() if path.exists() else b"", key)
        except OSError as error:
            raise write_error(path, error) from error

    def add(self, pts: int, image: ModelInput, polyps: Sequence[Polyp]) -> None:
        """Append the polyps of a frame; after a failure, such as a full disk, nothing more is logged."""
        if self._has_failed:
            return
        line = line_of(pts, image_checksum(image), polyps)
        try:
            if self._file is None:
                self._file = FileIO(self._path, "r+" if self._end else "w")
                self._file.truncate(self._end)
                self._file.seek(self._end)
                line = line if self._end else header_of(self._key) + line
            self._has_failed = self._file.write(line) < len(line)
        except OSError:
            self._has_failed = True

    def find(self, pts: int, image: ModelInput) -> tuple[Polyp, ...] | None:
        """The polyps of a frame if an earlier run inferred them, else None. May be called from any thread."""
        return self._known.get((pts, image_checksum(image))) if self._known else None

    def remove(self) -> None:
        """Delete the log: all results are complete."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
