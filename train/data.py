"""Image-mask pairs on disk: finding, reading and loading them."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Mask, Rgb
from polypstream.content import CropRule, crop_of
from polypstream.errors import DatasetError
from polypstream.train.image_files import MaskFile, MaskValues, read_mask_file, read_rgb, read_stored_rgb

LAYOUTS = (("images", "masks"), ("Original", "Ground Truth"))
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and its mask, as files."""

    dataset: str
    image: Path
    mask: Path
    mask_values: MaskValues | None = None
    """Mask values that mean polyp; None: detected automatically."""

    @property
    def key(self) -> tuple[str, str]:
        """Key of this pair in a splits file: the data set's folder in lower case, and the image's stem."""
        return self.dataset.lower(), self.image.stem


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Loaded pairs of one size: `rgb` uint8 (n, H, W, 3) and `masks` uint8 0 or 1 (n, H, W)."""

    pairs: tuple[Pair, ...]
    rgb: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)


def pairs_from_folders(folders: Sequence[Path], *, mask_values: MaskValues | None = None) -> list[Pair]:
    """Find the image-mask pairs of several data sets.

    Args:
        folders: Data sets: folders that hold `images/` and `masks/`, or `Original/` and `Ground Truth/`.
        mask_values: Mask values that mean polyp; None: detected automatically.

    Returns:
        The pairs in the order of the folders, each data set sorted by name.

    Raises:
        DatasetError: One error that lists all problems: unknown layout, images without a mask, masks without an
            image, duplicate names, unusable files.
    """
    names = [folder.resolve().name.lower() for folder in folders]
    problems = [f"two data folders are called '{name}'" for name in sorted(set(names)) if names.count(name) > 1]
    pairs: list[Pair] = []
    for folder in folders:
        found, faults = _paired(folder, mask_values)
        pairs += found
        problems += faults
    if problems:
        raise DatasetError("; ".join([*problems, *filter(None, map(_fault, pairs))]))
    return pairs


def pairs_from_folder(folder: Path) -> list[Pair]:
    """Find the pairs of one data set, sorted by name; raises as `pairs_from_folders` does."""
    return pairs_from_folders([folder])


def _paired(folder: Path, mask_values: MaskValues | None) -> tuple[list[Pair], list[str]]:
    """The pairs in a data set's folder, and problems with its other files."""
    for image_folder, mask_folder in LAYOUTS:
        if (folder / image_folder).is_dir() and (folder / mask_folder).is_dir():
            images, masks = _by_stem(folder / image_folder), _by_stem(folder / mask_folder)
            break
    else:
        wanted = " or ".join(f"'{a}/' and '{b}/'" for a, b in LAYOUTS)
        return [], [f"{folder} is not a data set: it should hold {wanted}"]
    if not images and not masks:
        return [], [f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"]
    faults = [f"no mask for {images[stem][0].name}" for stem in sorted(images.keys() - masks.keys())]
    faults += [f"no image for mask {masks[stem][0].name}" for stem in sorted(masks.keys() - images.keys())]
    for files in (*images.values(), *masks.values()):
        if len(files) > 1:
            faults.append(f"{' and '.join(file.name for file in files)} in {files[0].parent.name}/ share one name")
    stems = sorted(images.keys() & masks.keys())
    name = folder.resolve().name
    pairs = [Pair(dataset=name, image=images[stem][0], mask=masks[stem][0], mask_values=mask_values) for stem in stems]
    return pairs, [f"{folder}: {'; '.join(faults)}"] if faults else []


def _fault(pair: Pair) -> str | None:
    try:
        read_pair(pair)
    except DatasetError as error:
        return str(error)
    return None


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith("."):
            found.setdefault(path.stem, []).append(path)
    return found


def read_pair(pair: Pair) -> tuple[Rgb, Mask]:
    """Read an image and its mask.

    Args:
        pair: The two files. The EXIF rotation of the image is applied, unless the mask has the shape of the image
            as stored.

    Returns:
        Image, uint8 RGB (H, W, 3), and mask, bool (H, W).

    Raises:
        DatasetError: One or both cannot be used; the message lists all problems.
    """
    rgb, mask = _read(pair)
    return rgb, mask.mask


def _read(pair: Pair) -> tuple[Rgb, MaskFile]:
    problems = []
    try:
        rgb = read_rgb(pair.image)
    except DatasetError as error:
        problems.append(str(error))
    try:
        mask = read_mask_file(pair.mask, pair.mask_values)
    except DatasetError as error:
        problems.append(str(error))
    if not problems and rgb.shape[:2] != mask.mask.shape:
        stored = read_stored_rgb(pair.image)
        if stored.shape[:2] == mask.mask.shape:
            return stored, mask
        sizes = f"{rgb.shape[1]}x{rgb.shape[0]}", f"{mask.mask.shape[1]}x{mask.mask.shape[0]}"
        problems.append(f"{pair.image} is {sizes[0]} but its mask is {sizes[1]}")
    if problems:
        raise DatasetError("; ".join(problems))
    return rgb, mask


class PairReader:
    """Reads pairs, and detects problems that only show across many masks: several classes, and inverted masks."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Path]] = {}
        """Per data set, each value that meant polyp, and the first mask in which it did."""
        self._masks: dict[str, list[bool]] = {}
        """Per data set and mask, whether it looks inverted."""

    def read(self, pair: Pair) -> tuple[Rgb, Mask]:
        """Read one pair, as `read_pair` does. May be called from several threads."""
        rgb, found = _read(pair)
        if found.value:
            self._values.setdefault(pair.dataset, {}).setdefault(found.value, pair.mask)
        if not pair.mask_values:
            self._masks.setdefault(pair.dataset, []).append(found.looks_inverted)
        return rgb, found.mask

    @property
    def problems(self) -> list[str]:
        """Problems with the masks read so far, one sentence per data set."""
        found = []
        for dataset, values in self._values.items():
            if len(values) > 1:
                files = " and ".join(f"{value} in {path}" for value, path in sorted(values.items())[:3])
                found.append(
                    f"the masks of {dataset} mark with different values ({files}), which may be classes; "
                    "say which mean polyp: --mask-values"
                )
        for dataset, inverted in self._masks.items():
            if sum(inverted) > len(inverted) / 2:
                found.append(
                    f"the masks of {dataset} look inverted: {sum(inverted)} of {len(inverted)} are white around "
                    "black; if black marks the polyp, give --mask-values 0"
                )
        return found


def load_splits(
    pairs: Mapping[str, Sequence[Pair]], *, height: int, width: int, crop: CropRule = "none", workers: int = 4
) -> dict[str, Samples]:
    """Load several splits, given by name; one `DatasetError` lists the unusable pairs of all of them."""
    empty = [name for name, some in pairs.items() if not some]
    if empty:
        raise DatasetError(f"there are no images for {' and '.join(empty)}; check the data folders and the splits file")
    loaded = load_samples(
        [pair for some in pairs.values() for pair in some], height=height, width=width, crop=crop, workers=workers
    )
    samples, start = {}, 0
    for name, some in pairs.items():
        part = slice(start, start + len(some))
        samples[name] = Samples(pairs=loaded.pairs[part], rgb=loaded.rgb[part], masks=loaded.masks[part])
        start += len(some)
    without = [name for name, some in samples.items() if not some.masks.any()]
    if without:
        raise DatasetError(
            f"no mask for {' and '.join(without)} shows a polyp ({', '.join(str(len(samples[n])) for n in without)} "
            "images); check the masks, the data folders and the splits file"
        )
    return samples


def load_samples(
    pairs: Iterable[Pair], *, height: int, width: int, crop: CropRule = "none", workers: int = 4
) -> Samples:
    """Load pairs, crop image and mask by the rule, and scale them.

    One `DatasetError` lists every unreadable or mismatched pair.
    """
    pairs, reader = tuple(pairs), PairReader()
    if not pairs:
        raise DatasetError("there are no images to load; check the data folders and the split")
    rgb = np.empty((len(pairs), height, width, 3), dtype=np.uint8)
    masks = np.empty((len(pairs), height, width), dtype=np.uint8)

    def load(index: int) -> str | None:
        try:
            image, mask = reader.read(pairs[index])
        except DatasetError as error:
            return str(error)
        part = crop_of(image, crop)
        image, mask = part.of(image), part.of(mask)
        rgb[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        masks[index] = coverage >= 0.5
        return None

    with ThreadPoolExecutor(workers) as pool:
        problems = [problem for problem in pool.map(load, range(len(pairs))) if problem]
    if problems:
        raise DatasetError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {'; '.join(problems)}")
    if reader.problems:
        raise DatasetError("; ".join(reader.problems))
    return Samples(pairs=pairs, rgb=rgb, masks=masks)
