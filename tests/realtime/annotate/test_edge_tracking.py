"""Polyps are followed over the edge of the image while they enter and leave it, and nowhere else."""

from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypstream.arrays import Contour, Mask, Rgb
from polypstream.metrics import Overlap
from polypstream.realtime.annotate.edge_tracking import EdgePolyp, is_same, within_content
from polypstream.realtime.annotate.temporal import EDGE_S, FilteredFrame, TemporalFilter
from polypstream.realtime.annotate.tracks import FrameScene
from polypstream.realtime.live.motion import scene_of
from polypstream.realtime.outlines.contours import Polyp, mask_from_polyps, polyp_from_contour
from tests.realtime.annotate.test_tracks import polyp

SIDE, STEP_S, SPEED, RADIUS = 256, 0.04, 4, 36
CANVAS = 1200
PLACE = 420, 128
"""Center of the only polyp on the canvas."""


@cache
def canvas(*, seed: int = 3) -> Rgb:
    """Tissue with one polyp, along which the camera moves."""
    rng = np.random.default_rng(seed)
    speckle = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, CANVAS, 1)).astype(np.float32), (0, 0), 4)
    rgb = np.array([170, 95, 70]) + 40 * (speckle / speckle.std())[..., np.newaxis]
    y, x = np.mgrid[:SIDE, :CANVAS]
    rgb[np.hypot(x - PLACE[0], y - PLACE[1]) < RADIUS] += np.array([25, 55, 45])
    return np.clip(rgb, 30, 255).astype(np.uint8)


def shown(index: int, *, direction: int = 1, seed: int = 3) -> Rgb:
    """Frame of a camera that starts at the left end, or at the right end for a direction of -1."""
    left = SPEED * index if direction > 0 else CANVAS - SIDE - SPEED * index
    return canvas(seed=seed)[:, left : left + SIDE]


def disc(index: int, *, direction: int = 1) -> Polyp | None:
    """The visible part of the polyp, clipped to the image; None if it is out of sight."""
    left = SPEED * index if direction > 0 else CANVAS - SIDE - SPEED * index
    angle = np.linspace(0, 2 * np.pi, 80, endpoint=False)
    x, y = PLACE[0] - left + RADIUS * np.cos(angle), PLACE[1] + RADIUS * np.sin(angle)
    if x.max() <= 1 or x.min() >= SIDE - 1:
        return None
    return polyp_from_contour(np.column_stack((np.clip(x, 0, SIDE), y)).astype(np.float32), score=0.9)


def filtered(
    detections: dict[int, Polyp], pictures: dict[int, Rgb], *, stage: TemporalFilter[int] | None = None
) -> list[FilteredFrame[int]]:
    stage = stage or TemporalFilter[int]()
    out: list[FilteredFrame[int]] = []
    for index, rgb in pictures.items():
        out += stage.push(
            index,
            index=index,
            pts_s=index * STEP_S,
            polyps=[detections[index]] if index in detections else [],
            size=(SIDE, SIDE),
            scene=FrameScene(rgb),
        )
    return [*out, *stage.flush()]


def recording(direction: int) -> tuple[dict[int, Rgb], dict[int, Polyp]]:
    """Frames in which the polyp enters, crosses the image and leaves, and its visible part."""
    count = (CANVAS - SIDE) // SPEED
    truth = {index: each for index in range(count) if (each := disc(index, direction=direction)) is not None}
    frames = range(max(min(truth) - 20, 0), min(max(truth) + 20, count))
    return {index: shown(index, direction=direction) for index in frames}, truth


def mask(*polyps: Polyp) -> Mask:
    return mask_from_polyps(polyps, width=SIDE, height=SIDE)


@pytest.mark.parametrize("direction", [1, -1])
def test_a_polyp_is_followed_over_the_edge_where_it_enters_and_where_it_leaves(direction: int) -> None:
    pictures, truth = recording(direction)
    full = np.pi * RADIUS**2
    found = {index: each for index, each in truth.items() if 0.8 * full <= each.area}
    cut_off = [index for index, each in truth.items() if 0.3 * full <= each.area < 0.8 * full]
    out = {frame.index: frame for frame in filtered(found, pictures)}
    assert list(out) == list(pictures)
    assert [frame.index for frame in out.values() if frame.polyps and frame.index not in truth] == []
    assert min(cut_off) < min(found) < max(found) < max(cut_off)
    for index in [*found, *cut_off]:
        (marked,) = out[index].polyps
        assert Overlap.of(mask(truth[index]), mask(marked)).iou >= 0.6
        assert (out[index].tracks, out[index].interpolated) == ((1,), (index in cut_off,))


def test_without_the_filter_nothing_is_followed() -> None:
    pictures, truth = recording(1)
    found = {index: each for index, each in truth.items() if each.area > 0.8 * np.pi * RADIUS**2}
    out = filtered(found, pictures, stage=TemporalFilter[int](is_on=False))
    assert [frame.index for frame in out if frame.polyps] == list(found)


