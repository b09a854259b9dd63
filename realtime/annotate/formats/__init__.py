"""Export of annotated recordings to the formats that annotation tools, editors and training code read.

Importing this module loads nothing else, so that the command line can list the formats quickly.
"""

from enum import StrEnum


class ExportFormat(StrEnum):
    """Values of `--format`."""

    JSONL = "jsonl"
    """The records, which annotation always writes."""
    CSV = "csv"
    COCO = "coco"
    CVAT = "cvat"
    YOLO = "yolo"
    LABEL_STUDIO = "label-studio"
    VOC = "voc"
    MASKS = "masks"
    WEBVTT = "webvtt"
    EDL = "edl"
    DICOM_SEG = "dicom-seg"
    """For DICOM video only."""


class PushTarget(StrEnum):
    """Servers that a recording can be pushed to."""

    CVAT = "cvat"
    LABEL_STUDIO = "label-studio"
