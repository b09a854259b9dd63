"""Calibration images for reduced precision: images from folders, plus the dark frames that occur in video."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from polypstream.content import CropRule, crop_of
from polypstream.errors import ConfigError, DatasetError
from polypstream.export.graph import Images
from polypstream.train.data import IMAGE_SUFFIXES, LAYOUTS, pairs_from_folders
from polypstream.train.image_files import read_rgb
from polypstream.train.splits import split_pairs, splits_from_csv

FEWEST = 8
MOST = 96
"""Upper limit, as more images do not improve the result; they are spread evenly over the folders."""


def calibration_images(
    folders: Sequence[Path], *, splits: Path | None, height: int, width: int, crop: CropRule = "none"
) -> Images:
    """Read calibration images.

    Args:
        folders: Folders of images, or data sets in the layout that training reads.
        splits: CSV file whose `grouped` column names the training images; the folders must then be data sets.
        height: Height of the model's input.
        width: Width of the model's input.
        crop: Part of each image that the model receives.

    Returns:
        Up to `MOST` images, uint8 RGB (n, height, width, 3).

    Raises:
        DatasetError: A folder contains no images, the splits do not fit, or a file cannot be read.
        ConfigError: There are fewer than `FEWEST` images.
    """
    paths = _image_paths(folders) if splits is None else _training_paths(folders, splits)
    if len(paths) < FEWEST:
        raise ConfigError(
            f"{len(paths)} calibration images are too few; give at least {FEWEST}, better {MOST}, with --calibration"
        )
    chosen = np.linspace(0, len(paths) - 1, min(MOST, len(paths))).astype(int)
    images = (read_rgb(paths[index]) for index in chosen)
    shown = (crop_of(rgb, crop).of(rgb) for rgb in images)
    return np.asarray([cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA) for rgb in shown], np.uint8)


def with_dark_images(images: Images) -> Images:
    """Append dark images: some of the images within a black border, as endoscopes show it, and a black one."""
    _, height, width, _ = images.shape
    black = np.zeros((1, height, width, 3), np.uint8)
    surrounded = np.repeat(black, len(images[::4]), axis=0)
    top, left = height // 8, width // 6
    inside = (width - 2 * left, height - 2 * top)
    for target, image in zip(surrounded, images[::4], strict=True):
        target[top : height - top, left : width - left] = cv2.resize(image, inside, interpolation=cv2.INTER_AREA)
    return np.concatenate([images, surrounded, black])


def _image_paths(folders: Sequence[Path]) -> list[Path]:
    paths = []
    for folder in folders:
        images = next((folder / name for name, _ in LAYOUTS if (folder / name).is_dir()), folder)
        try:
            found = sorted(path for path in images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        except OSError as error:
            raise DatasetError(f"{folder} cannot be read ({error.strerror}); check --calibration") from error
        if not found:
            raise DatasetError(f"{folder} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}); check --calibration")
        paths += found
    return paths


def _training_paths(folders: Sequence[Path], splits: Path) -> list[Path]:
    pairs = pairs_from_folders(folders)
    return [pair.image for pair in split_pairs(pairs, splits_from_csv(splits, "grouped"), "train")]
