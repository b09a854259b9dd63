from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from polypstream.arrays import Probability
from polypstream.content import Crop
from polypstream.errors import ConfigError
from polypstream.realtime.outlines.contours import (
    Place,
    Polyp,
    mask_from_polyps,
    polyp_from_contour,
    polyps_from_probability,
    without_weak_regions,
)

SIZES = [(1920, 1080), (1350, 1080), (720, 576), (384, 288), (127, 97), (352, 352), (97, 301)]
sizes = st.sampled_from(SIZES)


def distance_to_blob(
    height: int, width: int, *, x: float, y: float, radius: float, lobes: int = 0, phase: float = 0.0
) -> NDArray[np.float64]:
    """Approximate distance of each pixel center outside a wavy disc, in pixels."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    angle = np.arctan2(rows - y, columns - x)
    return np.asarray(np.hypot(columns - x, rows - y) - radius * (1 + 0.12 * np.sin(lobes * angle + phase)))


def soft(distance: NDArray[np.float64], ramp: float) -> Probability:
    return np.asarray(1 / (1 + np.exp(np.clip(distance / ramp, -60, 60))), dtype=np.float32)


def filled(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, cv2.FILLED).astype(bool)


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def turning(contour: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turning angle of a closed curve at each vertex in degrees."""
    way = np.roll(contour, -1, axis=0).astype(np.float64) - contour
    heading = np.arctan2(way[:, 1], way[:, 0])
    return np.asarray(np.degrees(np.abs((heading - np.roll(heading, 1) + np.pi) % (2 * np.pi) - np.pi)))


@st.composite
def blobs(draw: st.DrawFn) -> Probability:
    """One to four soft or hard blobs of realistic size, some cut by the border, some touching."""
    height, width = draw(st.sampled_from([(96, 96), (128, 112), (160, 160)]))
    probability = np.zeros((height, width), dtype=np.float32)
    for _ in range(draw(st.integers(1, 4))):
        distance = distance_to_blob(
            height,
            width,
            x=draw(st.floats(0, width)),
            y=draw(st.floats(0, height)),
            radius=draw(st.floats(14, 40)),
            lobes=draw(st.integers(0, 4)),
            phase=draw(st.floats(0, 6)),
        )
        probability = np.maximum(probability, soft(distance, draw(st.floats(0.05, 4))))
    return probability


@given(probability=blobs(), threshold=st.floats(0.2, 0.8), size=sizes)
@settings(max_examples=80, deadline=None)
def test_contours_enclose_what_the_resized_map_calls_polyp(
    probability: Probability, threshold: float, size: tuple[int, int]
) -> None:
    width, height = size
    resized = cv2.resize(probability, size, interpolation=cv2.INTER_LINEAR)
    wanted = filled(resized >= threshold)
    polyps = polyps_from_probability(probability, threshold=threshold, width=width, height=height, min_area_share=0)
    assert iou(mask_from_polyps(polyps, width=width, height=height), wanted) >= 0.95


@given(
    probability=blobs(),
    threshold=st.floats(0.2, 0.8),
    size=sizes,
    around=st.tuples(*[st.sampled_from([0, 1, 5, 8, 9, 60])] * 4),
)
@settings(max_examples=60, deadline=None)
def test_polyps_of_a_part_are_those_of_the_whole_map_exactly(
    probability: Probability, threshold: float, size: tuple[int, int], around: tuple[int, ...]
) -> None:
    top, bottom, left, right = around
    rows, columns = probability.shape
    whole = np.pad(probability, ((top, bottom), (left, right)))
    crop = Crop(top=top, bottom=top + rows, left=left, right=left + columns)
    place = Place(crop=crop, rows=whole.shape[0], columns=whole.shape[1])
    width, height = size
    expected = polyps_from_probability(whole, threshold=threshold, width=width, height=height)
    found = polyps_from_probability(probability, threshold=threshold, width=width, height=height, place=place)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.contour, other.contour)
        assert (one.box, one.area, one.score) == (other.box, other.area, other.score)


