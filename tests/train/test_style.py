from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from polypstream.errors import ConfigError
from polypstream.train.augment import PRESETS, Augmentation, augment
from polypstream.train.style import HIGHEST_FREQUENCY, Image, Style, restyled
from tests.discs import disc_picture

CHANGES = [field.name for field in fields(Style)]


def smooth(seed: int, *, height: int = 96, width: int = 128) -> Image:
    """An image of mild waves, similar to endoscopic images."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 220, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def changed(rgb: Image, other: Image, name: str, seed: int = 0) -> Image:
    return restyled(rgb, other, replace(Style(), **{name: 1.0}), np.random.default_rng(seed))


def test_zero_strength_is_the_identity() -> None:
    np.testing.assert_array_equal(restyled(smooth(0), smooth(1), Style(), np.random.default_rng(0)), smooth(0))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_is_mild_and_repeatable(name: str) -> None:
    before, rgb = smooth(0), smooth(0)
    results = [changed(rgb, smooth(1), name, seed) for seed in range(8)]
    np.testing.assert_array_equal(rgb, before)
    assert {result.dtype for result in results} == {np.dtype(np.uint8)}
    assert {result.shape for result in results} == {rgb.shape}
    assert any(not np.array_equal(result, rgb) for result in results)
    assert all(np.abs(result.astype(float) - rgb).mean() < 70 for result in results)
    np.testing.assert_array_equal(changed(rgb, smooth(1), name, 3), results[3])


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(8, 8), (33, 70), (64, 40)])
def test_any_size_will_do(name: str, shape: tuple[int, int]) -> None:
    rgb, other = (disc_picture(seed, height=40, width=72)[0][: shape[0], : shape[1]] for seed in (0, 1))
    rgb = np.resize(rgb, (*shape, 3))
    other = np.resize(other, (*shape, 3))
    assert changed(rgb, other, name).shape == rgb.shape


@pytest.mark.parametrize("name", ["color", "amplitude"])
def test_a_black_border_stays_black(name: str) -> None:
    rgb = smooth(0)
    rgb[:, :20] = 0
    assert not changed(rgb, smooth(1), name)[:, :20].any()


def test_the_colors_of_an_image_approach_those_of_the_other_one() -> None:
    rgb, other = smooth(0), np.full_like(smooth(0), (200, 60, 40))
    for seed in range(5):
        result = changed(rgb, other, "color", seed)
        before, after = (np.abs(each.mean((0, 1)) - other.mean((0, 1))).sum() for each in (rgb, result))
        assert after < before


def test_amplitudes_preserve_fine_detail() -> None:
    rgb = np.full((96, 96, 3), 120, np.uint8)
    rgb[:, ::2] += 20
    result = changed(rgb, smooth(2, width=96), "amplitude", 1)
    detail = result.astype(float) - cv2.blur(result, (2, 1))
    expected = rgb.astype(float) - cv2.blur(rgb, (2, 1))
    assert HIGHEST_FREQUENCY < 48
    np.testing.assert_allclose(detail[8:-8, 8:-8], expected[8:-8, 8:-8], atol=6)


def test_interlacing_moves_every_second_row_alone() -> None:
    result = changed(smooth(0), smooth(1), "interlacing", 2)
    np.testing.assert_array_equal(result[::2], smooth(0)[::2])
    assert not np.array_equal(result[1::2], smooth(0)[1::2])


def test_an_augmentation_takes_its_style_from_the_other_image() -> None:
    nothing = Augmentation(**{f.name: 0 for f in fields(Augmentation) if f.name != "style"})
    mask = np.zeros(smooth(0).shape[:2], np.uint8)
    settings = replace(nothing, style=Style(color=1))
    plain, _ = augment(smooth(0), mask, settings, np.random.default_rng(0))
    styled, _ = augment(smooth(0), mask, settings, np.random.default_rng(0), other=smooth(1))
    np.testing.assert_array_equal(plain, smooth(0))
    assert not np.array_equal(styled, plain)
    assert PRESETS["hospitals"].style != Style()


def test_a_negative_probability_is_refused() -> None:
    with pytest.raises(ConfigError, match="interlacing"):
        Augmentation(style=Style(interlacing=-1))
