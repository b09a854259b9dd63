"""Image–mask pairs on disk: finding them, splitting them, and loading them as arrays.

Reads Kvasir-SEG (`images/`, `masks/`) and CVC-ClinicDB (`Original/`, `Ground Truth/`) as their authors publish them,
and any other folder laid out in either way. Needs neither TensorFlow nor Keras.
"""

import csv
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import DatasetError

LAYOUTS = (("images", "masks"), ("Original", "Ground Truth"))
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
MASK_THRESHOLD = 127
"""A mask pixel above this is polyp: published masks are JPEGs too, with a ramp at every edge."""

Split = Literal["train", "val", "test"]
SplitColumn = Literal["grouped", "random"]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and its mask, as files."""

    dataset: str
    image: Path
    mask: Path

    @property
    def key(self) -> tuple[str, str]:
        """What a splits file calls this pair: the data set's folder name and the image's stem."""
        return self.dataset, self.image.stem


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Loaded pairs of one size: `rgb` uint8 (n, H, W, 3) and `masks` uint8 0 or 1 (n, H, W)."""

    pairs: tuple[Pair, ...]
    rgb: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)


def pairs_from_folder(folder: Path) -> list[Pair]:
    """Every pair of a data set's folder, sorted by name.

    Raises `DatasetError` when the folder has no known layout, or listing every image without a mask and every mask
    without an image.
    """
    for image_folder, mask_folder in LAYOUTS:
        if (folder / image_folder).is_dir() and (folder / mask_folder).is_dir():
            images, masks = _by_stem(folder / image_folder), _by_stem(folder / mask_folder)
            break
    else:
        wanted = " or ".join(f"'{a}/' and '{b}/'" for a, b in LAYOUTS)
        raise DatasetError(f"{folder} is not a data set: it should hold {wanted}")
    alone = [f"no mask for {images[stem].name}" for stem in sorted(images.keys() - masks.keys())]
    alone += [f"no image for mask {masks[stem].name}" for stem in sorted(masks.keys() - images.keys())]
    if alone:
        raise DatasetError(f"{folder}: {'; '.join(alone)}")
    if not images:
        raise DatasetError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Pair(dataset=folder.resolve().name, image=images[s], mask=masks[s]) for s in sorted(images)]


def _by_stem(folder: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted(folder.iterdir()) if p.suffix.lower() in IMAGE_SUFFIXES}


def splits_from_csv(path: Path, column: SplitColumn) -> dict[tuple[str, str], str]:
    """Read `dataset,image,<column>` rows: which split each (data set, image stem) belongs to."""
    try:
        with path.open(newline="", encoding="utf-8") as lines:
            return {(row["dataset"], Path(row["image"]).stem): row[column] for row in csv.DictReader(lines)}
    except FileNotFoundError:
        raise DatasetError(f"no splits file at {path}; give one with --splits") from None
    except KeyError as missing:
        raise DatasetError(f"{path} has no column {missing}; it should have dataset, image and {column}") from None


def split_pairs(pairs: Iterable[Pair], splits: dict[tuple[str, str], str], split: Split) -> list[Pair]:
    """Those pairs that belong to `split`; a pair that the splits do not name is an error, all of them listed."""
    pairs = list(pairs)
    unnamed = [f"{pair.dataset}/{pair.image.name}" for pair in pairs if pair.key not in splits]
    if unnamed:
        raise DatasetError(f"{len(unnamed)} images are in no split: {', '.join(unnamed)}")
    return [pair for pair in pairs if splits[pair.key] == split]


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 RGB (H, W, 3)."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise DatasetError(f"{path} cannot be read as an image")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file as bool (H, W), true where there is polyp."""
    grey = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise DatasetError(f"{path} cannot be read as a mask")
    return np.asarray(grey > MASK_THRESHOLD)


def load_samples(pairs: Sequence[Pair], *, height: int, width: int, workers: int = 4) -> Samples:
    """Load and scale pairs; every unreadable or mismatched one is listed in the one `DatasetError` raised."""
    if not pairs:
        raise DatasetError("there are no images to load; check the data folders and the split")
    rgb = np.empty((len(pairs), height, width, 3), dtype=np.uint8)
    masks = np.empty((len(pairs), height, width), dtype=np.uint8)

    def load(index: int) -> str | None:
        pair = pairs[index]
        try:
            image, mask = read_rgb(pair.image), read_mask(pair.mask)
        except DatasetError as error:
            return str(error)
        if image.shape[:2] != mask.shape:
            sizes = f"{image.shape[1]}x{image.shape[0]}", f"{mask.shape[1]}x{mask.shape[0]}"
            return f"{pair.image} is {sizes[0]} but its mask is {sizes[1]}"
        rgb[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        masks[index] = coverage >= 0.5
        return None

    with ThreadPoolExecutor(workers) as pool:
        problems = [problem for problem in pool.map(load, range(len(pairs))) if problem]
    if problems:
        raise DatasetError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {'; '.join(problems)}")
    return Samples(pairs=tuple(pairs), rgb=rgb, masks=masks)
