"""Import of corrected labels: frames, masks and splits of a video, added to a folder for training and evaluation."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError, DatasetError
from polypstream.evaluation.imports.labels import Labels
from polypstream.evaluation.imports.read import LabelOptions
from polypstream.evaluation.imports.video import VideoFrames, upright_frames
from polypstream.files import check_writable, write_atomically, write_error
from polypstream.train.splits import Split

SPLITS, VIDEOS = "splits.csv", "videos.json"
_SHARES: dict[Split, float] = {"train": 0.8, "val": 0.1, "test": 0.1}
_COLUMNS = ("dataset", "image", "grouped", "random")


class Boxes(StrEnum):
    """Handling of boxes, which are not outlines."""

    REFUSE = "refuse"
    FILL = "fill"
    """A box becomes a rectangular mask."""


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Which frames and labels are imported."""

    every: int = 1
    """Import the labeled frames whose index is a multiple of this."""
    max_clean_share: float = 0.5
    """Largest fraction of frames without a polyp; those imported are spread evenly. 1 imports all."""
    boxes: Boxes = Boxes.REFUSE
    split: Split | None = None
    """Split that the video is assigned to; None: the one furthest below its 80, 10 or 10%."""
    reading: LabelOptions = field(default_factory=LabelOptions)

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every is {self.every}; it must be at least 1")
        if not 0 <= self.max_clean_share <= 1:
            raise ConfigError(f"max_clean_share is {self.max_clean_share:g}; it must be between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Result of an import."""

    dataset: Path
    format: str
    """Format of the export."""
    split: Split
    polyp_frames: int
    clean_frames: int
    video_frames: int
    notices: tuple[str, ...]


def import_labels(
    export: Path,
    video: Path,
    dataset: Path,
    config: ImportConfig | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Add the labeled frames of a video to a data set.

    Frames are stored losslessly as `images/<video>_<index>.png`, upright, their masks as `masks/<video>_<index>.png`.
    `splits.csv` assigns all frames of one video to one split; rows of other videos and data sets are kept. Importing a
    video again replaces its frames and keeps its split.

    Args:
        export: Labels in any format that `LabelOptions.open` reads.
        video: The video that was labeled.
        dataset: Folder of the data set; created if necessary.
        config: Which frames are imported.
        on_progress: Called with the number of frames read and the total number of frames.

    Returns:
        Counts and notices.

    Raises:
        DatasetError: The export cannot be read, contains only boxes, or belongs to another video; or the data set
            contains another video of this name.
        SourceError: The video cannot be read.
        OutputError: The data set cannot be written.
    """
    config = config or ImportConfig()
    frames = VideoFrames.of(video)
    known = _videos(dataset)
    _check_name(video, known, len(frames.times_s))
    with config.reading.open(export, video=video.name, size=frames.size, times_s=frames.times_s) as labels:
        candidates = [index for index in range(0, len(frames.times_s), config.every) if labels.is_labeled(index)]
        positive = [index for index in candidates if labels.at(index)]
        filled = _check_boxes(labels, positive, config.boxes)
        clean = sorted(set(candidates) - set(positive))
        chosen = {*positive, *_spread(clean, _clean_limit(len(positive), config.max_clean_share))}
        if not chosen:
            raise DatasetError(f"{export} has no labeled frame of {video.name} that could be imported")
        notices = [*labels.notices, *filled]
        if labels.labeled is not None and (missing := len(frames.times_s) - len(labels.labeled)) > 0:
            notices.append(f"{missing} of {len(frames.times_s)} frames are not in the export; they are left out")
        if not frames.is_constant_rate and labels.format == "Label Studio":
            notices.append(
                "the video has a variable frame rate, Label Studio counts frames by time: check the frames, or label a "
                "constant-rate proxy"
            )
        for part in ("images", "masks"):
            check_writable(dataset / part)
        _remove(dataset, video.stem)
        written = _write_frames(labels, frames, dataset, chosen, on_progress)
    split = config.split or known.get(video.stem, {}).get("split") or _lacking(known)
    entry = {
        "video": video.name,
        "bytes": video.stat().st_size,
        "frames": len(frames.times_s),
        "imported": len(written),
        "split": split,
        "export": export.name,
        "format": labels.format,
    }
    write_atomically(dataset / VIDEOS, json.dumps({**known, video.stem: entry}, indent=1, sort_keys=True) + "\n")
    _write_splits(dataset, video.stem, written, split)
    return ImportReport(
        dataset=dataset,
        format=labels.format,
        split=split,
        polyp_frames=sum(written.values()),
        clean_frames=len(written) - sum(written.values()),
        video_frames=len(frames.times_s),
        notices=tuple(notices),
    )


def _check_boxes(labels: Labels, positive: Iterable[int], boxes: Boxes) -> tuple[str, ...]:
    count = sum(shape.is_box for index in positive for shape in labels.at(index))
    if count and boxes is Boxes.REFUSE:
        raise DatasetError(
            f"{labels.path} has {count} boxes instead of outlines: outline the polyps, use the export for "
            "evaluation only, or import boxes as filled rectangles with --boxes fill"
        )
    return (f"{count} boxes were filled: their masks are rectangles",) if count else ()


def _clean_limit(positive: int, share: float) -> int | None:
    """Largest number of clean frames for `share`; None for all."""
    if share >= 1 or (not positive and share > 0):
        return None
    return int(positive * share / (1 - share) + 1e-9)


def _spread(indices: Sequence[int], count: int | None) -> list[int]:
    """Select `count` indices at even distances."""
    if count is None or count >= len(indices):
        return list(indices)
    return [indices[int(place)] for place in (np.arange(count) + 0.5) * len(indices) / max(count, 1)]


def _write_frames(
    labels: Labels,
    frames: VideoFrames,
    dataset: Path,
    chosen: set[int],
    on_progress: Callable[[int, int], None] | None,
) -> dict[str, bool]:
    """Write images and masks; returns for each name whether it shows a polyp."""
    written = {}
    width, height = frames.size
    for index, rgb in upright_frames(frames.path):
        if index in chosen:
            name = f"{frames.path.stem}_{index:06d}"
            mask = np.zeros((height, width), np.bool_)
            for _, part in labels.masks(index, width=width, height=height):
                mask |= part
            _write_png(dataset / "images" / f"{name}.png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
            _write_png(dataset / "masks" / f"{name}.png", mask.astype(np.uint8) * 255)
            written[name] = bool(mask.any())
        if on_progress is not None:
            on_progress(index + 1, len(frames.times_s))
    return written


def _write_png(path: Path, image: NDArray[Any]) -> None:
    _, png = cv2.imencode(".png", image)
    try:
        path.write_bytes(png.tobytes())
    except OSError as error:
        raise write_error(path, error) from error


def _remove(dataset: Path, stem: str) -> None:
    """Remove the frames of an earlier import of the same video."""
    for part in ("images", "masks"):
        for path in (dataset / part).glob("*.png"):
            if _belongs(path.stem, stem):
                path.unlink()


def _belongs(name: str, stem: str) -> bool:
    prefix, _, number = name.rpartition("_")
    return prefix == stem and number.isdecimal()


def _videos(dataset: Path) -> dict[str, dict[str, Any]]:
    """The videos imported so far, by name without suffix."""
    path = dataset / VIDEOS
    if not path.exists():
        return {}
    try:
        found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); restore it, or import into another folder") from None


def _check_name(video: Path, known: dict[str, dict[str, Any]], frames: int) -> None:
    entry = known.get(video.stem)
    if entry is not None and (entry["bytes"], entry["frames"]) != (video.stat().st_size, frames):
        raise DatasetError(
            f"the data set has frames of another video named {video.stem} ({entry['frames']} frames, "
            f"{entry['bytes']} bytes); rename one of the videos"
        )


def _lacking(known: dict[str, dict[str, Any]]) -> Split:
    """The split furthest below its target size when a video of average length is added."""
    counts = {name: sum(each["imported"] for each in known.values() if each["split"] == name) for name in _SHARES}
    total = sum(counts.values()) * (1 + 1 / max(len(known), 1)) or 1
    return max(_SHARES, key=lambda name: _SHARES[name] - counts[name] / total)


def _write_splits(dataset: Path, stem: str, names: Iterable[str], split: Split) -> None:
    """Replace the video's rows in the splits file."""
    path, own = dataset / SPLITS, dataset.resolve().name
    rows: list[dict[str, str]] = []
    columns = list(_COLUMNS)
    if path.exists():
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns += [name for name in reader.fieldnames or () if name not in columns]
            rows = [row for row in reader if row["dataset"] != own or not _belongs(Path(row["image"]).stem, stem)]
    assert split in get_args(Split)
    rows += [{"dataset": own, "image": name, "grouped": split, "random": split} for name in names]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue())
