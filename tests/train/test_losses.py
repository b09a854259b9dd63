import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.train.recipe import DICE_SMOOTHING, bce_dice, structure

Maps = NDArray[np.float32]


def loss(truth: Maps, probability: Maps) -> float:
    tensors = keras.ops.convert_to_tensor(truth), keras.ops.convert_to_tensor(probability)
    return float(keras.ops.convert_to_numpy(bce_dice(*tensors)))


def maps(*values: float, side: int = 8) -> Maps:
    return np.stack([np.full((side, side, 1), value, np.float32) for value in values])


def half() -> Maps:
    truth = maps(0.0)
    truth[:, :4] = 1
    return truth


def test_by_hand() -> None:
    probability = np.where(half() == 1, 0.8, 0.1).astype(np.float32)
    cross_entropy = -(np.log(0.8) + np.log(0.9)) / 2
    dice = (2 * 32 * 0.8 + DICE_SMOOTHING) / (32 + 32 * 0.8 + 32 * 0.1 + DICE_SMOOTHING)
    assert loss(half(), probability) == pytest.approx(cross_entropy + 1 - dice, rel=1e-5)


def test_a_perfect_map_costs_nothing() -> None:
    assert loss(half(), half()) == pytest.approx(0, abs=1e-5)


def test_an_empty_mask_rewards_an_empty_map() -> None:
    assert loss(maps(0.0), maps(1e-7)) == pytest.approx(0, abs=1e-4)
    assert loss(maps(0.0), maps(0.5)) > loss(maps(0.0), maps(0.1)) > 0.1


def test_dice_is_taken_per_image() -> None:
    truth, probability = np.concatenate([half(), maps(0.0)]), maps(0.6, 0.3)
    apart = (loss(truth[:1], probability[:1]) + loss(truth[1:], probability[1:])) / 2
    assert loss(truth, probability) == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_coarser_map_is_compared_with_the_averaged_mask(factor: int) -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((2, 16, 24, 1)) > 0.5).astype(np.float32)
    averaged = truth.reshape(2, 16 // factor, factor, 24 // factor, factor, 1).mean(axis=(2, 4))
    probability = rng.random(averaged.shape, np.float32)
    assert loss(truth, probability) == pytest.approx(loss(averaged, probability), rel=1e-5)


def test_half_precision_is_computed_in_float32() -> None:
    truth = maps(1.0, side=64)
    probability = keras.ops.cast(keras.ops.convert_to_tensor(maps(0.75, side=64)), "bfloat16")
    assert float(
        keras.ops.convert_to_numpy(bce_dice(keras.ops.convert_to_tensor(truth), probability))
    ) == pytest.approx(loss(truth, maps(0.75, side=64)), rel=1e-5)


def edge_loss(truth: Maps, probability: Maps) -> float:
    tensors = keras.ops.convert_to_tensor(truth), keras.ops.convert_to_tensor(probability)
    return float(keras.ops.convert_to_numpy(structure(*tensors)))


def test_structure_by_hand() -> None:
    truth = half()
    probability = np.where(truth == 1, 0.8, 0.1).astype(np.float32)
    shares = np.array([1, 1, 1, 2 / 3, 1 / 3, 0, 0, 0], np.float32)  # of polyp among a row and its neighbors
    weight = (1 + 5 * np.abs(shares - truth[0, :, 0, 0]))[:, None].repeat(8, 1)
    right, wrong = weight[:4].sum(), weight[4:].sum()
    cross_entropy = -(np.log(0.8) * right + np.log(0.9) * wrong) / (right + wrong)
    overlap, total = 0.8 * right, 1.8 * right + 0.1 * wrong
    iou = (overlap + DICE_SMOOTHING) / (total - overlap + DICE_SMOOTHING)
    assert edge_loss(truth, probability) == pytest.approx(cross_entropy + 1 - iou, rel=1e-4)


def test_structure_costs_nothing_where_all_is_right() -> None:
    assert edge_loss(half(), half()) == pytest.approx(0, abs=1e-4)
    assert edge_loss(maps(0.0), maps(0.0)) == pytest.approx(0, abs=1e-4)


def test_a_fault_at_an_outline_costs_more_than_one_far_from_it() -> None:
    truth = np.zeros((1, 32, 32, 1), np.float32)
    truth[:, :16] = 1
    near, far = truth.copy(), truth.copy()
    near[:, 16], far[:, 31] = 0.9, 0.9
    assert edge_loss(truth, near) > 1.5 * edge_loss(truth, far)
