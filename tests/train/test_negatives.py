from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from polypstream.train.augment import Augmentation, augment
from polypstream.train.negatives import Image, without_polyp


def mucosa(
    *, height: int = 96, width: int = 128, polyp: tuple[int, int, int] | None = (60, 40, 9)
) -> tuple[Image, Image]:
    """A reddish image with mild waves and a bright green disc (x, y, radius), and its mask."""
    coarse = np.random.default_rng(0).integers(120, 170, (5, 6, 3), dtype=np.uint8) * np.array([1, 0, 0], np.uint8)
    rgb = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    if polyp is not None:
        cv2.circle(mask, polyp[:2], polyp[2], 1, -1)
        cv2.circle(rgb, polyp[:2], polyp[2], (60, 220, 60), -1)
    return rgb, mask


@pytest.mark.parametrize("polyp", [(60, 40, 9), (3, 3, 6), (124, 93, 8), (30, 48, 14)])
def test_the_polyp_is_covered_and_the_rest_unchanged(polyp: tuple[int, int, int]) -> None:
    rgb, mask = mucosa(polyp=polyp)
    before = rgb.copy()
    covered, empty = without_polyp(rgb, mask, np.random.default_rng(1))
    assert not empty.any()
    assert covered[..., 1].max() < 40
    far = cv2.dilate(mask, np.ones((25, 25), np.uint8)) == 0
    np.testing.assert_array_equal(covered[far], rgb[far])
    np.testing.assert_array_equal(rgb, before)


def test_it_is_the_same_for_the_same_generator_state() -> None:
    one, other = (without_polyp(*mucosa(), np.random.default_rng(5))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_polyps_that_cannot_be_covered_stay() -> None:
    large = mucosa(polyp=(64, 48, 44))
    dark = mucosa()
    dark[0][dark[1] == 0] = 0  # no mucosa to cover it with
    for rgb, mask in (large, mucosa(polyp=None), dark):
        same, same_mask = without_polyp(rgb, mask, np.random.default_rng(0))
        np.testing.assert_array_equal(same, rgb)
        np.testing.assert_array_equal(same_mask, mask)


def test_it_is_part_of_the_augmentation() -> None:
    nothing = Augmentation(**{f.name: 0 for f in fields(Augmentation) if f.name != "style"})
    assert not augment(*mucosa(), replace(nothing, covered=1), np.random.default_rng(0))[1].any()
    assert augment(*mucosa(), nothing, np.random.default_rng(0))[1].any()
