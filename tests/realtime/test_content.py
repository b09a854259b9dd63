"""The content area holds the endoscope's picture and nothing of its surround."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.realtime.content import content_area, within_content

SIDE = 128
Picture = NDArray[np.uint8]


def octagon() -> Picture:
    corners = [(30, 4), (98, 4), (123, 30), (123, 98), (98, 123), (30, 123), (4, 98), (4, 30)]
    return np.asarray(cv2.fillConvexPoly(np.zeros((SIDE, SIDE), np.uint8), np.array(corners), 1), np.uint8)


def circle() -> Picture:
    return np.asarray(cv2.circle(np.zeros((SIDE, SIDE), np.uint8), (64, 64), 55, 1, -1), np.uint8)


def framed(shape: Picture) -> Picture:
    rng = np.random.default_rng(0)
    tissue = rng.integers(80, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    return np.asarray(np.where(shape[..., None] == 1, tissue, rng.integers(0, 18, tissue.shape)), np.uint8)


def is_within_a_pixel_of(area: NDArray[np.bool_], shape: Picture) -> bool:
    cross = np.ones((3, 3), np.uint8)
    inner, outer = cv2.erode(shape, cross) == 1, cv2.dilate(shape, cross) == 1
    return not (inner & ~area).any() and not (area & ~outer).any()


@pytest.mark.parametrize("shape", [octagon(), circle()])
def test_it_is_the_shape_on_screen(shape: Picture) -> None:
    assert is_within_a_pixel_of(content_area(framed(shape)), shape)


@pytest.mark.parametrize(("height", "width"), [(352, 352), (480, 640), (201, 193)])
def test_a_large_picture_is_known_to_within_a_step(height: int, width: int) -> None:
    shape = cv2.ellipse(
        np.zeros((height, width), np.uint8), ((width / 2, height / 2), (0.8 * width, 0.7 * height), 0), 1, -1
    )
    picture = np.repeat((150 * shape)[..., None], 3, axis=2)
    area = content_area(picture)
    assert area.shape == (height, width)
    around = np.ones((9, 9), np.uint8)
    inner, outer = cv2.erode(shape, around) == 1, cv2.dilate(shape, around) == 1
    assert not (inner & ~area).any()
    assert not (area & ~outer).any()


def test_a_dark_lumen_stays_inside() -> None:
    picture = framed(octagon())
    cv2.circle(picture, (60, 60), 30, (4, 2, 2), -1)
    assert is_within_a_pixel_of(content_area(picture), octagon())


def test_text_and_insets_stay_outside() -> None:
    shape = np.zeros((SIDE, SIDE), np.uint8)
    shape[10:118, 45:125] = 1
    picture = framed(shape)
    picture[80:118, 3:40] = (20, 200, 150)
    cv2.putText(picture, "12:30", (2, 20), cv2.FONT_HERSHEY_PLAIN, 0.8, (255, 255, 255))
    assert is_within_a_pixel_of(content_area(picture), shape)


@pytest.mark.parametrize("level", [0, 255])
def test_a_frame_without_a_surround_counts_as_a_whole(level: int) -> None:
    assert content_area(np.full((SIDE, SIDE, 3), level, np.uint8)).all()


def test_a_speck_is_not_taken_for_the_picture() -> None:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[60:70, 60:70] = 200
    assert content_area(picture).all()


def test_nothing_is_left_of_the_map_outside_and_all_of_it_inside() -> None:
    picture = framed(octagon())
    probability = np.random.default_rng(1).random((SIDE, SIDE), np.float32)
    masked = within_content(probability, picture)
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(masked, probability * content_area(picture))