def test_a_detection_that_was_too_short_to_count_belongs_to_the_polyp_that_is_followed() -> None:
    pictures, truth = recording(1)
    entering = [index for index, each in truth.items() if each.area > 0.8 * np.pi * RADIUS**2]
    early = entering[0] - 4
    found = {index: truth[index] for index in [early, *entering]}
    out = {frame.index: frame for frame in filtered(found, pictures)}
    np.testing.assert_array_equal(out[early].polyps[0].contour, truth[early].contour)
    assert (out[early].tracks, out[early].interpolated) == ((1,), (False,))


@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_whatever_is_detected_no_polyp_is_shown_twice_in_a_frame(data: st.DataObject) -> None:
    pictures, truth = recording(1)
    kept = data.draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth)))
    shifts = data.draw(st.lists(st.sampled_from([0, 0, 0, 25]), min_size=len(truth), max_size=len(truth)))
    found = {
        index: polyp_from_contour(each.contour - np.float32([0, shift]), score=0.9)
        for (index, each), is_kept, shift in zip(truth.items(), kept, shifts, strict=True)
        if is_kept
    }
    out = filtered(found, pictures)
    assert [frame.index for frame in out] == list(pictures)
    for frame in out:
        for number, one in enumerate(frame.polyps):
            assert not any(is_same(one, other, (SIDE, SIDE)) for other in frame.polyps[:number])
        if any(not each for each in frame.interpolated):
            assert frame.index in found


@pytest.mark.parametrize("detected", [5, 9])
def test_a_short_detection_is_not_followed(detected: int) -> None:
    pictures, truth = recording(1)
    first = next(index for index, each in truth.items() if each.area > 0.8 * np.pi * RADIUS**2)
    found = {index: truth[index] for index in range(first, first + detected)}
    assert [frame.index for frame in filtered(found, pictures) if frame.polyps] == list(found)


def test_a_polyp_inside_the_image_is_not_followed() -> None:
    pictures, truth = recording(1)
    inside = [index for index, each in truth.items() if min(each.box[0], SIDE - each.box[0] - each.box[2]) > 30]
    found = {index: truth[index] for index in inside}
    assert [frame.index for frame in filtered(found, pictures) if frame.polyps] == inside


def test_a_contour_that_moves_into_the_image_is_not_followed() -> None:
    """The network would find a polyp that enters: what it does not find there is none."""
    pictures, truth = recording(1)
    entering = [index for index, each in truth.items() if each.box[0] + each.box[2] > SIDE - 8][:12]
    found = {index: truth[index] for index in entering}
    marked = [frame.index for frame in filtered(found, pictures) if frame.polyps]
    assert marked[-1] <= entering[-1] + 6


def test_it_is_followed_for_a_limited_time() -> None:
    pictures, truth = recording(1)
    first = next(index for index, each in truth.items() if each.area > 0.7 * np.pi * RADIUS**2)
    still = dict.fromkeys(range(80), pictures[first])
    out = filtered(dict.fromkeys(range(30, 50), truth[first]), still)
    more = round(EDGE_S / STEP_S)
    assert [frame.index for frame in out if frame.polyps] == list(range(30 - more, 50 + more))


def test_nothing_is_followed_across_a_cut() -> None:
    pictures, truth = recording(1)
    found = {index: each for index, each in truth.items() if each.area > 0.8 * np.pi * RADIUS**2}
    for index in pictures:
        if index < min(found) or index > max(found):
            pictures[index] = shown(index, seed=9)
    assert [frame.index for frame in filtered(found, pictures) if frame.polyps] == list(found)


@pytest.mark.parametrize("picture", [np.full((SIDE, SIDE, 3), 128, np.uint8), np.zeros((40, 40, 3), np.uint8)])
def test_frames_without_texture_or_too_small_for_flow_are_no_error(picture: Rgb) -> None:
    cut = polyp(SIDE, SIDE / 2, radius=RADIUS)
    out = filtered(dict.fromkeys(range(20, 40), cut), dict.fromkeys(range(60), picture))
    assert [frame.index for frame in out] == list(range(60))


ROUND = np.zeros((SIDE, SIDE, 3), np.uint8)
cv2.circle(ROUND, (128, 128), 100, (170, 95, 70), -1)


@given(x=st.floats(-0.5, 1.5), y=st.floats(-0.5, 1.5), radius=st.floats(0.01, 0.6))
@settings(max_examples=60, deadline=None)
def test_points_outside_the_content_area_move_to_its_edge_and_others_stay(x: float, y: float, radius: float) -> None:
    angle = np.linspace(0, 2 * np.pi, 50, endpoint=False)
    contour: Contour = np.column_stack((x + radius * np.cos(angle), y + radius * np.sin(angle))).astype(np.float32)
    moved = within_content(contour, scene_of(ROUND))
    before, after = (np.linalg.norm(each * SIDE - 128.5, axis=1) for each in (contour, moved))
    assert after.max() <= 103
    np.testing.assert_allclose(moved[before < 98], contour[before < 98], atol=1e-6)
    assert (after[before > 103] > 98).all()


def test_only_a_contour_at_the_edge_is_followed() -> None:
    scene = FrameScene(ROUND)
    assert EdgePolyp.at_edge(polyp(128, 128, radius=30), (SIDE, SIDE), scene) is None
    assert EdgePolyp.at_edge(polyp(215, 128, radius=30), (SIDE, SIDE), scene) is not None
