"""The crop that a network receives, and the placement of its output."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.content import Crop, crop_of, crop_of_area, whole_image

SIDES = st.integers(2, 60)


@st.composite
def crops(draw: st.DrawFn) -> tuple[Crop, int, int]:
    height, width = draw(SIDES), draw(SIDES)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
    return Crop(top=top, bottom=bottom, left=left, right=right), height, width


@given(crops(), st.integers(0, 2**32 - 1))
def test_a_map_of_the_crops_own_size_comes_back_pixel_by_pixel(case: tuple[Crop, int, int], seed: int) -> None:
    crop, height, width = case
    probability = np.random.default_rng(seed).random((crop.height, crop.width), np.float32)
    placed = crop.placed(probability, height=height, width=width)
    assert placed.shape == (height, width)
    assert placed.dtype == np.float32
    np.testing.assert_array_equal(crop.of(placed), probability)
    outside = placed.copy()
    crop.of(outside)[:] = 0
    assert not outside.any()


@given(crops(), SIDES, SIDES, st.floats(0, 1, width=32))
def test_a_level_map_stays_level_within_and_zero_without(
    case: tuple[Crop, int, int], rows: int, columns: int, level: float
) -> None:
    crop, height, width = case
    placed = crop.placed(np.full((rows, columns), level, np.float32), height=height, width=width)
    np.testing.assert_allclose(crop.of(placed), level, atol=1e-6)
    assert placed.sum() == pytest.approx(level * crop.height * crop.width, rel=1e-4, abs=1e-5)


@given(crops(), st.integers(1, 4))
def test_an_enlarged_mask_is_scaled_back_to_the_same_pixels(case: tuple[Crop, int, int], factor: int) -> None:
    crop, height, width = case
    mask = np.random.default_rng(0).random((height, width)) > 0.5
    shown = np.kron(crop.of(mask), np.ones((factor, factor))).astype(np.float32)
    placed = crop.placed(shown, height=height, width=width)
    rows, columns = np.indices(mask.shape)
    inside = (rows >= crop.top) & (rows < crop.bottom) & (columns >= crop.left) & (columns < crop.right)
    np.testing.assert_array_equal(placed >= 0.5, mask & inside)


def test_outlines_keep_their_place_to_half_a_pixel() -> None:
    mask = np.zeros((120, 200), np.uint8)
    cv2.circle(mask, (110, 60), 25, 1, -1)
    crop = Crop(top=20, bottom=100, left=50, right=170)
    shown = cv2.resize(crop.of(mask).astype(np.float32), (352, 352), interpolation=cv2.INTER_AREA)
    placed = crop.placed(shown, height=120, width=200) >= 0.5
    assert np.count_nonzero(placed != (mask == 1)) < 0.02 * mask.sum()
    rows, columns = np.nonzero(placed)
    assert (rows.mean(), columns.mean()) == pytest.approx((60, 110), abs=0.25)


def test_the_content_rule_takes_the_bounding_box_and_the_other_rule_all() -> None:
    rgb = np.zeros((100, 180, 3), np.uint8)
    cv2.ellipse(rgb, (100, 50), (60, 40), 0, 0, 360, (150, 90, 80), -1)
    assert crop_of(rgb, "content") == Crop(top=10, bottom=91, left=40, right=161)
    assert crop_of(rgb, "none") == whole_image(height=100, width=180)


def test_a_black_frame_is_shown_as_a_whole() -> None:
    assert crop_of(np.zeros((40, 60, 3), np.uint8), "content") == whole_image(height=40, width=60)
    assert crop_of_area(np.zeros((40, 60), np.bool_)) == whole_image(height=40, width=60)


@given(crops(), st.integers(0, 2**32 - 1), st.floats(0, 0.2))
def test_the_bounding_box_holds_every_pixel_of_the_area_and_touches_it_on_all_sides(
    case: tuple[Crop, int, int], seed: int, share: float
) -> None:
    part, height, width = case
    area = part.of(np.random.default_rng(seed).random((height, width)) < share)  # a view with gaps between its rows
    if not area.any():
        return
    box = crop_of_area(area)
    assert box.of(area).sum() == area.sum()
    assert all(line.any() for line in (box.of(area)[0], box.of(area)[-1], box.of(area)[:, 0], box.of(area)[:, -1]))


@pytest.mark.parametrize("edges", [(0, 0, 0, 4), (-1, 4, 0, 4), (3, 2, 0, 4), (0, 4, 5, 4)])
def test_invalid_parts_are_refused(edges: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="not a part"):
        Crop(top=edges[0], bottom=edges[1], left=edges[2], right=edges[3])


def test_a_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="exceeds"):
        whole_image(height=9, width=9).placed(np.zeros((9, 9), np.float32), height=8, width=9)
