"""Image–mask pairs on disk: finding them, reading them, and loading them as arrays of one size.

Reads Kvasir-SEG (`images/`, `masks/`) and CVC-ClinicDB (`Original/`, `Ground Truth/`) as their authors publish them,
and any other folder laid out in either way. Needs neither TensorFlow nor Keras.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import DatasetError

LAYOUTS = (("images", "masks"), ("Original", "Ground Truth"))
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"})
MASK_THRESHOLD = 127
"""A mask pixel above this is polyp: published masks are JPEGs too, with a ramp at every edge."""
MOST_GREY = 0.2
"""The largest share of pixels that a ramp may fill; above it the file is a photograph or a soft map, not a mask."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One image and its mask, as files."""

    dataset: str
    image: Path
    mask: Path

    @property
    def key(self) -> tuple[str, str]:
        """What a splits file calls this pair: the data set's folder in lower case, and the image's stem."""
        return self.dataset.lower(), self.image.stem


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Loaded pairs of one size: `rgb` uint8 (n, H, W, 3) and `masks` uint8 0 or 1 (n, H, W)."""

    pairs: tuple[Pair, ...]
    rgb: NDArray[np.uint8]
    masks: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pairs)


def pairs_from_folders(folders: Sequence[Path]) -> list[Pair]:
    """Every pair of several data sets, in the order given, each set sorted by name.

    Raises one `DatasetError` for all that is wrong with any of them: no known layout, images without a mask, masks
    without an image, names that two files share. The pairs there are have then been read too, and those that cannot be
    used are in the same list.
    """
    names = [folder.resolve().name.lower() for folder in folders]
    problems = [f"two data folders are called '{name}'" for name in sorted(set(names)) if names.count(name) > 1]
    pairs: list[Pair] = []
    for folder in folders:
        found, faults = _paired(folder)
        pairs += found
        problems += faults
    if problems:
        raise DatasetError("; ".join([*problems, *filter(None, map(_fault, pairs))]))
    return pairs


def pairs_from_folder(folder: Path) -> list[Pair]:
    """Every pair of one data set's folder, sorted by name; raises as `pairs_from_folders` does."""
    return pairs_from_folders([folder])


def _paired(folder: Path) -> tuple[list[Pair], list[str]]:
    """The pairs in a data set's folder, and what is wrong with the rest of it."""
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
    pairs = [Pair(dataset=folder.resolve().name, image=images[stem][0], mask=masks[stem][0]) for stem in stems]
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


def read_rgb(path: Path) -> NDArray[np.uint8]:
    """An image file as uint8 RGB (H, W, 3)."""
    bgr = _decoded(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file as bool (H, W), true where there is polyp.

    Raises `DatasetError` where it is not black and white: labels of 0 and 1, or shades of grey.
    """
    grey = _decoded(path, cv2.IMREAD_GRAYSCALE)
    mask = np.asarray(grey > MASK_THRESHOLD)
    if not mask.any() and grey.any():
        raise DatasetError(f"{path} is no black and white mask: its brightest pixel is {grey.max()} of 255")
    share = float(np.mean((grey > MASK_THRESHOLD // 4) & (grey < 255 - MASK_THRESHOLD // 4)))
    if share > MOST_GREY:
        raise DatasetError(f"{path} is no black and white mask: {share:.0%} of it is grey")
    return mask


def _decoded(path: Path, flags: int) -> NDArray[np.uint8]:
    try:
        data = path.read_bytes()
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except (OSError, cv2.error):
        picture = None
    if picture is None:
        raise DatasetError(f"{path} cannot be read as an image")
    return np.asarray(picture, dtype=np.uint8)


def read_pair(pair: Pair) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Image, uint8 RGB (H, W, 3), and mask, bool (H, W); `DatasetError` names all that is wrong with the two."""
    problems = []
    try:
        rgb = read_rgb(pair.image)
    except DatasetError as error:
        problems.append(str(error))
    try:
        mask = read_mask(pair.mask)
    except DatasetError as error:
        problems.append(str(error))
    if not problems and rgb.shape[:2] != mask.shape:
        sizes = f"{rgb.shape[1]}x{rgb.shape[0]}", f"{mask.shape[1]}x{mask.shape[0]}"
        problems.append(f"{pair.image} is {sizes[0]} but its mask is {sizes[1]}")
    if problems:
        raise DatasetError("; ".join(problems))
    return rgb, mask


def load_splits(
    pairs: Mapping[str, Sequence[Pair]], *, height: int, width: int, workers: int = 4
) -> dict[str, Samples]:
    """Load several splits, given by name; every pair that cannot be used, of all of them, is in one `DatasetError`."""
    empty = [name for name, some in pairs.items() if not some]
    if empty:
        raise DatasetError(f"there are no images for {' and '.join(empty)}; check the data folders and the splits file")
    loaded = load_samples(
        [pair for some in pairs.values() for pair in some], height=height, width=width, workers=workers
    )
    samples, start = {}, 0
    for name, some in pairs.items():
        part = slice(start, start + len(some))
        samples[name] = Samples(pairs=loaded.pairs[part], rgb=loaded.rgb[part], masks=loaded.masks[part])
        start += len(some)
    return samples


def load_samples(pairs: Iterable[Pair], *, height: int, width: int, workers: int = 4) -> Samples:
    """Load and scale pairs; every unreadable or mismatched one is listed in the one `DatasetError` raised."""
    pairs = tuple(pairs)
    if not pairs:
        raise DatasetError("there are no images to load; check the data folders and the split")
    rgb = np.empty((len(pairs), height, width, 3), dtype=np.uint8)
    masks = np.empty((len(pairs), height, width), dtype=np.uint8)

    def load(index: int) -> str | None:
        try:
            image, mask = read_pair(pairs[index])
        except DatasetError as error:
            return str(error)
        rgb[index] = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        coverage = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        masks[index] = coverage >= 0.5
        return None

    with ThreadPoolExecutor(workers) as pool:
        problems = [problem for problem in pool.map(load, range(len(pairs))) if problem]
    if problems:
        raise DatasetError(f"{len(problems)} of {len(pairs)} pairs cannot be used: {'; '.join(problems)}")
    return Samples(pairs=pairs, rgb=rgb, masks=masks)
