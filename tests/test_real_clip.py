"""Annotation of the real clip with the shipped model. Runs if `POLYPSTREAM_TEST_DATA` names the data folder."""

import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from polypstream.models import default_model
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from tests.clips import times_of

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture
def clip() -> Path:
    folder = os.environ.get("POLYPSTREAM_TEST_DATA")
    if not folder:
        pytest.skip("POLYPSTREAM_TEST_DATA names no folder")
    return Path(folder) / "video" / "apparent.mp4"


def test_every_frame_time_and_pixel_shape_of_the_real_clip_is_kept(tmp_path: Path, clip: Path) -> None:
    with segmenter_from_onnx(default_model(), backend="onnxruntime") as segmenter:
        result = annotate_video(clip, tmp_path, segmenter, AnnotateConfig())
    assert result.frames == 229
    assert times_of(result.overlay) == times_of(clip)
    with av.open(str(result.overlay)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    assert len(result.records.read_text(encoding="utf-8").splitlines()) == 229
    assert result.damage == ()
    assert 0 < result.frames_with_polyp < 229
