from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from polypstream.realtime.live.deinterlace import progressive
from polypstream.realtime.preprocess import SmallPicture
from tests.clips import Clip, make_clip


def interlaced(tmp_path: Path, **changes: Any) -> av.VideoFrame:
    """A frame that is marked as interlaced; its content is replaced by the caller."""
    clip = make_clip(tmp_path / "clip.mp4", Clip(frames=2, is_interlaced=True, **changes))
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    frame.make_writable()
    return frame


def comb(frame: av.VideoFrame) -> None:
    """A white bar that moved by half the picture between the two fields."""
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
    small = SmallPicture(height=48, width=64).of(progressive(frame))
    assert small[:, :30].min() > 240
    assert small[:, 34:].max() < 15
    combed = SmallPicture(height=48, width=64).of(frame).astype(int)
    assert np.abs(np.diff(combed[:, :30], axis=0)).min() > 240  # swscale keeps the fields apart: combs however small


def test_the_shown_picture_is_left_alone(tmp_path: Path) -> None:
    frame = interlaced(tmp_path)
    before = frame.to_ndarray()
    field = progressive(frame)
    assert np.array_equal(frame.to_ndarray(), before)
    assert (field.width, field.height) == (frame.width, frame.height // 2)
    assert not field.interlaced_frame
    assert field.pts == frame.pts


def test_a_field_keeps_the_colours_of_its_frame(tmp_path: Path) -> None:
    frame = interlaced(tmp_path, width=64, height=1080)
    planes: Any = frame.planes
    for plane, level in zip(planes, (120, 80, 170), strict=True):
        np.frombuffer(plane, dtype=np.uint8)[:] = level
    whole = SmallPicture(height=60, width=32).of(frame).astype(int)
    half = SmallPicture(height=60, width=32).of(progressive(frame)).astype(int)
    assert np.abs(whole - half).max() <= 1


def test_a_progressive_frame_is_returned_as_it_is(tmp_path: Path) -> None:
    with av.open(str(make_clip(tmp_path / "clip.mp4"))) as container:
        frame = next(container.decode(video=0))
    assert progressive(frame) is frame
