"""Frames without visibility get the right reason, and all others pass."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.realtime.live.motion import scene_of
from polypstream.realtime.live.visibility import STEADY_S, SteadyVisibility, Visibility, visibility_of
from polypstream.synthetic import SyntheticClip, frame_at

CLIP = SyntheticClip(width=320, height=240, fps=5, seconds=6)
Picture = NDArray[np.uint8]


@pytest.fixture(scope="module", params=[128, 256, 352])
def pictures(request: pytest.FixtureRequest) -> list[Picture]:
    side = request.param
    frames = (frame_at(CLIP, index).rgb for index in range(0, CLIP.frame_count, 5))
    return [np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), np.uint8) for rgb in frames]


def seen(rgb: Picture) -> Visibility:
    scene = scene_of(rgb)
    return visibility_of(scene.rgb, scene.content)


def scaled(rgb: Picture, by: float | tuple[float, float, float], plus: float = 0) -> Picture:
    inside = (rgb.max(axis=2) > 24)[..., np.newaxis]
    return np.asarray(np.where(inside, np.clip(rgb * np.array(by) + plus, 0, 255), rgb), np.uint8)


def defocused(rgb: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), 3 * len(rgb) / 128), np.uint8)


def without_color(rgb: Picture) -> Picture:
    return np.repeat(np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), np.uint8)[..., np.newaxis], 3, axis=2)


def test_the_synthetic_colon_is_clear(pictures: list[Picture]) -> None:
    assert {seen(rgb) for rgb in pictures} == {Visibility.CLEAR}


def test_blur_is_seen(pictures: list[Picture]) -> None:
    assert {seen(defocused(rgb)) for rgb in pictures} <= {Visibility.BLURRED, Visibility.RED_OUT}


def test_red_out_is_seen(pictures: list[Picture]) -> None:
    assert {seen(scaled(defocused(rgb), (1, 0.3, 0.2), plus=40)) for rgb in pictures} == {Visibility.RED_OUT}


def test_a_washed_out_image_is_detected(pictures: list[Picture]) -> None:
    assert {seen(scaled(rgb, 1.0, plus=190)) for rgb in pictures} == {Visibility.WASHED}


@given(st.lists(st.tuples(st.sampled_from(Visibility), st.floats(0.01, 0.5)), min_size=1, max_size=40))
def test_the_reported_reason_does_not_flicker_and_problems_are_reported_immediately(
    verdicts: list[tuple[Visibility, float]],
) -> None:
    steady, at_s, reported = SteadyVisibility(), 0.0, [Visibility.CLEAR]
    changed_s, last = float("-inf"), dict[Visibility, float]()
    for sight, step_s in verdicts:
        at_s += step_s
        reported.append(steady.smoothed(sight, at_s=at_s))
        if sight is not Visibility.CLEAR:
            assert reported[-1] is not Visibility.CLEAR
        if reported[-1] is not reported[-2]:
            assert reported[-1] is sight
            if reported[-2] is not Visibility.CLEAR:
                assert at_s - changed_s >= STEADY_S
                assert at_s - last[reported[-2]] >= STEADY_S
            changed_s = at_s
        last[sight] = at_s


def test_a_clear_view_is_reported_again_at_the_end() -> None:
    steady = SteadyVisibility()
    verdicts = [Visibility.BLURRED, *[Visibility.CLEAR] * 10]
    reported = [steady.smoothed(sight, at_s=index * 0.04) for index, sight in enumerate(verdicts)]
    assert reported == [Visibility.BLURRED] * 8 + [Visibility.CLEAR] * 3


@pytest.mark.parametrize("tint", [(1, 1, 1), (1, 0.94, 0.86), (0.35, 0.7, 1), (0.4, 0.95, 0.7)])
def test_walls_and_linen_are_outside_the_body(pictures: list[Picture], tint: tuple[float, float, float]) -> None:
    assert {seen(scaled(without_color(rgb), tint)) for rgb in pictures} == {Visibility.OUTSIDE}


def test_dyed_mucosa_is_not(pictures: list[Picture]) -> None:
    assert {seen(scaled(rgb, (0.6, 1.1, 1.5))) for rgb in pictures} == {Visibility.CLEAR}


@pytest.mark.parametrize(("level", "wanted"), [(0, Visibility.DARK), (12, Visibility.DARK), (255, Visibility.WASHED)])
def test_a_blank_image_is_detected(level: int, wanted: Visibility) -> None:
    assert seen(np.full((128, 128, 3), level, np.uint8)) is wanted


def test_every_reason_is_a_few_words() -> None:
    assert all(0 < len(reason.value) < 40 for reason in Visibility if reason is not Visibility.CLEAR)


@pytest.mark.data
@pytest.mark.slow
def test_nearly_all_published_images_are_clear() -> None:
    folder = os.environ.get("POLYPSTREAM_TEST_DATA")
    if not folder:
        pytest.skip("POLYPSTREAM_TEST_DATA names no folder")
    files = [
        path for part in ("kvasir-seg/images", "polypgen/images") for path in sorted((Path(folder) / part).iterdir())
    ]
    sights = []
    for path in files[::5]:
        bgr = cv2.imread(str(path))
        assert bgr is not None
        small = cv2.resize(bgr, (128, 128), interpolation=cv2.INTER_AREA)
        sights.append(seen(np.ascontiguousarray(small[..., ::-1])))
    assert np.mean([found is Visibility.CLEAR for found in sights]) > 0.99
