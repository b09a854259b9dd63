"""Segments of a video: together they are the whole, and what they find is taken for the same images only."""

from fractions import Fraction
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polypstream.realtime.annotate.detections import detection_key, log_path, write_detections
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.annotate.segments import VideoSegment, detections_in, segments_of
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.video.reader import VideoReader
from tests.clips import make_clip
from tests.models import write_green_finder
from tests.realtime.annotate.test_job import write_disc_clip
from tests.realtime.annotate.test_resume import Counting

FRAMES = 300
RECORDS = AnnotateConfig(encoding=None)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    pts = (40 + np.cumsum(np.random.default_rng(3).integers(7, 90, FRAMES))).tolist()
    return write_disc_clip(tmp_path / "clip.mp4", frames=FRAMES, pts=pts, options={"bf": "2", "g": "25"})


@pytest.mark.parametrize(("name", "options"), [("a.mp4", {"bf": "3"}), ("a.ts", {"bf": "2"}), ("a.mkv", {"bf": "0"})])
def test_reading_from_a_time_on_gives_the_same_frames(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    pts = [90_000 + 3600 * i for i in range(100)]
    clip = make_clip(
        tmp_path / name, frames=100, pts=pts, time_base=Fraction(1, 90_000), options={**options, "g": "20"}
    )
    with VideoReader(clip) as source:
        whole = [(frame.pts, frame.picture.to_ndarray().tobytes()) for frame in source.frames()]
    for start in (1, 30, 77, 99):
        with VideoReader(clip) as source:
            source.skip_to(float(whole[start][0] * source.info.time_base))
            read = [(frame.pts, frame.picture.to_ndarray().tobytes()) for frame in source.frames()]
        later = [frame for frame in read if frame[0] >= whole[start][0]]
        assert later == whole[start:]
        assert len(read) < len(whole) or start < 20


def test_segments_begin_at_key_frames_and_cover_the_video(clip: Path) -> None:
    parts = segments_of(clip, 14.5, segment_s=3)
    assert len(parts) == 5
    assert (parts[0].start_s, parts[-1].end_s) == (-inf, inf)
    assert all(before.end_s == after.start_s for before, after in pairwise(parts))
    assert segments_of(clip, 14.5, segment_s=60) == [VideoSegment(start_s=-inf, end_s=inf)]


def test_a_video_annotated_with_the_detections_of_its_segments_needs_no_inference(tmp_path: Path, clip: Path) -> None:
    model = write_green_finder(tmp_path / "green.onnx")
    straight = annotate_video(clip, tmp_path / "one", segmenter_from_onnx(model, backend="onnxruntime"), RECORDS)
    segmenter: Any = Counting(segmenter_from_onnx(model, backend="onnxruntime"))
    found = [detections_in(clip, part, segmenter, RECORDS) for part in segments_of(clip, 14.5, segment_s=3)]
    assert segmenter.count == FRAMES
    records = tmp_path / "two" / "clip_polyps.jsonl"
    records.parent.mkdir()
    write_detections(log_path(records), detection_key("key", segmenter), b"".join(found))
    spread = annotate_video(clip, tmp_path / "two", segmenter, RECORDS, resume_key="key")
    assert segmenter.count == FRAMES
    assert spread.records.read_bytes() == straight.records.read_bytes()
    assert spread.tracks == straight.tracks
