"""DICOM Segmentations, read back by pydicom and highdicom."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.uid import VideoPhotographicImageStorage, VLEndoscopicImageStorage
from typer.testing import CliRunner

from polypstream.cli import app
from polypstream.errors import ConfigError, DatasetError, MissingExtraError
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.dicom_seg import write_dicom_seg
from polypstream.realtime.annotate.formats.export import export_recording
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.annotate.job import AnnotateConfig
from polypstream.realtime.annotate.records import read_records
from polypstream.realtime.outlines.contours import mask_from_polyps
from polypstream.realtime.video.damage import Damage
from tests.clips import make_clip
from tests.dicom_files import CODINGS, PATIENT, moving_disc, write_dicom
from tests.models import write_green_finder
from tests.recordings import Found, annotate, two_polyps

FRAMES = 12


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    video = write_dicom(tmp_path / "case.dcm", CODINGS["h264-mp4"], moving_disc(FRAMES, width=320, height=240))
    return annotate(video, tmp_path / "out")


@pytest.mark.parametrize(
    ("coding", "sop_class"),
    [("mpeg2", None), ("jpeg", VLEndoscopicImageStorage), ("h264", VideoPhotographicImageStorage)],
)
def test_highdicom_reads_the_same_masks_at_the_same_frames(tmp_path: Path, coding: str, sop_class: str | None) -> None:
    elements = {} if sop_class is None else {"SOPClassUID": sop_class}
    video = write_dicom(tmp_path / "case.dcm", CODINGS[coding], moving_disc(FRAMES, width=320, height=240), **elements)
    recording = annotate(video, tmp_path / "out")
    path, table = export_recording(recording, [ExportFormat.DICOM_SEG], tmp_path / "out")
    assert (path.name, table.name) == ("case_polyps.dcm", "case_frames.csv")

    source = pydicom.dcmread(video, stop_before_pixels=True)
    segmentation = hd.seg.segread(path)
    assert segmentation.segmentation_type is hd.seg.SegmentationTypeValues.LABELMAP
    descriptions = [segmentation.get_segment_description(number) for number in (1, 2)]
    assert [each.tracking_id for each in descriptions] == ["Polyp 1", "Polyp 2"]
    assert descriptions[0].segmented_property_type.meaning == "Polyp of colon"
    assert [int(each.SegmentNumber) for each in segmentation.SegmentSequence] == [0, 1, 2]
    assert segmentation.StudyInstanceUID == source.StudyInstanceUID
    assert segmentation.SeriesInstanceUID != source.SeriesInstanceUID
    assert segmentation.PatientID == PATIENT["PatientID"]
    (series,) = segmentation.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == source.SeriesInstanceUID

    numbers = [record.index + 1 for record in read_records(recording.records) if record.polyps]
    assert len(numbers) == FRAMES - 2  # two frames are without a polyp
    found = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, numbers, combine_segments=True)
    plain = pydicom.dcmread(path).pixel_array
    assert np.array_equal(found, plain)
    for record, labels in zip((each for each in read_records(recording.records) if each.polyps), found, strict=True):
        for polyp, track in zip(record.polyps, record.tracks, strict=True):
            assert np.array_equal(labels == track, mask_from_polyps([polyp], width=320, height=240))


def test_many_polyps_and_polyps_without_a_track_have_segments(tmp_path: Path) -> None:
    def found(index: int) -> Found:
        return {300 if track == 2 else track: polyp for track, polyp in two_polyps(index).items()}

    video = write_dicom(tmp_path / "case.dcm", CODINGS["jpeg"], moving_disc(FRAMES, width=320, height=240))
    recording = annotate(video, tmp_path / "out", found)
    lines = [json.loads(line) for line in recording.records.read_text().splitlines()]
    del lines[0]["polyps"][0]["track"]
    recording.records.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    write_dicom_seg(recording, tmp_path / "seg.dcm")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    labels = [each.SegmentLabel for each in segmentation.SegmentSequence]
    assert labels == ["Background", "Polyp 1", "Polyp 300", "Polyps without a track"]
    assert set(np.unique(segmentation.pixel_array)) == {0, 1, 300, 301}
    assert set(np.unique(segmentation.pixel_array[0])) == {0, 301}


def test_a_recording_without_polyps_gives_one_empty_frame(tmp_path: Path) -> None:
    video = write_dicom(tmp_path / "case.dcm", CODINGS["jpeg"], moving_disc(3))
    write_dicom_seg(annotate(video, tmp_path / "out", lambda _: {}), tmp_path / "seg.dcm")
    segmentation = hd.seg.segread(tmp_path / "seg.dcm")
    assert not segmentation.pixel_array.any()
    assert [each.SegmentLabel for each in segmentation.SegmentSequence] == ["Background"]


def test_a_header_with_little_in_it_is_referred_to(tmp_path: Path) -> None:
    gone = dict.fromkeys(("PatientID", "PatientName", "StudyID", "StudyDate", "StudyTime", "Modality"))
    video = write_dicom(tmp_path / "case.dcm", CODINGS["jpeg"], moving_disc(3, width=320, height=240), **gone)
    write_dicom_seg(annotate(video, tmp_path / "out"), tmp_path / "seg.dcm")
    assert hd.seg.segread(tmp_path / "seg.dcm").PatientID == ""


def test_only_a_dicom_video_can_be_referred_to(recording: Recording, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=FRAMES, width=320, height=240)
    with pytest.raises(ConfigError, match=r"refers to a DICOM video, which .*clip\.mp4 is not"):
        write_dicom_seg(replace(recording, video=clip), tmp_path / "seg.dcm")
    with pytest.raises(ConfigError, match="refers to the DICOM video of the records; name it with --video"):
        write_dicom_seg(replace(recording, video=None), tmp_path / "seg.dcm")
    other = write_dicom(tmp_path / "other.dcm", CODINGS["jpeg"], moving_disc(3))
    with pytest.raises(DatasetError, match=r"states frames of 160x120 pixels, the records have 320x240"):
        write_dicom_seg(replace(recording, video=other), tmp_path / "seg.dcm")
    with pytest.raises(ConfigError, match="states the patient and the study"):
        AnnotateConfig(deidentify=True, formats=(ExportFormat.DICOM_SEG,))
    assert not (tmp_path / "seg.dcm").exists()


def test_frame_numbers_that_are_not_certain_are_refused(recording: Recording, tmp_path: Path) -> None:
    facts = replace(recording.summary.video, frames=FRAMES - 1)
    damage = (Damage(start_s=0.2, end_s=0.24, message="1 frame could not be decoded"),)
    damaged = replace(recording, summary=replace(recording.summary, video=facts, damage=damage))
    with pytest.raises(DatasetError, match=r"only 11 of the 12 frames in .* could be decoded"):
        write_dicom_seg(damaged, tmp_path / "seg.dcm")


def test_without_highdicom_the_extra_is_named(
    recording: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingExtraError, match=r"--format dicom-seg .*\[dicom\]"):
        write_dicom_seg(recording, tmp_path / "seg.dcm")


def test_convert_takes_the_video_that_the_records_do_not_name(recording: Recording, tmp_path: Path) -> None:
    arguments = ["convert", str(recording.records), "--format", "dicom-seg", "--output", str(tmp_path / "converted")]
    assert "--video" in CliRunner().invoke(app, arguments).output
    assert recording.video is not None
    result = CliRunner().invoke(app, [*arguments, "--video", str(recording.video)])
    assert result.exit_code == 0, result.output
    assert hd.seg.segread(tmp_path / "converted" / "case_polyps.dcm").NumberOfFrames == FRAMES - 2


def test_no_other_result_states_the_patient(tmp_path: Path) -> None:
    video = write_dicom(tmp_path / "case.dcm", CODINGS["h264-mp4"], moving_disc(15))
    model = write_green_finder(tmp_path / "green.onnx")
    formats = [word for each in ExportFormat for word in ("--format", each.value)]
    arguments = ["annotate", str(video), "--model", str(model), "--report", "--output"]
    for options in (
        [str(tmp_path / "out"), "--overlay", "both", "--proxy", *formats],
        [str(tmp_path / "hidden"), "--deidentify", "--format", "coco"],
    ):
        result = CliRunner().invoke(app, [*arguments, *options])
        assert result.exit_code == 0, result.output
    assert hd.seg.segread(tmp_path / "out" / "case_polyps.dcm").PatientID == PATIENT["PatientID"]
    playable = "[&quot;case_overlay.mp4&quot;, &quot;case_proxy.mp4&quot;]"  # but no DICOM
    assert playable in (tmp_path / "out" / "case_report.html").read_text()
    written = [path for folder in ("out", "hidden") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert len(written) > 30
    assert {path.suffix for path in (tmp_path / "hidden").iterdir()} == {"", ".csv", ".html", ".jsonl", ".json", ".mp4"}
    for path in written:
        for value in (*PATIENT.values(), "Doe", "Roe"):
            assert path.name == "case_polyps.dcm" or value.encode() not in path.read_bytes(), path


def test_a_segmentation_is_refused_before_inference(tmp_path: Path) -> None:
    clip, model = make_clip(tmp_path / "clip.mp4"), write_green_finder(tmp_path / "green.onnx")
    arguments = ["annotate", str(clip), "--model", str(model), "-o", str(tmp_path / "out"), "--format", "dicom-seg"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "refers to a DICOM video" in result.output
    assert not list((tmp_path / "out").glob("clip*"))