@given(probability=blobs(), threshold=st.floats(0.2, 0.8), size=sizes)
@settings(max_examples=40, deadline=None)
def test_polyps_are_sorted_with_boxes_inside_the_image_and_the_area_of_their_pixels(
    probability: Probability, threshold: float, size: tuple[int, int]
) -> None:
    width, height = size
    polyps = polyps_from_probability(probability, threshold=threshold, width=width, height=height)
    assert [p.area for p in polyps] == sorted((p.area for p in polyps), reverse=True)
    for polyp in polyps:
        assert polyp.contour.dtype == np.float32
        x, y, w, h = polyp.box
        assert polyp.contour.min(axis=0) == pytest.approx((x, y))
        assert polyp.contour.max(axis=0) == pytest.approx((x + w, y + h))
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        perimeter = np.hypot(*np.diff(polyp.contour, axis=0, append=polyp.contour[:1]).T).sum()
        assert abs(mask_from_polyps([polyp], width=width, height=height).sum() - polyp.area) <= 0.25 * perimeter + 1
        assert threshold <= polyp.score + 1e-6 <= 1 + 2e-6


@given(probability=blobs(), dx=st.integers(-20, 20), dy=st.integers(-20, 20))
@settings(max_examples=25, deadline=None)
def test_moving_the_map_moves_the_contours(probability: Probability, dx: int, dy: int) -> None:
    still = np.pad(probability, 40)
    moved = np.roll(still, (dy, dx), axis=(0, 1))
    height, width = 3 * still.shape[0], 5 * still.shape[1]
    before = polyps_from_probability(still, threshold=0.5, width=width, height=height)
    after = polyps_from_probability(moved, threshold=0.5, width=width, height=height)
    assert len(before) == len(after)
    for a, b in zip(before, after, strict=True):
        assert b.area == pytest.approx(a.area, rel=1e-3)
        assert b.box == pytest.approx((a.box[0] + 5 * dx, a.box[1] + 3 * dy, a.box[2], a.box[3]), abs=0.15)


@given(probability=blobs(), across=st.sampled_from([0.5, 1.0, 3.0]), down=st.sampled_from([1.0, 2.0, 7.0]))
@settings(max_examples=25, deadline=None)
def test_a_larger_source_scales_the_contours(probability: Probability, across: float, down: float) -> None:
    rows, columns = probability.shape
    small = polyps_from_probability(probability, threshold=0.5, width=columns, height=rows)
    large = polyps_from_probability(
        probability, threshold=0.5, width=round(columns * across), height=round(rows * down)
    )
    assert len(small) == len(large)
    for a, b in zip(small, large, strict=True):
        scale = np.array([across, down, across, down])
        assert b.box == pytest.approx(a.box * scale, abs=0.15 * scale.max())
        assert b.area == pytest.approx(a.area * across * down, rel=0.01)


@given(probability=blobs())
@settings(max_examples=15, deadline=None)
def test_mirroring_and_transposing_the_map_does_the_same_to_the_mask(probability: Probability) -> None:
    def rasterised(p: Probability) -> NDArray[np.bool_]:
        height, width = 4 * p.shape[0], 4 * p.shape[1]
        return mask_from_polyps(
            polyps_from_probability(p, threshold=0.5, width=width, height=height, min_area_share=0),
            width=width,
            height=height,
        )

    upright = rasterised(probability)
    assert iou(rasterised(np.ascontiguousarray(probability[:, ::-1]))[:, ::-1], upright) > 0.99
    assert iou(rasterised(np.ascontiguousarray(probability.T)).T, upright) > 0.99


def test_a_disc_keeps_its_radius_center_and_smoothness() -> None:
    probability = soft(distance_to_blob(352, 352, x=150.3, y=170.8, radius=40), 1.0)
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=3520, height=1760)
    on_model = polyp.contour / (10, 5) - (150.3, 170.8)
    assert np.hypot(*on_model.T) == pytest.approx(40, abs=0.03)
    assert turning(polyp.contour).max() < 12


@pytest.mark.parametrize("radius", [2.5, 4.0, 8.0])
def test_a_small_hard_disc_does_not_shrink(radius: float) -> None:
    mask = (distance_to_blob(64, 64, x=30.5, y=33.5, radius=radius) < 0).astype(np.float32)
    (polyp,) = polyps_from_probability(mask, threshold=0.5, width=64, height=64, min_area_share=0)
    # The level line cuts the corners off the pixels: that of a straight staircase encloses just as much.
    assert polyp.area == pytest.approx(mask.sum(), rel=0.08)


def test_a_hard_mask_has_no_staircase() -> None:
    mask = (distance_to_blob(352, 352, x=150.3, y=170.8, radius=60) < 0).astype(np.float32)
    (polyp,) = polyps_from_probability(mask, threshold=0.5, width=1760, height=1760)
    assert turning(polyp.contour).max() < 20
    assert np.hypot(*(polyp.contour / 5 - (150.3, 170.8)).T) == pytest.approx(60, abs=0.6)


