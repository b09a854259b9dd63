"""A DICOM Segmentation of a DICOM video: a label map for every frame with a polyp, one segment per polyp.

highdicom makes the object. Of sources without a frame of reference, as video is, it takes only single frames: it is
therefore given the first one, and the other frames are added to what it has made.
"""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError, DatasetError, MissingExtraError, SourceError
from polypstream.files import atomic_path
from polypstream.realtime.annotate.formats.folders import labels_of
from polypstream.realtime.annotate.formats.recording import LABEL, Recording
from polypstream.realtime.annotate.records import read_records
from polypstream.realtime.video.dicom import is_dicom, read_header

if TYPE_CHECKING:
    from pydicom import Dataset

_SERIES_NUMBER = 900
_MAKER = "polypstream"
_DESCRIPTION = "Polyps, research software, not for diagnosis"
_EMPTY_IF_MISSING = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"),
    *("StudyTime", "Modality"),
)
_MOST_SEGMENTS = 65_535


def check_dicom_source(video: Path | None) -> None:
    """Check, before anything else is done, that a Segmentation can refer to a video.

    Raises:
        ConfigError: The video is not known, or not a DICOM object.
        MissingExtraError: highdicom is not installed (extra `[dicom]`).
    """
    if video is None:
        raise ConfigError("dicom-seg refers to the DICOM video of the records; name it with --video")
    try:
        is_source = is_dicom(video)
    except OSError:  # reported when it is opened
        return
    if not is_source:
        raise ConfigError(f"dicom-seg refers to a DICOM video, which {video} is not; take another --format")
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"--format dicom-seg (no module named {error.name!r})", "dicom") from error


def write_dicom_seg(recording: Recording, path: Path) -> None:
    """Write one Segmentation (label map, JPEG-LS) whose frames name the source's frames that they belong to.

    A segment's number is the id of its track; the last segment holds polyps without a track. Where polyps overlap, the
    smaller one is on top. Only frames with a polyp are stored; of a recording without any, the first one, empty. The
    object states the patient and the study of the source.

    Args:
        recording: Records of a DICOM video, which `recording.video` names.
        path: The `.dcm` file to write.

    Raises:
        ConfigError: The video is not known or not a DICOM object, or the records are de-identified.
        DatasetError: It is another video, or the numbers of its frames are not certain.
        MissingExtraError: highdicom is not installed.
        OutputError: The file cannot be written.
    """
    if recording.summary.deidentification is not None:
        raise ConfigError("a DICOM Segmentation states the patient and the study; leave --deidentify or dicom-seg out")
    check_dicom_source(recording.video)
    assert recording.video is not None
    with warnings.catch_warnings(action="ignore"):  # about values of the source that break a rule
        try:
            header = read_header(recording.video)
        except OSError as error:
            raise SourceError(f"{recording.video} cannot be read ({error}); check the path") from None
        _check_same_video(recording, header)
        try:
            segmentation = _segmentation(recording, header)
        except (AttributeError, TypeError, ValueError) as error:
            raise DatasetError(
                f"the header of {recording.video} cannot be referred to ({error}); export it again from the archive"
            ) from error
        with atomic_path(path) as unfinished:
            segmentation.save_as(unfinished)


def _check_same_video(recording: Recording, header: "Dataset") -> None:
    facts, frames = recording.summary.video, int(header.get("NumberOfFrames") or 0)
    size = (int(header.get("Columns") or 0), int(header.get("Rows") or 0))
    if size != (facts.width, facts.height):
        raise DatasetError(
            f"{recording.video} states frames of {size[0]}x{size[1]} pixels, the records have "
            f"{facts.width}x{facts.height}; give the video that was annotated"
        )
    last_s = recording.times_s[-1] if len(recording.times_s) else 0.0
    if facts.frames < frames and any((each.start_s or 0.0) < last_s for each in recording.summary.damage):
        raise DatasetError(
            f"only {facts.frames} of the {frames} frames in {recording.video} could be decoded, so that their numbers "
            "are not certain; export it again from the archive"
        )


