"""The training loss: binary cross-entropy plus soft Dice, at whatever scale a head predicts."""

import keras
from keras import KerasTensor, ops

DICE_SMOOTHING = 1.0
"""Pixels added to both sides of the Dice ratio, so that an image with no polyp still has a gradient."""


@keras.saving.register_keras_serializable(package="polypstream")  # type: ignore[untyped-decorator]
def bce_dice(truth: KerasTensor, probability: KerasTensor) -> KerasTensor:
    """Mean over the batch of binary cross-entropy plus (1 − soft Dice), computed per image in float32.

    `truth` is (batch, H, W, 1) in [0, 1]; `probability` is (batch, H/k, W/k, 1). A coarser prediction is held against
    the truth averaged over k×k pixels.
    """
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    factor = truth.shape[1] // probability.shape[1]
    if factor > 1:
        truth = ops.average_pool(truth, factor, strides=factor, padding="valid", data_format="channels_last")
    cross_entropy = ops.mean(keras.losses.binary_crossentropy(truth, probability))
    overlap = ops.sum(truth * probability, axis=(1, 2, 3))
    total = ops.sum(truth, axis=(1, 2, 3)) + ops.sum(probability, axis=(1, 2, 3))
    dice = (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
    return cross_entropy + 1 - ops.mean(dice)
