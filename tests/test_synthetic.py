"""Synthetic clips: reproducible, consistent with their masks, readable after encoding, never incomplete."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from polypstream.errors import ConfigError, OutputError
from polypstream.synthetic import (
    SyntheticClip,
    SyntheticFrame,
    counter_from_rgb,
    frame_at,
    frames_of,
    write_clip,
)
from polypstream.synthetic.counter import draw_counter

SMALL = SyntheticClip(width=128, height=96, fps=10, seconds=10)


@pytest.fixture(scope="module")
def frames() -> list[SyntheticFrame]:
    return list(frames_of(SMALL))


def bottom_of(clip: SyntheticClip) -> int:
    return round(clip.height * 0.9)


def test_frames_have_the_shapes_and_types_promised(frames: list[SyntheticFrame]) -> None:
    assert [frame.index for frame in frames] == list(range(100))
    for frame in frames:
        assert frame.rgb.shape == (96, 128, 3)
        assert frame.rgb.dtype == np.uint8
        assert frame.mask.shape == (96, 128)
        assert frame.mask.dtype == np.bool_


@pytest.mark.parametrize("size", [(64, 64), (64, 128), (320, 66), (160, 120), (256, 144)])
def test_any_even_size_is_rendered(size: tuple[int, int]) -> None:
    frame = frame_at(SyntheticClip(width=size[0], height=size[1]), 0)
    assert frame.rgb.shape == (size[1], size[0], 3)
    assert frame.rgb.std() > 20
    assert frame.mask.any()


def test_a_frame_made_alone_equals_the_one_made_in_order(frames: list[SyntheticFrame]) -> None:
    for index in (77, 50, 3):
        alone = frame_at(SMALL, index)
        assert np.array_equal(alone.rgb, frames[index].rgb)
        assert np.array_equal(alone.mask, frames[index].mask)


def test_a_fresh_scene_of_the_same_seed_gives_the_same_bytes(frames: list[SyntheticFrame]) -> None:
    from polypstream.synthetic.clip import _scene

    _scene.cache_clear()
    assert np.array_equal(frame_at(SMALL, 42).rgb, frames[42].rgb)


def test_the_number_of_opencv_threads_changes_nothing(frames: list[SyntheticFrame]) -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        assert np.array_equal(frame_at(SMALL, 60).rgb, frames[60].rgb)
    finally:
        cv2.setNumThreads(threads)


def test_another_seed_is_another_colon(frames: list[SyntheticFrame]) -> None:
    other = frame_at(SyntheticClip(width=128, height=96, fps=10, seed=1), 20)
    assert np.abs(other.rgb.astype(int) - frames[20].rgb).mean() > 10


def test_the_same_moment_looks_the_same_at_another_frame_rate(frames: list[SyntheticFrame]) -> None:
    faster = SyntheticClip(width=128, height=96, fps=20)
    assert np.array_equal(frame_at(faster, 40).mask, frames[20].mask)


def test_the_mask_is_where_the_polyps_change_the_image(frames: list[SyntheticFrame]) -> None:
    clean = SyntheticClip(width=128, height=96, fps=10, polyps=False)
    for index in (0, 10, 65, 70, 80):
        frame, without = frames[index], frame_at(clean, index)
        assert not without.mask.any()
        change = np.abs(frame.rgb.astype(int) - without.rgb).max(axis=2)
        around = cv2.dilate(frame.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
        assert frame.mask.any()
        assert change[~around].mean() < 0.6
        assert np.mean(change[~around] > 8) < 0.004
        assert np.mean(change[frame.mask] > 6) > 0.75
        assert change[frame.mask].mean() > 5 * change[around & ~frame.mask].mean()


@pytest.mark.parametrize("seed", range(3))
def test_polyps_are_visible_at_some_times_and_not_at_others(seed: int) -> None:
    clip = SyntheticClip(width=64, height=64, fps=3, seed=seed)
    shown = np.array([frame.mask.any() for frame in frames_of(clip)])
    assert shown[:3].all()
    assert 2 <= (~shown).sum() <= 15


def test_masks_stay_inside_the_octagon(frames: list[SyntheticFrame]) -> None:
    for frame in frames:
        assert not frame.mask[:8, :8].any()
        assert not frame.mask[-8:, -8:].any()
        assert frame.rgb[:6, :6].max() == 0


def test_polyps_move_smoothly() -> None:
    """The largest polyp's outline never jumps: between frames, most of it overlaps."""
    clip = SyntheticClip(width=128, height=96, fps=20, seconds=2)
    masks = [frame.mask for frame in frames_of(clip)]
    centers = np.array([np.argwhere(mask).mean(axis=0) for mask in masks])
    assert np.linalg.norm(np.diff(centers, axis=0), axis=1).max() < 6
    overlaps = [(a & b).sum() / (a | b).sum() for a, b in pairwise(masks)]
    assert min(overlaps) > 0.6


def test_the_view_is_blurred_while_the_endoscope_is_jolted() -> None:
    clip = SyntheticClip(width=320, height=240, fps=50)
    details = []
    for index in (235, 253):
        grainless = cv2.GaussianBlur(frame_at(clip, index).rgb[40:200, 60:260], (0, 0), 1.2)
        details.append(cv2.Laplacian(grainless, cv2.CV_32F).std())
    assert details[1] < 0.75 * details[0]


