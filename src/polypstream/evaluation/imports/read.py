"""Opens an export of labels: detects its format, unpacks archives, and reads the frame table next to it."""

import csv
import json
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.coco import read_coco
from polypstream.evaluation.imports.cvat import read_cvat
from polypstream.evaluation.imports.folders import read_mask_folder, read_voc
from polypstream.evaluation.imports.label_studio import read_label_studio
from polypstream.evaluation.imports.labels import Labels, Wanted
from polypstream.evaluation.imports.yolo import read_yolo
from polypstream.train.image_files import MaskValues

_TABLE_SUFFIX = "_frames.csv"
_TABLE_COLUMNS = ("frame", "name", "seconds")
_TABLE_TOLERANCE_S = 0.0015
"""Tolerance in seconds: containers may round times to milliseconds."""


@dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """How labels are read."""

    labels: tuple[str, ...] = ()
    """Names of the labels that mean polyp; empty: detected automatically."""
    table: Path | None = None
    """Frame table that belongs to the export; None: `<video>_frames.csv` next to the export, if present."""
    mask_values: MaskValues | None = None
    """Mask values that mean polyp in a folder of masks; None: detected automatically."""
    are_complete: bool = False
    """Whether a folder of masks must contain one for every frame."""

    @contextmanager
    def open(self, export: Path, *, video: str, size: tuple[int, int], times_s: Sequence[float]) -> Iterator[Labels]:
        """Read the labels of a video, and check that they belong to it.

        Args:
            export: A file or folder: CVAT XML, COCO, YOLO, Label Studio, Pascal VOC, or a folder of masks; may be
                zipped.
            video: File name of the video.
            size: Width and height of its upright frames.
            times_s: Presentation time of each of its frames in seconds.

        Yields:
            The labels.

        Raises:
            DatasetError: The format is unknown, or the labels belong to another video.
        """
        with _unpacked(export) as place:
            table = self.table or _table_next_to(export, video)
            names = None if table is None else _names(table, video, times_s)
            wanted = Wanted(video=video, size=size, labels=self.labels, names=names)
            found = _read(place, wanted, self.mask_values)
            found.check(frames=len(times_s), size=size, video=video)
            yield found


@contextmanager
def _unpacked(export: Path) -> Iterator[Path]:
    if not export.exists():
        raise DatasetError(f"there is no export at {export}; check the path")
    if export.is_dir() or not zipfile.is_zipfile(export):
        yield export
        return
    with TemporaryDirectory() as folder, zipfile.ZipFile(export) as archive:
        try:
            archive.extractall(folder)
        except (zipfile.BadZipFile, RuntimeError, OSError) as error:
            raise DatasetError(f"{export} cannot be unpacked ({error}); export it again") from None
        yield Path(folder)


def _read(place: Path, wanted: Wanted, mask_values: MaskValues | None) -> Labels:
    if place.is_file():
        return _read_file(place, wanted)
    for name in ("annotations.xml", "annotations/*.json", "*.json"):
        files = sorted(place.glob(name))
        if len(files) > 1:
            raise DatasetError(f"{place} holds {len(files)} files {name}; give one of them")
        if files:
            return _read_file(files[0], wanted)
    if (place / "labels").is_dir():
        return read_yolo(place, wanted)
    if any(place.glob("*.xml")):
        return read_voc(place, wanted)
    if any(place.glob("*.png")):
        return read_mask_folder(place, wanted, mask_values)
    raise DatasetError(
        f"{place} is not a supported export; give an annotations.xml of CVAT, a COCO or Label Studio JSON file, or "
        "a folder of YOLO labels, Pascal VOC files or masks"
    )


def _read_file(path: Path, wanted: Wanted) -> Labels:
    if path.suffix.lower() == ".xml":
        return read_cvat(path, wanted)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is neither XML nor JSON ({error}); give an export of labels") from None
    if isinstance(data, dict) and {"images", "annotations"} <= data.keys():
        return read_coco(path, wanted)
    tasks = data if isinstance(data, list) else [data]
    if tasks and all(isinstance(task, dict) and "data" in task for task in tasks):
        return read_label_studio(path, wanted)
    raise DatasetError(f"{path} is neither COCO nor an export of Label Studio; export the labels in one of them")


def _table_next_to(export: Path, video: str) -> Path | None:
    """The frame table written with the export; None if there is no such file, or it is not a frame table."""
    path = export.with_name(f"{Path(video).stem}{_TABLE_SUFFIX}")
    if not path.is_file():
        return None
    header = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip().split(",")
    return path if set(_TABLE_COLUMNS) <= set(header) else None


def _names(table: Path, video: str, times_s: Sequence[float]) -> dict[str, int]:
    """Frame index by name, from a frame table whose times must match the video."""
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            rows = [(row["name"], int(row["frame"]), float(row["seconds"])) for row in csv.DictReader(lines)]
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(
            f"{table} is not a frame table ({error!r}); its columns must include frame, name and seconds"
        ) from None
    if len(rows) != len(times_s):
        raise DatasetError(f"{table} has {len(rows)} frames, {video} {len(times_s)}; give the video that was annotated")
    for name, index, seconds in rows:
        if not 0 <= index < len(times_s) or abs(times_s[index] - seconds) > _TABLE_TOLERANCE_S:
            at = f"{times_s[index]:.3f} s" if 0 <= index < len(times_s) else "not there"
            raise DatasetError(
                f"frame {index} ({name}) is at {seconds:.3f} s in {table}, in {video} {at}; "
                "give the video that was annotated"
            )
    return {name: index for name, index, _ in rows}
