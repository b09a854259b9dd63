"""The content area contains the endoscope's image and nothing of the dark border."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.arrays import Mask, Rgb
from polypstream.content import content_area
from polypstream.realtime.outlines import content_area as content_area_module
from polypstream.realtime.outlines.content_area import ModelInput, within_content

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
def test_the_area_of_a_large_image_is_accurate_to_one_step(height: int, width: int) -> None:
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
def test_a_frame_without_a_border_is_used_completely(level: int) -> None:
    assert content_area(np.full((SIDE, SIDE, 3), level, np.uint8)).all()


def test_a_speck_is_not_mistaken_for_the_image_area() -> None:
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    picture[60:70, 60:70] = 200
    assert content_area(picture).all()


def test_the_map_is_zero_outside_and_unchanged_inside() -> None:
    picture = framed(octagon())
    probability = np.random.default_rng(1).random((SIDE, SIDE), np.float32)
    masked = within_content(probability, content_area(picture))
    assert masked.dtype == np.float32
    np.testing.assert_array_equal(masked, probability * content_area(picture))


def test_it_is_computed_once_for_a_frame_whichever_thread_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(rgb: Rgb) -> Mask:
        calls.append(1)
        return content_area(rgb)

    monkeypatch.setattr(content_area_module, "content_area", counted)
    image = ModelInput(framed(octagon()))
    with ThreadPoolExecutor(4) as pool:
        areas = list(pool.map(lambda _: image.content, range(8)))
    assert len(calls) == 1
    assert all(area is areas[0] for area in areas)
    np.testing.assert_array_equal(areas[0], content_area(image.rgb))