def test_the_counter_is_read_from_the_frame_and_from_scaled_copies() -> None:
    clip = SyntheticClip(width=64, height=64, counter=True)
    frame = frame_at(clip, 171)
    half = cv2.resize(frame.rgb, (32, 32), interpolation=cv2.INTER_AREA)
    double = cv2.resize(frame.rgb, (127, 131), interpolation=cv2.INTER_LINEAR)
    assert [counter_from_rgb(np.asarray(rgb, np.uint8)) for rgb in (frame.rgb, half, double)] == [171] * 3
    assert not frame.mask[bottom_of(clip) :].any()


@pytest.mark.parametrize("number", [0, 1, 0x555555, 0xAAAAAA, 0xFFFFFF])
def test_every_bit_of_the_counter_counts(number: int) -> None:
    rgb = np.full((120, 160, 3), 90, np.uint8)
    draw_counter(rgb, number)
    assert counter_from_rgb(rgb) == number


def test_a_damaged_counter_is_not_read() -> None:
    rgb = np.full((120, 160, 3), 90, np.uint8)
    draw_counter(rgb, 1234)
    rgb[-12:-6, 80:90] = 255 - rgb[-12:-6, 80:90]
    assert counter_from_rgb(rgb) is None
    rgb[-12:-6, 80:90] = 128
    assert counter_from_rgb(rgb) is None


def test_an_image_without_a_counter_reads_as_none(frames: list[SyntheticFrame]) -> None:
    assert {counter_from_rgb(frame.rgb) for frame in frames} == {None}
    assert counter_from_rgb(np.zeros((4, 4, 3), np.uint8)) is None


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SyntheticClip, list[int]]:
    path = tmp_path_factory.mktemp("clip") / "demo.mp4"
    clip = SyntheticClip(width=160, height=120, fps=30, seconds=1.5, counter=True)
    reported: list[int] = []
    write_clip(path, clip, on_frame=reported.append)
    return path, clip, reported


def test_the_file_has_the_count_rate_size_and_color_tags(written: tuple[Path, SyntheticClip, list[int]]) -> None:
    path, clip, reported = written
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 160, 120)
        assert (codec.color_range, codec.colorspace, codec.color_primaries, codec.color_trc) == (1, 1, 1, 1)
        assert stream.average_rate == 30
        times = [frame.time for frame in container.decode(stream)]
    assert times == pytest.approx([index / 30 for index in range(clip.frame_count)])
    assert reported == list(range(1, 46))
    assert list(path.parent.iterdir()) == [path]


def test_the_counter_survives_encoding_and_halving(written: tuple[Path, SyntheticClip, list[int]]) -> None:
    with av.open(str(written[0])) as container:
        images = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    assert [counter_from_rgb(rgb) for rgb in images] == list(range(45))
    halves = [cv2.resize(rgb, (80, 60), interpolation=cv2.INTER_AREA) for rgb in images]
    assert [counter_from_rgb(np.asarray(rgb, np.uint8)) for rgb in halves] == list(range(45))


def test_luma_is_that_of_bt709_in_limited_range(written: tuple[Path, SyntheticClip, list[int]]) -> None:
    path, clip, _ = written
    rgb = frame_at(clip, 0).rgb / 255
    expected = 16 + 219 * (rgb @ [0.2126, 0.7152, 0.0722])
    with av.open(str(path)) as container:
        luma = next(container.decode(video=0)).to_ndarray()[: clip.height]
    assert abs((luma - expected).mean()) < 0.5
    assert np.abs(luma - expected).mean() < 3


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "demo.mp4"

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(path, SyntheticClip(width=64, height=64, seconds=1), on_frame=stop)
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_survives_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "demo.mp4"
    path.write_bytes(b"older")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=re.escape(f"cannot write {path}: No space left on device; choose")):
        write_clip(path, SyntheticClip(width=64, height=64, seconds=1), on_frame=fail)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory; choose an existing, writable folder"):
        write_clip(tmp_path / "missing" / "demo.mp4", SyntheticClip(width=64, height=64, seconds=0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 63}, "width is 63; use an even number from 64"),
        ({"height": 481}, "height is 481; use an even number"),
        ({"height": 62}, "height is 62; use an even number from 64"),
        ({"fps": 0}, "fps is 0; use 1 to"),
        ({"seconds": 0}, "seconds is 0; use one frame"),
        ({"seconds": 0.001}, "seconds is 0.001; use one frame"),
        ({"seconds": float("nan")}, "seconds is nan; use"),
        ({"seed": -1}, "seed is -1; use 0 or more"),
        ({"counter": True, "fps": 1000, "seconds": 20000}, "20000000 frames, but its counter ends at 16777216"),
    ],
)
def test_a_setting_out_of_range_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SyntheticClip(**settings)


@pytest.mark.parametrize("index", [-1, 100])
def test_a_frame_that_does_not_exist_is_an_error(index: int) -> None:
    with pytest.raises(ConfigError, match=f"frame {index} does not exist; this clip has frames 0 to 99"):
        frame_at(SMALL, index)
