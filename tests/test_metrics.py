from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.metrics import Interval, Overlap, mean_dice, mean_with_interval

SHAPE = (6, 7)
masks = st.binary(min_size=SHAPE[0] * SHAPE[1], max_size=SHAPE[0] * SHAPE[1]).map(
    lambda raw: np.frombuffer(raw, np.uint8).reshape(SHAPE) % 2 == 1
)
scores = st.lists(st.floats(0, 1), min_size=1, max_size=40)


@given(masks, masks)
def test_dice_follows_from_iou(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> None:
    overlap = Overlap.of(truth, prediction)
    assert overlap.dice == pytest.approx(2 * overlap.iou / (1 + overlap.iou))


@given(masks, masks)
def test_scores_stay_between_0_and_1_and_in_order(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> None:
    overlap = Overlap.of(truth, prediction)
    for score in (overlap.dice, overlap.iou, overlap.class_mean_iou, overlap.precision, overlap.recall):
        assert 0 <= score <= 1
    assert overlap.iou <= overlap.dice


@given(masks, masks)
def test_swapping_truth_and_prediction_swaps_precision_and_recall(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_]
) -> None:
    assume(truth.any() and prediction.any())
    one, other = Overlap.of(truth, prediction), Overlap.of(prediction, truth)
    assert (one.dice, one.iou, one.class_mean_iou) == (other.dice, other.iou, other.class_mean_iou)
    assert (one.precision, one.recall) == (other.recall, other.precision)


@given(masks, masks)
def test_counts_add_up_to_every_pixel(truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> None:
    assert sum(vars(Overlap.of(truth, prediction)).values()) == truth.size


@given(masks)
def test_a_mask_against_itself_is_perfect(mask: NDArray[np.bool_]) -> None:
    overlap = Overlap.of(mask, mask)
    assert (overlap.dice, overlap.iou, overlap.class_mean_iou, overlap.precision, overlap.recall) == (1, 1, 1, 1, 1)


def test_empty_against_empty_scores_1() -> None:
    nothing = np.zeros(SHAPE, bool)
    assert Overlap.of(nothing, nothing).dice == Overlap.of(nothing, nothing).iou == 1


def test_one_empty_mask_scores_0() -> None:
    nothing, something = np.zeros(SHAPE, bool), np.eye(*SHAPE, dtype=bool)
    missed, alarm = Overlap.of(something, nothing), Overlap.of(nothing, something)
    assert missed.dice == missed.iou == missed.precision == missed.recall == 0
    assert alarm.dice == alarm.iou == alarm.precision == 0
    assert alarm.recall == 1


def test_scores_by_hand() -> None:
    truth, prediction = np.zeros((4, 5), bool), np.zeros((4, 5), bool)
    truth[1:3, 1:4] = True  # 6 pixels
    prediction[2:4, 2:4] = True  # 4 pixels, 2 of them common: 8 in the union, 12 of 20 outside it
    overlap = Overlap.of(truth, prediction)
    assert overlap == Overlap(true_positive=2, false_positive=2, false_negative=4, true_negative=12)
    assert overlap.dice == pytest.approx(float(Fraction(2 * 2, 6 + 4)))
    assert overlap.iou == pytest.approx(float(Fraction(2, 8)))
    assert overlap.class_mean_iou == pytest.approx(float((Fraction(2, 8) + Fraction(12, 18)) / 2))
    assert overlap.precision == pytest.approx(0.5)
    assert overlap.recall == pytest.approx(float(Fraction(2, 6)))


def test_mean_dice_weighs_images_alike() -> None:
    full, nothing = np.ones((2, 2), bool), np.zeros((2, 2), bool)
    assert mean_dice([full, full, nothing], [full, nothing, nothing]) == pytest.approx(2 / 3)


def test_masks_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Overlap.of(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_masks_that_are_not_bool_are_refused() -> None:
    with pytest.raises(TypeError, match="bool"):
        Overlap.of(np.zeros((2, 3), bool), np.zeros((2, 3), np.uint8))


@given(scores)
def test_interval_holds_the_mean_and_stays_within_the_scores(values: list[float]) -> None:
    interval = mean_with_interval(values, resamples=200)
    assert interval.mean == pytest.approx(np.mean(values))
    assert min(values) - 1e-12 <= interval.low <= interval.high <= max(values) + 1e-12
    assert interval.count == len(values)


def test_interval_covers_the_true_mean_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    intervals = [mean_with_interval(rng.beta(8, 2, size=100), resamples=400, seed=n) for n in range(200)]
    assert 0.90 <= np.mean([interval.low <= 0.8 <= interval.high for interval in intervals]) <= 0.99


def test_interval_is_the_same_every_time() -> None:
    assert mean_with_interval([0.1, 0.5, 0.9]) == mean_with_interval([0.1, 0.5, 0.9])


def test_interval_prints_mean_and_bounds() -> None:
    assert str(Interval(mean=0.81, low=0.7, high=0.9, count=3)) == "0.8100 [0.7000, 0.9000]"


@pytest.mark.parametrize("values", [[], [[0.1, 0.2]]])
def test_interval_needs_one_number_per_image(values: list[object]) -> None:
    with pytest.raises(ValueError, match="one number per image"):
        mean_with_interval(values)  # type: ignore[arg-type]
