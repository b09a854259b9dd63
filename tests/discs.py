"""Images that a network can learn in seconds: a bright disc on a dark, noisy background, and its mask."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.train.data import Pair, Samples


def disc_picture(index: int, *, height: int = 32, width: int = 32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """RGB (H, W, 3) and mask 0 or 255 (H, W), both uint8."""
    rng = np.random.default_rng(index)
    mask = np.zeros((height, width), np.uint8)
    radius = int(rng.integers(min(height, width) // 5, min(height, width) // 3))
    center = int(rng.integers(radius, width - radius)), int(rng.integers(radius, height - radius))
    cv2.circle(mask, center, radius, 255, -1)
    rgb = rng.integers(20, 60, (height, width, 3), dtype=np.uint8)
    rgb[mask > 0] += np.array([160, 110, 90], np.uint8)
    return rgb, mask


def disc_samples(count: int, *, first: int = 0, dataset: str = "discs") -> Samples:
    pictures = [disc_picture(index) for index in range(first, first + count)]
    names = [Path(f"{index:03d}.png") for index in range(first, first + count)]
    return Samples(
        pairs=tuple(Pair(dataset=dataset, image=name, mask=name) for name in names),
        rgb=np.stack([rgb for rgb, _ in pictures]),
        masks=np.stack([mask // 255 for _, mask in pictures]),
    )


def write_discs(
    folder: Path, count: int, *, layout: tuple[str, str] = ("images", "masks"), suffix: str = ".png"
) -> Path:
    """Write a data set with files 000, 001, …; returns its folder."""
    for part in layout:
        (folder / part).mkdir(parents=True)
    for index in range(count):
        rgb, mask = disc_picture(index)
        write_picture(folder / layout[0] / f"{index:03d}{suffix}", rgb)
        write_picture(folder / layout[1] / f"{index:03d}{suffix}", mask)
    return folder


def write_picture(path: Path, picture: NDArray[np.uint8]) -> None:
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    path.write_bytes(cv2.imencode(path.suffix, bgr)[1].tobytes())
