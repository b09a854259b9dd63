"""Video in DICOM objects, read as from any other file."""

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    ExplicitVRLittleEndian,
    VideoPhotographicImageStorage,
    VLEndoscopicImageStorage,
)

from polypstream.errors import MissingExtraError, SourceError
from polypstream.realtime.annotate.inputs import InputVideo, find_videos
from polypstream.realtime.annotate.manifest import stated_duration_s
from polypstream.realtime.video.dicom import _FragmentedFile, is_dicom, read_dicom
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.stills import stills
from tests.dicom_files import CODINGS, PREAMBLE, disc_position, header_of, moving_disc, write_dicom

FRAMES = 30


@pytest.mark.parametrize(("fragments", "has_offsets"), [(1, False), (3, True)])
@pytest.mark.parametrize("name", CODINGS)
def test_every_frame_of_an_object_is_read_at_its_time(
    tmp_path: Path, name: str, fragments: int, has_offsets: bool
) -> None:
    path = write_dicom(
        tmp_path / "video.dcm", CODINGS[name], moving_disc(FRAMES), fragments=fragments, has_offsets=has_offsets
    )
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        assert [disc_position(frame.image) for frame in frames] == list(range(FRAMES))
        assert [frame.pts_s for frame in frames] == [index / 25 for index in range(FRAMES)]
        assert (reader.info.width, reader.info.height, reader.info.average_rate) == (160, 120, 25)
        assert reader.info.frame_count == FRAMES
        assert not reader.damage
        assert not reader.notices
    wanted_s = [0.0, 0.4, 1.12]
    found = {time_s: disc_position(frame.image) for time_s, frame in stills(path, wanted_s)}
    assert found == {time_s: round(time_s * 25) for time_s in wanted_s}


@pytest.mark.parametrize("name", ["h264", "jpeg"])
@pytest.mark.parametrize(
    ("elements", "rate"),
    [
        ({"CineRate": 30, "FrameTime": "33.37"}, Fraction(30000, 1001)),
        ({"CineRate": 30, "FrameTime": "33.3333"}, Fraction(30)),
        ({"CineRate": 30, "FrameTime": None}, Fraction(30)),
        ({"CineRate": None, "FrameTime": None, "RecommendedDisplayFrameRate": 50}, Fraction(50)),
        ({"CineRate": None, "FrameTime": "52.5"}, Fraction(400, 21)),
        ({"CineRate": None, "FrameTime": None, "FrameTimeVector": [0.0, 40.0, 60.0]}, Fraction(20)),
    ],
)
def test_the_header_gives_the_rate_of_a_stream_without_times(
    tmp_path: Path, name: str, elements: dict[str, Any], rate: Fraction
) -> None:
    path = write_dicom(tmp_path / "video.dcm", CODINGS[name], moving_disc(4), **elements)
    with VideoReader(path) as reader:
        times_s = [frame.pts_s for frame in reader.frames()]
        assert times_s == pytest.approx([index / float(rate) for index in range(4)], abs=1e-5)
        assert reader.info.average_rate == rate
    assert stated_duration_s(path) == pytest.approx(4 / float(rate), abs=1e-5)


def test_differences_between_header_and_stream_are_noted(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm",
        CODINGS["h264-mp4"],
        moving_disc(6),
        NumberOfFrames=7,
        Rows=240,
        CineRate=30,
        FrameTime="33.3",
    )
    with VideoReader(path) as reader:
        assert [frame.pts_s for frame in reader.frames()] == [index / 25 for index in range(6)]
        assert reader.notices == [
            "the DICOM header states 7 frames, the stream has 6",
            "the DICOM header states frames of 160x240 pixels, the stream has 160x120",
            "the DICOM header states 30.00 frames per second, the stream 25.00: the times in the stream are used",
        ]
    path = write_dicom(tmp_path / "b.dcm", CODINGS["jpeg"], moving_disc(2), CineRate=None, FrameTime=None)
    with VideoReader(path) as reader:
        list(reader.frames())
        assert reader.notices == [
            "neither the DICOM header nor the stream states a frame rate: 25 per second is assumed"
        ]


def test_other_classes_and_the_shape_of_pixels_are_taken_as_the_header_states_them(tmp_path: Path) -> None:
    for sop_class in (VideoPhotographicImageStorage, VLEndoscopicImageStorage):
        path = write_dicom(
            tmp_path / "a.dcm", CODINGS["jpeg"], moving_disc(3), SOPClassUID=sop_class, PixelAspectRatio=["11", "12"]
        )
        with VideoReader(path) as reader:
            assert [frame.sample_aspect_ratio for frame in reader.frames()] == [Fraction(12, 11)] * 3
            assert reader.info.sample_aspect_ratio == Fraction(12, 11)