@pytest.mark.parametrize("at", [(10, 20), (0, 0), (0, 31), (39, 31), (39, 0), (17, 0)])
@pytest.mark.parametrize("size", [(32, 40), (1920, 1080), (127, 97)])
def test_a_single_pixel_has_a_contour_around_its_center(at: tuple[int, int], size: tuple[int, int]) -> None:
    row, column = at
    probability = np.zeros((40, 32), dtype=np.float32)
    probability[row, column] = 1
    width, height = size
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=width, height=height, min_area_share=0)
    x, y, w, h = polyp.box
    center = (column + 0.5) * width / 32, (row + 0.5) * height / 40
    assert x < center[0] < x + w
    assert y < center[1] < y + h
    assert polyp.area > 0.3 * (width / 32) * (height / 40)
    assert polyp.score == 1


def test_a_region_that_barely_reaches_the_threshold_has_an_area() -> None:
    probability = np.zeros((40, 40), dtype=np.float32)
    probability[10, 5:30] = 0.5
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=400, height=400, min_area_share=0)
    assert polyp.area > 0
    assert polyp.box[2] > 200


@pytest.mark.parametrize("line", [np.eye(40), np.eye(40)[::-1], np.eye(1, 40 * 40).reshape(40, 40).cumsum(axis=1)])
def test_a_thin_line_stays_whole(line: NDArray[np.float64]) -> None:
    (polyp,) = polyps_from_probability(line.astype(np.float32), threshold=0.5, width=400, height=200, min_area_share=0)
    assert polyp.box[2] > 395
    assert 0 < polyp.area < 4000


def test_a_polyp_in_the_whole_image_has_its_border_as_contour() -> None:
    (polyp,) = polyps_from_probability(np.ones((32, 32), np.float32), threshold=0.5, width=127, height=97)
    assert polyp.box == (0, 0, 127, 97)
    assert polyp.area == 127 * 97
    assert mask_from_polyps([polyp], width=127, height=97).all()


def test_a_region_cut_by_the_border_runs_straight_along_it() -> None:
    probability = np.zeros((64, 64), np.float32)
    probability[:20, :30] = 1
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=640, height=640)
    mask = mask_from_polyps([polyp], width=640, height=640)
    assert abs(mask[0].sum() - 300) <= 1
    assert abs(mask[:, 0].sum() - 200) <= 1
    assert polyp.area == pytest.approx(200 * 300, rel=0.02)


def test_nothing_above_the_threshold_gives_no_polyp() -> None:
    assert polyps_from_probability(np.full((32, 32), 0.4, np.float32), threshold=0.5, width=640, height=480) == []
    assert not mask_from_polyps([], width=640, height=480).any()


@settings(max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    threshold=st.floats(0.05, 0.95),
    min_peak=st.floats(0, 1),
    softness=st.sampled_from([0, 1, 3]),
    seed=st.integers(0, 2**32 - 1),
)
def test_only_regions_that_never_reach_the_minimum_peak_are_removed(
    shape: tuple[int, int], threshold: float, min_peak: float, softness: int, seed: int
) -> None:
    probability = np.random.default_rng(seed).random(shape, np.float32)
    if softness:
        probability = cv2.GaussianBlur(probability, (0, 0), softness).reshape(shape)
    before = probability.copy()
    kept = without_weak_regions(probability, threshold=threshold, min_peak=min_peak)
    assert np.array_equal(probability, before)
    assert kept.dtype == np.float32
    regions, count = ndimage.label(probability >= threshold, structure=np.ones((3, 3)))
    for number in range(count + 1):
        inside = regions == number
        is_strong = number == 0 or min_peak <= threshold or probability[inside].max() >= min_peak
        assert np.array_equal(kept[inside], probability[inside] if is_strong else np.zeros(inside.sum(), np.float32))


def test_a_polyp_reaches_the_minimum_peak_somewhere_and_keeps_its_whole_outline() -> None:
    probability = np.zeros((64, 96), np.float32)
    probability[10:30, 10:40] = probability[40:60, 10:40] = 0.6
    probability[20, 20] = 0.9
    both = polyps_from_probability(probability, threshold=0.5, width=96, height=64)
    (strong,) = polyps_from_probability(probability, threshold=0.5, min_peak=0.9, width=96, height=64)
    assert len(both) == 2
    assert any(np.array_equal(strong.contour, polyp.contour) for polyp in both)
    assert strong.box[1] < 20
    assert polyps_from_probability(probability, threshold=0.5, min_peak=0.95, width=96, height=64) == []
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="min_peak"):
            polyps_from_probability(probability, threshold=0.5, min_peak=wrong, width=96, height=64)


