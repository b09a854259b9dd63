from dataclasses import fields, replace

import numpy as np
import pytest

from polypstream.errors import ConfigError
from polypstream.train.augment import PRESETS, Augmentation, augment
from tests.discs import disc_picture

NOTHING = Augmentation(**{field.name: 0 for field in fields(Augmentation) if field.name != "style"})
GEOMETRY = replace(NOTHING, flip=0.5, quarter_turn=0.5, rotation_deg=30, scale=0.35, aspect=0.1, shift=0.12)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_zero_strength_is_the_identity(shape: tuple[int, int]) -> None:
    rgb, mask = disc_picture(0, height=shape[0], width=shape[1])
    for seed in range(5):
        changed, changed_mask = augment(rgb, mask // 255, NOTHING, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed, rgb)
        np.testing.assert_array_equal(changed_mask, mask // 255)


@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
@pytest.mark.parametrize("border", [0.0, 1.0])
def test_geometry_moves_image_and_mask_together(shape: tuple[int, int], border: float) -> None:
    _, mask = disc_picture(1, height=shape[0], width=shape[1])
    painted = np.dstack([mask] * 3)
    moved = 0
    for seed in range(40):
        rgb, polyp = augment(painted, mask // 255, replace(GEOMETRY, border=border), np.random.default_rng(seed))
        assert np.mean((rgb[..., 0] > 127) != (polyp == 1)) < 0.02  # linear and nearest sampling differ on the edge
        moved += not np.array_equal(polyp, mask // 255)
    assert moved > 35


def test_zooming_in_on_a_clean_part_leaves_no_polyp_and_invents_no_image() -> None:
    mask = np.zeros((64, 64), np.uint8)
    mask[14:24, 14:24] = 1
    rgb = np.where(mask[..., None] == 1, (0, 255, 0), (200, 0, 0)).astype(np.uint8)
    zoomed = 0
    for seed in range(30):
        part, part_mask = augment(rgb, mask, replace(NOTHING, clean=1), np.random.default_rng(seed))
        assert part.shape == rgb.shape
        assert not part_mask.any() or np.array_equal(part, rgb)  # no part of that size is without a polyp
        if not part_mask.any():
            assert (part == (200, 0, 0)).all()
            zoomed += 1
    assert zoomed > 5


def test_an_image_full_of_polyp_has_no_clean_part() -> None:
    rgb, mask = np.full((32, 32, 3), 90, np.uint8), np.ones((32, 32), np.uint8)
    part, part_mask = augment(rgb, mask, replace(NOTHING, clean=1), np.random.default_rng(0))
    assert np.array_equal(part, rgb)
    assert part_mask.all()


def test_everything_combined_keeps_shapes_types_and_a_binary_mask() -> None:
    rgb, mask = disc_picture(2, height=40, width=56)
    always = replace(Augmentation(), blur=1, noise=1, glare=1, compression=1, border=1)
    for seed in range(30):
        changed, changed_mask = augment(rgb, mask // 255, always, np.random.default_rng(seed))
        assert changed.shape == rgb.shape
        assert changed_mask.shape == mask.shape
        assert changed.dtype == changed_mask.dtype == np.uint8
        assert set(np.unique(changed_mask)) <= {0, 1}


def test_color_changes_leave_the_mask_alone() -> None:
    rgb, mask = disc_picture(3)
    color = replace(Augmentation(), flip=0, quarter_turn=0, rotation_deg=0, scale=0, aspect=0, shift=0, border=0)
    for seed in range(10):
        changed, changed_mask = augment(rgb, mask // 255, color, np.random.default_rng(seed))
        np.testing.assert_array_equal(changed_mask, mask // 255)
        assert not np.array_equal(changed, rgb)


def test_lighting_changes_the_exposure_around_a_point_and_nothing_else() -> None:
    gray, mask = np.full((60, 80, 3), 100, np.uint8), np.ones((60, 80), np.uint8)
    gray[:, :10] = 0
    brighter = darker = 0
    for seed in range(40):
        lit, lit_mask = augment(gray, mask, replace(NOTHING, lighting=1), np.random.default_rng(seed))
        np.testing.assert_array_equal(lit_mask, mask)
        assert not lit[:, :10].any()
        assert (lit[..., 0] == lit[..., 1]).all()
        change = lit[:, 10:, 0].astype(int) - 100
        assert (change >= 0).all() or (change <= 0).all()
        brighter, darker = brighter + bool(change.max() > 20), darker + bool(change.min() < -20)
    assert brighter > 5
    assert darker > 5


def test_the_same_generator_gives_the_same_pair_and_another_one_does_not() -> None:
    rgb, mask = disc_picture(4, height=64, width=64)
    one, again, other = (augment(rgb, mask, Augmentation(), np.random.default_rng(seed))[0] for seed in (7, 7, 8))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_the_originals_are_unchanged() -> None:
    rgb, mask = disc_picture(5)
    before = rgb.copy(), mask.copy()
    for seed in range(10):
        augment(rgb, mask, replace(Augmentation(), border=1, glare=1), np.random.default_rng(seed))
    np.testing.assert_array_equal(rgb, before[0])
    np.testing.assert_array_equal(mask, before[1])


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_an_impossible_setting_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="glare"):
        Augmentation(glare=value)


def test_the_light_preset_goes_nowhere_further_than_the_strong_one_but_for_borders() -> None:
    light, strong = dict(vars(PRESETS["light"])), dict(vars(PRESETS["strong"]))
    assert PRESETS["strong"] == Augmentation()
    assert light.pop("style") == strong.pop("style")
    assert {name for name in light if light[name] > strong[name]} == {"border"}
    assert {name for name in light if light[name] == strong[name]} == {"flip", "quarter_turn", "covered", "lighting"}
