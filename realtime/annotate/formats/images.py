"""Writes frames of the video as images, under the names used by the exports."""

from collections.abc import Sequence
from pathlib import Path

import cv2

from polypstream.errors import ConfigError, DatasetError
from polypstream.files import write_error
from polypstream.realtime.annotate.deidentify import case_name
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.coco import IMAGE_SUFFIX
from polypstream.realtime.annotate.formats.folders import SUBSET
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.video.reader import VideoReader

IMAGE_FOLDERS = {ExportFormat.COCO: Path("images"), ExportFormat.YOLO: Path("images", SUBSET)}
"""Folder of the images within the export, by format."""


def check_concealed(recording: Recording, video: Path) -> None:
    """Check that de-identified records are not combined with the original frames.

    Raises:
        ConfigError: If the records are de-identified and the video is their source.
    """
    if recording.summary.deidentification is not None and case_name(video).stem == recording.name:
        raise ConfigError(
            f"{video} shows whole frames, but {recording.records} is de-identified; give the overlay that was written "
            "with it"
        )


def write_images(recording: Recording, video: Path, folders: Sequence[Path]) -> None:
    """Write every frame as an upright PNG file into each of the folders.

    Args:
        recording: Records of the video.
        video: The video itself.
        folders: Existing folders.

    Raises:
        SourceError: The video cannot be read.
        DatasetError: It is not the video that was annotated.
        ConfigError: The records are de-identified, the video is not.
        OutputError: An image cannot be written.
    """
    check_concealed(recording, video)
    count = 0
    with VideoReader(video) as reader:
        size = (reader.info.width, reader.info.height)
        expected = (recording.summary.video.width, recording.summary.video.height)
        if size != expected:
            raise _other_video(recording, video, f"its frames have {size[0]}x{size[1]} pixels")
        for frame in reader.frames():
            upright = recording.rotation.image(cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
            _, png = cv2.imencode(IMAGE_SUFFIX, upright)
            for folder in folders:
                path = folder / f"{recording.frame_name(frame.index)}{IMAGE_SUFFIX}"
                try:
                    path.write_bytes(png.tobytes())
                except OSError as error:
                    raise write_error(path, error) from error
            count += 1
    if count != recording.summary.video.frames:
        raise _other_video(recording, video, f"it has {count} frames")


def _other_video(recording: Recording, video: Path, reason: str) -> DatasetError:
    facts = recording.summary.video
    return DatasetError(
        f"{video} is not the video of {recording.records}: {reason}, the records are of {facts.name} with "
        f"{facts.frames} frames of {facts.width}x{facts.height}; give that file"
    )
