"""Records and summaries are unchanged after reading them back; damaged ones are refused by name."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.errors import DatasetError
from polypstream.realtime.annotate.records import RecordWriter, read_records
from polypstream.realtime.annotate.summary import (
    Summary,
    VideoFacts,
    is_constant_rate,
    read_summary,
    summary_path,
    write_summary,
)
from polypstream.realtime.annotate.tracks import PolypTrack
from polypstream.realtime.outlines.contours import polyp_from_contour
from polypstream.realtime.video.frame import Frame

SQUARE = np.array([[10, 10], [30, 10], [30, 25], [10, 25]], np.float32)


def frame(index: int) -> Frame:
    picture = av.VideoFrame(64, 48, "yuv420p")
    picture.pts, picture.time_base = 1001 * index, Fraction(1, 30000)
    return Frame(index=index, picture=picture, time_base=Fraction(1, 30000))


def write(path: Path) -> Path:
    with RecordWriter(path) as writer:
        writer.write(frame(0), [])
        writer.write(
            frame(1), [polyp_from_contour(SQUARE, score=0.75), polyp_from_contour(SQUARE + 20, score=0.5)], [4, 7]
        )
    return path


def test_records_round_trip(tmp_path: Path) -> None:
    first, second = read_records(write(tmp_path / "clip_polyps.jsonl"))
    assert (first.index, first.polyps, first.tracks) == (0, (), ())
    assert second.tracks == (4, 7)
    assert second.pts_s == pytest.approx(1001 / 30000)
    np.testing.assert_array_equal(second.polyps[0].contour, SQUARE)
    assert (second.polyps[0].box, second.polyps[0].area, second.polyps[0].score) == ((10, 10, 20, 15), 300, 0.75)


def test_an_unfinished_file_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = write(tmp_path / "clip_polyps.jsonl")
    path.write_bytes(path.read_bytes()[:-5])
    assert [record.index for record in read_records(path)] == [0]


@pytest.mark.parametrize("text", ["{}\n", "[1]\n", "no JSON\n", '{"index":0,"pts_s":0,"polyps":[{"box":[1]}]}\n'])
def test_invalid_records_are_refused_with_their_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text('{"index":0,"pts_s":0,"polyps":[]}\n' + text)
    with pytest.raises(DatasetError, match=r"line 2 of .*other\.jsonl"):
        list(read_records(path))


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be read"):
        list(read_records(tmp_path / "missing.jsonl"))
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not a text file"):
        list(read_records(tmp_path / "binary.jsonl"))


def summary() -> Summary:
    track = PolypTrack(
        id=1,
        first_index=3,
        last_index=9,
        first_pts_s=0.1,
        last_pts_s=0.3,
        frames=6,
        largest_area=1200.5,
        largest_index=5,
        best_score=0.9,
        best_index=4,
        best_area=900.0,
        longest_gap_s=0.0333,
    )
    video = VideoFacts(
        name="clip.mp4",
        width=720,
        height=576,
        sample_aspect_ratio=Fraction(16, 15),
        rotation=90,
        frames=250,
        average_rate=Fraction(30000, 1001),
        time_base=Fraction(1, 30000),
        duration_s=None,
        codec="mpeg2video",
        is_constant_rate=True,
    )
    return Summary(
        video=video,
        model="resunetpp 1 (fp32)",
        software="0.2.0",
        backend="onnxruntime",
        threshold=0.5,
        tracks=(track,),
        frames_with_polyp=6,
        notices=("a notice",),
    )


def test_a_summary_round_trip(tmp_path: Path) -> None:
    path = summary_path(tmp_path / "clip_polyps.jsonl")
    assert path.name == "clip_summary.json"
    write_summary(path, summary())
    assert read_summary(path) == summary()


@pytest.mark.parametrize("text", ["{}", "[]", '{"format": 99}', "x"])
def test_invalid_summaries_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "clip_summary.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"clip_summary\.json"):
        read_summary(path)


@given(start=st.integers(-(10**6), 10**6), step=st.integers(1, 10**4), count=st.integers(0, 30), odd=st.integers(2, 50))
def test_a_constant_rate_is_distinguished_from_a_variable_one(start: int, step: int, count: int, odd: int) -> None:
    steady = [start + step * number for number in range(count)]
    assert is_constant_rate(steady)
    if count > 2:
        assert not is_constant_rate([*steady[:-1], steady[-1] + odd])
