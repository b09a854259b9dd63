"""A clip whose frames have masks: frames and masks read side by side. Needs neither TensorFlow nor Keras."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import DatasetError, SourceError
from polypstream.train.data import read_mask

Rgb = NDArray[np.uint8]


def labelled_frames(clip: Path, masks: Path) -> Iterator[tuple[Rgb, NDArray[np.bool_]]]:
    """Every frame, uint8 RGB (H, W, 3) at its coded size, with its mask, bool (H, W), in presentation order.

    The mask of a frame is `masks/NNNNN.png`, the number being the frame's, counted from 0; rotation is not applied.
    Raises `SourceError` where the clip cannot be read. From the first frame without a usable mask on nothing is given,
    and at the end one `DatasetError` lists every frame without a mask, mask without a frame, unreadable mask and mask
    of another size than its frame.
    """
    files = mask_files(masks)
    problems, index = [], -1
    for index, rgb in enumerate(_frames(clip)):
        try:
            truth = _frame_mask(files, index, rgb)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if not problems:
            yield rgb, truth
    problems += [f"{files[extra]} belongs to no frame" for extra in sorted(files) if extra > index]
    if problems:
        raise DatasetError(f"{clip} has {index + 1} frames, {masks} {len(files)} masks: {'; '.join(problems)}")


def mask_files(folder: Path) -> dict[int, Path]:
    """The masks in a folder by their frame's number; raises `DatasetError` where there are none."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder of masks at {folder}; it should hold 00000.png, 00001.png, …")
    files = {int(path.stem): path for path in sorted(folder.glob("*.png")) if path.stem.isdecimal()}
    if not files:
        raise DatasetError(f"{folder} holds no masks; it should hold 00000.png, 00001.png, …")
    return files


def _frame_mask(files: Mapping[int, Path], index: int, rgb: Rgb) -> NDArray[np.bool_]:
    if index not in files:
        raise DatasetError(f"frame {index} has no mask")
    mask = read_mask(files[index])
    if mask.shape != rgb.shape[:2]:
        sizes = f"{mask.shape[1]}x{mask.shape[0]}", f"{rgb.shape[1]}x{rgb.shape[0]}"
        raise DatasetError(f"{files[index]} is {sizes[0]} but its frame is {sizes[1]}")
    return mask


def _frames(clip: Path) -> Iterator[Rgb]:
    import av  # a machine for training only may lack it

    try:
        with av.open(str(clip)) as container:
            if not container.streams.video:
                raise SourceError(f"{clip} has no video stream; give a video file")
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    except (av.FFmpegError, FileNotFoundError) as error:
        raise SourceError(f"{clip} cannot be read as a video ({error.strerror or error}); check --video") from error
