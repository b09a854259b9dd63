"""Labels of a video in the form that every reader returns: shapes by frame, in pixels of the upright frame."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from polypstream.arrays import Contour, Mask
from polypstream.errors import DatasetError
from polypstream.realtime.outlines.contours import mask_from_polyps, polyp_from_contour

_POLYP_NAMES = ("polyp", "lesion", "adenoma")
_FRAME_NUMBER = re.compile(r"^(.*?)[_-]?(\d+)$")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One labeled polyp in one frame: polygons, a bitmap or a box."""

    label: str
    track: str | None = None
    """Track id of the polyp; None if the export has no tracks."""
    contours: tuple[Contour, ...] = ()
    """Polygons, float32 (n, 2) each; the shape is their union."""
    bitmap: Callable[[], Mask] | None = None
    """Decodes a bitmap, bool (h, w), with its upper left pixel at `offset`."""
    offset: tuple[int, int] = (0, 0)
    """Column and row."""
    is_box: bool = False
    """Whether the shape is a bounding box rather than an outline."""

    def mask(self, width: int, height: int) -> Mask:
        """The pixels of the shape in a frame of `width` × `height`, bool (height, width)."""
        polyps = [polyp_from_contour(contour, score=1.0) for contour in self.contours if len(contour) > 2]
        mask = mask_from_polyps(polyps, width=width, height=height)
        if self.bitmap is not None:
            bitmap, (left, top) = self.bitmap(), self.offset
            rows, columns = slice(max(top, 0), min(top + bitmap.shape[0], height)), slice(max(left, 0), width)
            part = bitmap[rows.start - top : rows.stop - top, columns.start - left :][:, : width - columns.start]
            mask[rows, columns.start : columns.start + part.shape[1]] |= part
        return mask


def box(label: str, left: float, top: float, right: float, bottom: float, *, track: str | None = None) -> Shape:
    """Create a box from its edges in pixels."""
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)
    return Shape(label=label, track=track, contours=(corners,), is_box=True)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of one video."""

    path: Path
    format: str
    """Name of the format, for messages."""
    at: Callable[[int], Sequence[Shape]]
    """The shapes of a frame, by its index from 0."""
    labeled: Collection[int] | None = None
    """Labeled frames, including clean ones; None for all."""
    last_index: int = -1
    """Largest frame number in the export."""
    frame_count: int | None = None
    """Number of frames of the labeled video, if the export states it."""
    size: tuple[int, int] | None = None
    """Width and height of the labeled frames, if the export states it."""
    notices: tuple[str, ...] = ()

    def is_labeled(self, index: int) -> bool:
        """Whether the frame was labeled; a labeled frame without shapes is clean."""
        return self.labeled is None or index in self.labeled

    def masks(self, index: int, *, width: int, height: int) -> list[tuple[Shape, Mask]]:
        """The shapes of a frame with their masks, without empty ones."""
        drawn = [(shape, shape.mask(width, height)) for shape in self.at(index)]
        return [(shape, mask) for shape, mask in drawn if mask.any()]

    def check(self, *, frames: int, size: tuple[int, int], video: str) -> None:
        """Check that the labels belong to a video.

        Args:
            frames: Number of frames of the video.
            size: Width and height of its upright frames.
            video: Its name, for the message.

        Raises:
            DatasetError: The export states another number of frames or another size.
        """
        if self.frame_count is not None and self.frame_count != frames:
            raise DatasetError(
                f"{self.path} labels a video of {self.frame_count} frames, {video} has {frames}: the labels "
                "would not match; give the video that was labeled, not a converted copy of it"
            )
        if self.last_index >= frames:
            raise DatasetError(
                f"{self.path} labels frame {self.last_index}, {video} ends with frame {frames - 1}; "
                "give the video that was labeled"
            )
        if self.size is not None and self.size != size:
            sizes = ["x".join(map(str, each)) for each in (self.size, size)]
            raise DatasetError(
                f"{self.path} labels frames of {sizes[0]}, the upright frames of {video} have {sizes[1]}; "
                "give the video that was labeled, or label it in its own size"
            )


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Properties of the video that readers need, and the labels that mean polyp."""

    video: str
    """File name of the video."""
    size: tuple[int, int]
    """Width and height of an upright frame."""
    labels: tuple[str, ...] = ()
    """Names of the labels that mean polyp; empty: detected automatically."""
    names: Mapping[str, int] | None = None
    """Index of each frame by its name without a suffix, from the table of frames."""

    @property
    def stem(self) -> str:
        """Name of the video without its suffix."""
        return Path(self.video).stem

    def polyp_labels(self, found: Iterable[str], path: Path) -> set[str]:
        """Select the label names that mean polyp. Raises `DatasetError` if that is unclear."""
        found = set(found)
        if self.labels:
            if unknown := set(self.labels) - found:
                raise DatasetError(
                    f"{path} has no label {', '.join(sorted(unknown))}; it has {', '.join(sorted(found)) or 'none'}"
                )
            return set(self.labels)
        if len(found) <= 1:
            return found
        polyps = {name for name in found if any(word in name.lower() for word in _POLYP_NAMES)}
        if not polyps:
            raise DatasetError(
                f"{path} has the labels {', '.join(sorted(found))}; say which mean polyp: --label NAME for each"
            )
        return polyps

    def indices(self, files: Iterable[str], path: Path) -> dict[str, int]:
        """Frame index of each file of the export that belongs to the video, by the given name.

        Names end with the frame's number, as in `clip_000012.png`. If there are files of several videos, those that
        start with this video's name are used.

        Raises:
            DatasetError: A name has no number, two have the same one, or no file belongs to the video.
        """
        stems = {name: _stem(name) for name in files}
        if self.names is not None:
            known = {name: self.names[stem] for name, stem in stems.items() if stem in self.names}
            if known or not stems:
                return known
        numbered = {name: match for name, stem in stems.items() if (match := _FRAME_NUMBER.match(stem))}
        if unclear := sorted(stems.keys() - numbered.keys()):
            raise DatasetError(f"{path}: {unclear[0]} does not end with a frame number, as {self.stem}_000012 does")
        prefixes = Counter(match[1] for match in numbered.values())
        if len(prefixes) > 1 and self.stem not in prefixes:
            raise DatasetError(
                f"{path} has frames of {len(prefixes)} videos ({', '.join(sorted(prefixes)[:8])}), none of which is "
                f"{self.stem}; rename the video as in the export"
            )
        prefix = self.stem if self.stem in prefixes else next(iter(prefixes), "")
        result = {name: int(match[2]) for name, match in numbered.items() if match[1] == prefix}
        if len(set(result.values())) < len(result):
            raise DatasetError(f"{path}: two files have the same frame number")
        return result


def _stem(name: str) -> str:
    stem = name.replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"\.[A-Za-z]\w{1,4}$", "", stem)


def by_frame(shapes: Iterable[tuple[int, Shape]]) -> Mapping[int, list[Shape]]:
    """Group shapes by frame."""
    grouped: dict[int, list[Shape]] = {}
    for index, shape in shapes:
        grouped.setdefault(index, []).append(shape)
    return grouped


def lookup(shapes: Mapping[int, Sequence[Shape]]) -> Callable[[int], Sequence[Shape]]:
    """Return a function for `Labels.at` that looks up shapes in memory."""
    return lambda index: shapes.get(index, ())