@pytest.mark.parametrize("name", ["h264", "jpeg", "mpeg2"])
def test_a_cut_off_object_is_read_as_far_as_it_goes_and_reported(tmp_path: Path, name: str) -> None:
    path = write_dicom(tmp_path / "a.dcm", CODINGS[name], moving_disc(FRAMES))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 4 // 5])
    with VideoReader(path) as reader:
        frames = list(reader.frames())
        assert 10 < len(frames) < FRAMES
        last = reader.damage[-1]
        assert "the DICOM object ends before its video does" in last.message
        assert last.start_s == pytest.approx(frames[-1].pts_s + 0.04, abs=0.09)
        assert last.end_s == pytest.approx(FRAMES / 25)
        assert f"the DICOM header states {FRAMES} frames, the stream has {len(frames)}" in reader.notices


def test_every_truncation_of_an_object_is_read_or_refused(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", CODINGS["jpeg"], moving_disc(3), has_offsets=True)
    data = path.read_bytes()
    for length in range(132, len(data), 97):
        path.write_bytes(data[:length])
        try:
            reader = VideoReader(path)
        except SourceError:
            continue
        with reader:
            list(reader.frames())
            assert reader.damage


def test_objects_without_video_are_refused_with_a_way_out(tmp_path: Path) -> None:
    header = header_of(ExplicitVRLittleEndian, frames=1, width=2, height=2)
    header.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    with pytest.raises(SourceError, match="without pixels, such as a report"):
        VideoReader(tmp_path / "report.dcm")
    header.PixelData = bytes(12)
    header.save_as(tmp_path / "raw.dcm", enforce_file_format=True)
    with pytest.raises(SourceError, match=r"stored as Explicit VR Little Endian; .* with 'dcmcjpeg"):
        VideoReader(tmp_path / "raw.dcm")
    (tmp_path / "text.dcm").write_bytes(PREAMBLE + b"this is not one")
    with pytest.raises(SourceError, match=r"text\.dcm is a (damaged )?DICOM object"):
        VideoReader(tmp_path / "text.dcm")


def test_without_pydicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", CODINGS["jpeg"], moving_disc(2))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(MissingExtraError, match=r"a\.dcm is a DICOM object, which needs .*\[dicom\]"):
        VideoReader(path)


def test_objects_without_an_extension_are_found_in_folders(tmp_path: Path) -> None:
    archive = tmp_path / "in"
    archive.mkdir()
    path = write_dicom(archive / "IM000001", CODINGS["jpeg"], moving_disc(2))
    (archive / "README").write_bytes(b"a text")
    (archive / "clip_polyps.dcm").write_bytes(path.read_bytes())  # as --format dicom-seg writes it
    assert find_videos([archive], output=tmp_path / "out")[0] == [InputVideo(path=path)]


def test_a_rate_that_breaks_the_rules_is_read(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", CODINGS["jpeg"], moving_disc(2), FrameTime=None)
    data = path.read_bytes()
    assert data.count(b"\x18\x00\x40\x00IS\x02\x0025") == 1
    path.write_bytes(data.replace(b"\x18\x00\x40\x00IS\x02\x0025", b"\x18\x00\x40\x00IS\x06\x0029.97 "))
    video = read_dicom(path)
    assert video is not None
    assert video.rate == Fraction("29.97")
    assert is_dicom(path)


@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    moves=st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(-60, 200), st.integers(0, 90)), max_size=12),
)
def test_fragments_read_like_one_file(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], moves: list[tuple[int, int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("fragments")
    rng = np.random.default_rng(0)
    data, parts = b"", []
    whole = b""
    for length in lengths:
        data += b"items between"
        piece = rng.bytes(length)
        parts.append((len(data), length))
        data, whole = data + piece, whole + piece
    (folder / "parts").write_bytes(data)
    (folder / "whole").write_bytes(whole)
    with _FragmentedFile(folder / "parts", parts) as file, (folder / "whole").open("rb") as same:
        for whence, offset, size in moves:
            target = {0: 0, 1: same.tell(), 2: len(whole)}[whence] + offset
            if target >= 0:
                assert file.seek(offset, whence) == same.seek(offset, whence)
            assert file.read(size) == same.read(size)
            assert file.tell() == same.tell()