def _segmentation(recording: Recording, header: "Dataset") -> Any:  # noqa: ANN401 - of highdicom
    from highdicom.frame import encode_frame
    from pydicom.encaps import encapsulate

    ids = sorted(track.id for track in recording.summary.tracks)
    others = max(ids, default=0) + 1
    made = _first_frame(recording, header, [*ids, others])
    kept = {0}
    coded: list[bytes] = []
    groups = []
    template = made.PerFrameFunctionalGroupsSequence[0]
    for number, labels in _label_maps(recording, others):
        kept |= set(np.unique(labels).tolist())
        image = encode_frame(
            labels.astype(np.uint8 if made.BitsAllocated == 8 else np.uint16),
            transfer_syntax_uid=made.file_meta.TransferSyntaxUID,
            bits_allocated=made.BitsAllocated,
            bits_stored=made.BitsStored,
            photometric_interpretation=made.PhotometricInterpretation,
            pixel_representation=made.PixelRepresentation,
        )
        coded.append(image)
        groups.append(_group_of(template, number, position=len(coded)))
    if coded:
        made.NumberOfFrames, made.PixelData = len(coded), encapsulate(coded)
        made.PerFrameFunctionalGroupsSequence = groups
    made.SegmentSequence = [each for each in made.SegmentSequence if each.SegmentNumber in kept]
    return made


def _label_maps(recording: Recording, others: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Number, from 1, and label map of each frame with a polyp, as the frame is stored."""
    facts = recording.summary.video
    for record in read_records(recording.records):
        shown = [
            (polyp, others if track is None else track)
            for polyp, track in zip(record.polyps, record.tracks, strict=True)
        ]
        labels = labels_of(shown, width=facts.width, height=facts.height)
        if labels.any():
            yield record.index + 1, labels


def _group_of(template: "Dataset", number: int, *, position: int) -> Any:  # noqa: ANN401 - a Dataset
    """What is stated of one frame: which frame of the source it belongs to."""
    group: Any = deepcopy(template)
    source = group.DerivationImageSequence[0].SourceImageSequence[0]
    source.ReferencedFrameNumber = number
    content = group.FrameContentSequence[0]
    content.DimensionIndexValues, content.FrameLabel = [position], f"frame {number}"
    return group


def _first_frame(recording: Recording, header: "Dataset", numbers: list[int]) -> Any:  # noqa: ANN401 - of highdicom
    """The object with all that concerns it as a whole, and an empty first frame."""
    from highdicom import UID, PixelMeasuresSequence
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom import Dataset
    from pydicom.uid import JPEGLSLossless

    if numbers[-1] > _MOST_SEGMENTS:
        raise DatasetError(f"there are {numbers[-1]} polyps, a Segmentation holds {_MOST_SEGMENTS}; take masks instead")
    for keyword in _EMPTY_IF_MISSING:
        if keyword not in header:
            setattr(header, keyword, "")
    reference = header.get("FrameOfReferenceUID")
    if reference is not None:
        del header.FrameOfReferenceUID
    if "NumberOfFrames" in header:
        header.NumberOfFrames = 1
    shared = Dataset()
    shared.PixelMeasuresSequence = PixelMeasuresSequence(pixel_spacing=(1, 1), slice_thickness=1)
    header.SharedFunctionalGroupsSequence = [shared]  # highdicom requires a size of pixels, which video has not
    facts, software = recording.summary.video, recording.summary.software
    made: Any = Segmentation(
        source_images=[header],
        pixel_array=np.zeros((1, facts.height, facts.width), np.uint8),
        segmentation_type=SegmentationTypeValues.LABELMAP,
        segment_descriptions=list(map(_describer(recording), numbers)),
        series_instance_uid=UID(),
        series_number=_SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=_MAKER,
        manufacturer_model_name=_MAKER,
        software_versions=software,
        device_serial_number="none",
        content_label="POLYPS",
        content_description=_DESCRIPTION,
        series_description=_DESCRIPTION,
        transfer_syntax_uid=JPEGLSLossless,
        omit_empty_frames=False,
    )
    if "PixelMeasuresSequence" in made.SharedFunctionalGroupsSequence[0]:
        del made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence
    if reference is not None:
        made.FrameOfReferenceUID = reference
    return made


def _describer(recording: Recording) -> Callable[[int], Any]:
    """A function that describes the segment of a number."""
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    tracks = {track.id for track in recording.summary.tracks}
    algorithm = AlgorithmIdentificationSequence(
        name=recording.summary.model[:64], family=codes.DCM.ArtificialIntelligence, version=recording.summary.software
    )

    def describe(number: int) -> Any:  # noqa: ANN401
        name = f"{LABEL} {number}" if number in tracks else f"{LABEL}s without a track"
        return SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
            segmented_property_type=codes.SCT.PolypOfColon,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
            tracking_uid=UID(),
            tracking_id=name,
            anatomic_regions=[codes.SCT.Colon],
        )

    return describe
