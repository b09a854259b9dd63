from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from polypstream.realtime.video.resize import ModelInputScaler, deinterlaced_field
from tests.clips import Clip, make_clip


def interlaced(tmp_path: Path, **changes: Any) -> av.VideoFrame:
    """A frame that is marked as interlaced; its content is replaced by the caller."""
    clip = make_clip(tmp_path / "clip.mp4", Clip(frames=2, is_interlaced=True, **changes))
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    frame.make_writable()
    return frame


def comb(frame: av.VideoFrame) -> None:
    """A white bar that moves by half the image between the two fields."""
    planes: Any = frame.planes
    for number, plane in enumerate(planes):
        lines = np.frombuffer(plane, dtype=np.uint8).reshape(plane.height, -1)
        if number:
            lines[:] = 128
            continue
        lines[:] = 16
        lines[::2, : plane.width // 2] = 235
        lines[1::2, plane.width // 2 :] = 235


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p"])
def test_the_network_gets_one_field_without_combing(tmp_path: Path, pixel_format: str) -> None:
    frame = interlaced(tmp_path, width=128, height=96, pixel_format=pixel_format)
    comb(frame)
    small = ModelInputScaler().scale(deinterlaced_field(frame), (64, 48))
    assert small[:, :30].min() > 240
    assert small[:, 34:].max() < 15
    combed = ModelInputScaler().scale(frame, (64, 48)).astype(int)
    assert np.abs(np.diff(combed[:, :30], axis=0)).min() > 240  # swscale keeps the fields apart: combs however small


def test_the_displayed_frame_is_unchanged(tmp_path: Path) -> None:
    frame = interlaced(tmp_path)
    before = frame.to_ndarray()
    field = deinterlaced_field(frame)
    assert np.array_equal(frame.to_ndarray(), before)
    assert (field.width, field.height) == (frame.width, frame.height // 2)
    assert not field.interlaced_frame
    assert field.pts == frame.pts


def test_a_field_keeps_the_colors_of_its_frame(tmp_path: Path) -> None:
    frame = interlaced(tmp_path, width=64, height=1080)
    planes: Any = frame.planes
    for plane, level in zip(planes, (120, 80, 170), strict=True):
        np.frombuffer(plane, dtype=np.uint8)[:] = level
    whole = ModelInputScaler().scale(frame, (32, 60)).astype(int)
    half = ModelInputScaler().scale(deinterlaced_field(frame), (32, 60)).astype(int)
    assert np.abs(whole - half).max() <= 2  # swscale, which takes whole interlaced frames, is off by up to 2


def test_a_progressive_frame_is_returned_unchanged(tmp_path: Path) -> None:
    with av.open(str(make_clip(tmp_path / "clip.mp4"))) as container:
        frame = next(container.decode(video=0))
    assert deinterlaced_field(frame) is frame
