"""The training recipe: losses, learning-rate schedule, and deep supervision."""

import math
from collections.abc import Sequence

import keras
import numpy as np
from keras import KerasTensor, layers, ops

DICE_SMOOTHING = 1.0
"""Pixels added to both sides of the Dice ratio, so that an image with no polyp still has a gradient."""


@keras.saving.register_keras_serializable(package="polypstream")  # type: ignore[untyped-decorator]
def bce_dice(truth: KerasTensor, probability: KerasTensor) -> KerasTensor:
    """Mean over the batch of binary cross-entropy plus (1 − soft Dice), computed per image in float32.

    `truth` is (batch, H, W, 1) in [0, 1]; `probability` is (batch, H/k, W/k, 1). A coarser prediction is compared with
    the truth averaged over k×k pixels.
    """
    truth, probability = _at_one_scale(truth, probability)
    cross_entropy = ops.mean(keras.losses.binary_crossentropy(truth, probability))
    overlap = ops.sum(truth * probability, axis=(1, 2, 3))
    total = ops.sum(truth, axis=(1, 2, 3)) + ops.sum(probability, axis=(1, 2, 3))
    dice = (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
    return cross_entropy + 1 - ops.mean(dice)


EDGE_WEIGHT = 5.0
"""Largest additional weight of a pixel, where its neighborhood is of the other class."""
EDGE_REACH = 1 / 11
"""Side of the neighborhood, as a fraction of the image side."""


@keras.saving.register_keras_serializable(package="polypstream")  # type: ignore[untyped-decorator]
def structure(truth: KerasTensor, probability: KerasTensor) -> KerasTensor:
    """Cross-entropy plus (1 − soft IoU), with up to six times the weight on pixels near an outline, computed per image.

    Shapes and scales as for `bce_dice`. Source: Wei et al., "F3Net: Fusion, Feedback and Focus for Salient Object
    Detection", AAAI 2020.
    """
    truth, probability = _at_one_scale(truth, probability)
    weight = 1 + EDGE_WEIGHT * ops.abs(_surroundings(truth) - truth)
    limited = ops.clip(probability, 1e-6, 1 - 1e-6)
    cross_entropy = -truth * ops.log(limited) - (1 - truth) * ops.log(1 - limited)
    cross_entropy = _sum(cross_entropy * weight) / _sum(weight)
    overlap, total = _sum(truth * probability * weight), _sum((truth + probability) * weight)
    iou = (overlap + DICE_SMOOTHING) / (total - overlap + DICE_SMOOTHING)
    return ops.mean(cross_entropy + 1 - iou)


def _at_one_scale(truth: KerasTensor, probability: KerasTensor) -> tuple[KerasTensor, KerasTensor]:
    truth, probability = ops.cast(truth, "float32"), ops.cast(probability, "float32")
    factor = truth.shape[1] // probability.shape[1]
    if factor > 1:
        height, width = probability.shape[1:3]
        truth = ops.mean(ops.reshape(truth, (-1, height, factor, width, factor, 1)), axis=(2, 4))
    return truth, probability


def _surroundings(truth: KerasTensor) -> KerasTensor:
    """Mean over the part of a square around each pixel that lies within the image."""
    for axis in (1, 2):
        side = truth.shape[axis]
        reach = max(1, round(side * EDGE_REACH / 2))
        last = np.minimum(np.arange(side) + reach, side - 1)
        before = np.maximum(np.arange(side) - reach, 0)
        sums = ops.cumsum(truth, axis=axis)
        first = ops.take(sums - truth, before, axis=axis)
        counts = (last - before + 1).astype(np.float32).reshape([-1 if each == axis else 1 for each in range(4)])
        truth = (ops.take(sums, last, axis=axis) - first) / counts
    return truth


def _sum(x: KerasTensor) -> KerasTensor:
    return ops.sum(x, axis=(1, 2, 3))


LOSSES = {"bce-dice": bce_dice, "structure": structure}
"""Losses by the name that `polypstream train --loss` accepts."""


def one_cycle(done: float, *, peak: float, warmup_share: float) -> float:
    """Learning rate after a fraction `done` of the run: linear from peak/25 to `peak`, then cosine to peak/1000."""
    if done < warmup_share:
        return peak / 25 + (peak - peak / 25) * done / warmup_share
    falling = min(1.0, (done - warmup_share) / (1 - warmup_share))
    return peak * (0.001 + 0.999 * (1 + math.cos(math.pi * falling)) / 2)


AUXILIARY_WEIGHT = 0.4
"""Weight of each auxiliary head's loss, relative to the output's weight of 1."""


def with_auxiliary_heads(network: keras.Model, layer_names: Sequence[str]) -> keras.Model:
    """Build a model on the same layers and weights with additional 1×1 heads on the named layers.

    Its outputs are `[probability, auxiliary…]`, the auxiliary ones at their layer's resolution.
    """
    heads = []
    for name in layer_names:
        logit = layers.Conv2D(1, 1, name=f"auxiliary_{name}_logit")(network.get_layer(name).output)
        heads.append(layers.Activation("sigmoid", dtype="float32", name=f"auxiliary_{name}")(logit))
    return keras.Model(network.input, [network.output, *heads], name=f"{network.name}_supervised")


def loss_weights(layer_names: Sequence[str]) -> list[float]:
    """Loss weights for the outputs of `with_auxiliary_heads`, in order."""
    return [1.0] + [AUXILIARY_WEIGHT] * len(layer_names)
