"""The pictures that narrow precisions are fitted to: real ones from folders, and the dark ones that video brings."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polypstream.errors import ConfigError, DatasetError
from polypstream.export.session import Pictures
from polypstream.train.data import IMAGE_SUFFIXES, LAYOUTS, pairs_from_folders, read_rgb
from polypstream.train.splits import split_pairs, splits_from_csv

FEWEST = 8
MOST = 96
"""More tell nothing new; those taken are spread evenly over the folders."""


def calibration_pictures(folders: Sequence[Path], *, splits: Path | None, height: int, width: int) -> Pictures:
    """Up to `MOST` pictures, scaled to a model's size, from folders of images or data sets as training reads them.

    With a splits file, training images only: its `grouped` column says which, and the folders must be data sets.
    Raises `DatasetError` where a folder holds no images, the splits do not fit or a file is unreadable, `ConfigError`
    where there are fewer than `FEWEST`.
    """
    paths = _image_paths(folders) if splits is None else _training_paths(folders, splits)
    if len(paths) < FEWEST:
        raise ConfigError(
            f"there are {len(paths)} images to calibrate on; give at least {FEWEST}, better {MOST}, with --calibration"
        )
    chosen = np.linspace(0, len(paths) - 1, min(MOST, len(paths))).astype(int)
    scaled = [cv2.resize(read_rgb(paths[index]), (width, height), interpolation=cv2.INTER_AREA) for index in chosen]
    return np.asarray(scaled, np.uint8)


def with_dark_ones(pictures: Pictures) -> Pictures:
    """The pictures, some again within the black surround of an endoscope, and the black one of a covered lens."""
    _, height, width, _ = pictures.shape
    black = np.zeros((1, height, width, 3), np.uint8)
    surrounded = np.repeat(black, len(pictures[::4]), axis=0)
    top, left = height // 8, width // 6
    inside = (width - 2 * left, height - 2 * top)
    for target, picture in zip(surrounded, pictures[::4], strict=True):
        target[top : height - top, left : width - left] = cv2.resize(picture, inside, interpolation=cv2.INTER_AREA)
    return np.concatenate([pictures, surrounded, black])


def _image_paths(folders: Sequence[Path]) -> list[Path]:
    paths = []
    for folder in folders:
        images = next((folder / name for name, _ in LAYOUTS if (folder / name).is_dir()), folder)
        try:
            found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be read ({error.strerror}); check --calibration") from error
        if not found:
            raise DatasetError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check --calibration")
        paths += found
    return paths


def _training_paths(folders: Sequence[Path], splits: Path) -> list[Path]:
    pairs = pairs_from_folders(folders)
    return [pair.image for pair in split_pairs(pairs, splits_from_csv(splits, "grouped"), "train")]