def test_holes_are_filled_and_islands_in_them_are_part_of_the_polyp() -> None:
    radius = distance_to_blob(128, 128, x=64, y=64, radius=0)
    ring_and_island = ((radius < 40) & (radius > 30)) | (radius < 10)
    probability = ring_and_island.astype(np.float32)
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=128, height=128)
    assert polyp.area == pytest.approx(np.pi * 40**2, rel=0.02)
    assert polyp.score == 1


def test_mean_probability_is_taken_over_the_pixels_that_reach_the_threshold() -> None:
    probability = np.full((64, 64), 0.1, np.float32)
    probability[:20, :20] = 0.7
    probability[5:10, 5:10] = 0.9
    probability[12:14, 12:14] = 0.0
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=64, height=64)
    assert polyp.score == pytest.approx(probability[probability >= 0.5].mean(), abs=1e-6)


def test_regions_that_meet_at_a_corner_are_one_polyp() -> None:
    probability = np.zeros((64, 64), np.float32)
    probability[10:30, 10:30] = 1
    probability[30:50, 30:50] = 1
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=64, height=64)
    assert polyp.area == pytest.approx(800, rel=0.02)


def test_specks_are_left_out_unless_asked_for() -> None:
    probability = np.zeros((352, 352), np.float32)
    probability[100:200, 100:200] = 1
    probability[300:303, 300:303] = 1
    assert len(polyps_from_probability(probability, threshold=0.5, width=640, height=480)) == 1
    assert len(polyps_from_probability(probability, threshold=0.5, width=640, height=480, min_area_share=0)) == 2


@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1), size=sizes)
@settings(max_examples=30, deadline=None)
def test_noise_gives_polyps_inside_the_image_and_never_fails(seed: int, density: float, size: tuple[int, int]) -> None:
    random = np.random.default_rng(seed)
    probability = (random.random((random.integers(1, 24), random.integers(1, 24))) * density).astype(np.float32)
    width, height = size
    polyps = polyps_from_probability(probability, threshold=0.4, width=width, height=height, min_area_share=0)
    assert bool(polyps) == bool((probability >= np.float32(0.4)).any())
    for polyp in polyps:
        assert np.isfinite(polyp.contour).all()
        assert len(polyp.contour) >= 3
        assert polyp.contour.min() >= 0
        assert (polyp.contour.max(axis=0) <= (width, height)).all()


def test_options_out_of_range_are_refused() -> None:
    probability = np.zeros((8, 8), np.float32)
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        polyps_from_probability(probability, threshold=1.5, width=8, height=8)
    with pytest.raises(ConfigError, match="threshold is nan"):
        polyps_from_probability(probability, threshold=float("nan"), width=8, height=8)
    with pytest.raises(ConfigError, match="min_area_share"):
        polyps_from_probability(probability, threshold=0.5, width=8, height=8, min_area_share=-1)
    with pytest.raises(ConfigError, match="0x8"):
        polyps_from_probability(probability, threshold=0.5, width=0, height=8)


def square(left: float, top: float, side: float) -> Polyp:
    right, bottom = left + side, top + side
    corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    return polyp_from_contour(corners.astype(np.float32), score=0.9)


def test_rasterizing_takes_the_pixels_whose_center_is_inside() -> None:
    mask = mask_from_polyps([square(2, 3, 4)], width=10, height=12)
    assert mask.sum() == 16
    assert mask[3:7, 2:6].all()
    assert mask_from_polyps([square(2.6, 3.6, 3)], width=10, height=12)[4:7, 3:6].sum() == 9
    assert mask_from_polyps([square(2.6, 3.6, 3)], width=10, height=12).sum() == 9


def test_rasterizing_clips_to_the_image_and_unites_polyps() -> None:
    mask = mask_from_polyps([square(-5, -5, 8), square(8, 8, 100), square(50, 1, 3)], width=10, height=12)
    assert mask.sum() == 9 + 2 * 4
    clockwise = square(1, 1, 5)
    anticlockwise = replace(clockwise, contour=clockwise.contour[::-1])
    assert (mask_from_polyps([clockwise, anticlockwise], width=10, height=12).sum()) == 25


def test_a_polyp_knows_its_box_and_area() -> None:
    polyp = square(2.5, 3, 4)
    assert polyp.box == (2.5, 3, 4, 4)
    assert polyp.area == 16
