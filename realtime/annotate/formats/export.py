"""The registry of formats, and the export of one recording to any of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.coco import write_coco
from polypstream.realtime.annotate.formats.cvat import KEYFRAME_TOLERANCE_PX, write_cvat
from polypstream.realtime.annotate.formats.dicom_seg import write_dicom_seg
from polypstream.realtime.annotate.formats.folders import write_masks, write_voc, write_yolo
from polypstream.realtime.annotate.formats.images import IMAGE_FOLDERS, write_images
from polypstream.realtime.annotate.formats.label_studio import write_label_studio
from polypstream.realtime.annotate.formats.markers import write_edl, write_webvtt
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.annotate.formats.tables import write_csv, write_frame_table


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """Writer of a format, and the suffix of its file or folder after the recording's name."""

    write: Callable[[Recording, Path], None]
    suffix: str


EXPORTERS: Mapping[ExportFormat, Exporter] = {
    ExportFormat.CSV: Exporter(write=write_csv, suffix="_polyps.csv"),
    ExportFormat.COCO: Exporter(write=write_coco, suffix="_coco"),
    ExportFormat.CVAT: Exporter(write=write_cvat, suffix="_cvat.xml"),
    ExportFormat.YOLO: Exporter(write=write_yolo, suffix="_yolo"),
    ExportFormat.LABEL_STUDIO: Exporter(write=write_label_studio, suffix="_labelstudio.json"),
    ExportFormat.VOC: Exporter(write=write_voc, suffix="_voc"),
    ExportFormat.MASKS: Exporter(write=write_masks, suffix="_masks"),
    ExportFormat.WEBVTT: Exporter(write=write_webvtt, suffix="_polyps.vtt"),
    ExportFormat.EDL: Exporter(write=write_edl, suffix="_polyps.edl"),
    ExportFormat.DICOM_SEG: Exporter(write=write_dicom_seg, suffix="_polyps.dcm"),
}
"""All formats except the records, from which they are exported."""
FRAME_TABLE_SUFFIX = "_frames.csv"


def export_recording(
    recording: Recording,
    formats: Iterable[ExportFormat],
    folder: Path,
    *,
    images_of: Path | None = None,
    keyframe_tolerance_px: float = KEYFRAME_TOLERANCE_PX,
) -> list[Path]:
    """Write a recording in several formats, and its frame table.

    Args:
        recording: See `open_recording`.
        formats: `jsonl` stands for the records, which exist already.
        folder: Output folder; created if necessary. Existing files are replaced.
        images_of: The video, to also write its frames as images for formats that contain them (COCO and YOLO).
        keyframe_tolerance_px: Largest error of CVAT's interpolation in pixels; 0 makes every frame a keyframe.

    Returns:
        The files and folders written, the frame table last; empty if only records were requested.

    Raises:
        OutputError: If a file cannot be written.
        DatasetError: If the records are damaged, or `images_of` is another video.
        SourceError: If `images_of` or the DICOM video cannot be read.
        ConfigError: If a DICOM Segmentation is asked for of records that cannot have one; see `write_dicom_seg`.
        MissingExtraError: If that needs a package that is not installed.
    """
    written, image_folders = [], []
    for each in dict.fromkeys(formats):
        if each is ExportFormat.JSONL:
            continue
        path = folder / f"{recording.name}{EXPORTERS[each].suffix}"
        if each is ExportFormat.CVAT:
            write_cvat(recording, path, tolerance_px=keyframe_tolerance_px)
        else:
            EXPORTERS[each].write(recording, path)
        written.append(path)
        if each in IMAGE_FOLDERS:
            image_folders.append(path / IMAGE_FOLDERS[each])
    if images_of is not None and image_folders:
        write_images(recording, images_of, image_folders)
    if written:
        written.append(folder / f"{recording.name}{FRAME_TABLE_SUFFIX}")
        write_frame_table(recording, written[-1])
    return written


def formats_from(names: Iterable[str]) -> tuple[ExportFormat, ...]:
    """Formats by their names. Raises `ConfigError` for an unknown name."""
    formats = []
    for name in names:
        if name not in set(ExportFormat):
            raise ConfigError(f"there is no format {name!r}; choose from {', '.join(ExportFormat)}")
        formats.append(ExportFormat(name))
    return tuple(formats)
