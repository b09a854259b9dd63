"""Contours move with their tissue, and are not trusted if the tissue cannot be found."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.arrays import Contour
from polypstream.errors import ConfigError
from polypstream.realtime.live.motion import Motion, Stillness, scene_of
from polypstream.synthetic import SyntheticClip, frame_at

SIDE = 128
CLIP = SyntheticClip(width=320, height=240)
Picture = NDArray[np.uint8]


def small(index: int, *, seed: int = 0) -> Picture:
    clip = SyntheticClip(width=CLIP.width, height=CLIP.height, seed=seed)
    return np.asarray(cv2.resize(frame_at(clip, index).rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)


def tissue() -> Picture:
    rng = np.random.default_rng(3)
    speckle = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE, 1)).astype(np.float32), (0, 0), 2.5)
    speckle = 40 * speckle / speckle.std()
    return np.clip(np.array([170, 95, 70]) + speckle[..., np.newaxis], 30, 255).astype(np.uint8)


def shifted(rgb: Picture, x: float, y: float) -> Picture:
    turn = np.array([[1, 0, x], [0, 1, y]], np.float64)
    return np.asarray(cv2.warpAffine(rgb, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT), np.uint8)


def ring(x: float = 0.5, y: float = 0.5, radius: float = 0.12) -> Contour:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    return np.column_stack((x + radius * np.cos(angle), y + radius * np.sin(angle))).astype(np.float32)


@given(x=st.floats(-8, 8), y=st.floats(-8, 8))
@settings(max_examples=40, deadline=None)
def test_a_translation_carries_the_contour_by_as_much(x: float, y: float) -> None:
    propagated = Motion(scene_of(tissue()), scene_of(shifted(tissue(), x, y))).propagate(ring())
    moved = (propagated.contour - ring()) * SIDE
    np.testing.assert_allclose(moved, np.broadcast_to([x, y], moved.shape), atol=0.6)
    assert propagated.trust > 0.9


@given(x=st.floats(-6, 6), y=st.floats(-6, 6), place=st.sampled_from([0.5, 0.95, 1.02]))
@settings(max_examples=40, deadline=None)
def test_a_contour_that_reaches_over_the_edge_is_moved_as_a_whole(x: float, y: float, place: float) -> None:
    moved = Motion(scene_of(tissue()), scene_of(shifted(tissue(), x, y))).translate(ring(x=place))
    by = (moved.contour - ring(x=place)) * SIDE
    np.testing.assert_allclose(by, np.broadcast_to(by[0], by.shape), atol=1e-3)
    np.testing.assert_allclose(by[0], [x, y], atol=1.0)


def test_a_contour_almost_outside_the_image_is_not_moved() -> None:
    motion = Motion(scene_of(tissue()), scene_of(shifted(tissue(), 3, 0)))
    assert motion.translate(ring(x=1.07)).trust == 0
    assert motion.translate(ring(x=2)).trust == 0


def test_the_size_of_the_thumbnail_does_not_matter() -> None:
    large = [np.asarray(cv2.resize(rgb, (352, 352)), np.uint8) for rgb in (tissue(), shifted(tissue(), 5, -3))]
    propagated = Motion(scene_of(large[0]), scene_of(large[1])).propagate(ring())
    np.testing.assert_allclose((propagated.contour - ring()) * SIDE, np.broadcast_to([5, -3], (40, 2)), atol=0.7)


def test_nothing_moves_between_equal_images() -> None:
    motion = Motion(scene_of(tissue()), scene_of(tissue()))
    np.testing.assert_allclose(motion.propagate(ring()).contour, ring(), atol=1e-3)
    assert motion.propagate(ring()).trust == 1


def test_motion_is_unreliable_across_a_cut() -> None:
    for index in (0, 25, 60):
        motion = Motion(scene_of(small(index)), scene_of(small(index + 10, seed=1)))
        assert motion.propagate(ring()).trust < 0.15


def test_motion_is_unreliable_where_the_image_turned_black() -> None:
    assert Motion(scene_of(small(0)), scene_of(np.zeros((SIDE, SIDE, 3), np.uint8))).propagate(ring()).trust == 0


def test_motion_is_unreliable_where_the_tissue_was_covered() -> None:
    covered = tissue()
    covered[44:84, 44:84] = np.random.default_rng(0).integers(150, 255, (40, 40, 1), dtype=np.uint8)
    motion = Motion(scene_of(tissue()), scene_of(covered))
    assert not motion.is_cut
    assert motion.propagate(ring(radius=0.1)).trust < 0.15


def test_motion_is_unreliable_where_the_tissue_left_the_image() -> None:
    left = Motion(scene_of(tissue()), scene_of(shifted(tissue(), -14, 0))).propagate(ring(x=0.05, radius=0.04))
    assert left.trust < 0.15


def test_stillness_moves_nothing() -> None:
    assert np.array_equal(Stillness().propagate(ring()).contour, ring())


def test_images_of_different_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="128x128 and 64x64"):
        Motion(scene_of(tissue()), scene_of(tissue()[::2, ::2]))


@pytest.mark.parametrize("shape", [(SIDE, SIDE), (0, SIDE, 3), (SIDE, 63, 3), (40, 40, 3), (100, 512, 3)])
def test_an_image_unsuitable_for_optical_flow_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="the image"):
        scene_of(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(64, 64), (64, 128), (128, 64), (72, 128), (352, 352)])
@pytest.mark.parametrize(
    "inside", [(slice(None), slice(None)), (slice(10, 30), slice(None)), (slice(None), slice(40, 60))]
)
def test_any_shape_of_image_and_content_is_tracked(shape: tuple[int, int], inside: tuple[slice, slice]) -> None:
    rgb = np.zeros((*shape, 3), np.uint8)
    rgb[inside] = np.asarray(cv2.resize(tissue(), shape[::-1]))[inside]
    propagated = Motion(scene_of(rgb), scene_of(rgb)).propagate(ring())
    np.testing.assert_allclose(propagated.contour, ring(), atol=0.02)
