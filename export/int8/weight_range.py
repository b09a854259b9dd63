"""Range of 8-bit weights in which no CPU saturates.

CPUs without VNNI or AMX instructions (x86 before about 2019 to 2022) multiply unsigned 8-bit activations by signed
8-bit weights and add two neighboring products in 16 bits. This saturates without notice if two large weights meet
bright activations: 255 * (127 + 127) exceeds 32767. ONNX Runtime and oneDNN use this instruction. So each channel
is scaled so that the sum of two neighboring weights of one sign is at most 128. Most channels lose about a quarter of a
bit of resolution by that; limiting all weights to 7 bits, the usual remedy, loses a whole bit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST = 127
"""Largest 8-bit value used."""
LARGEST_PAIR = 32767 // 255
"""Largest sum of two neighboring weights of the same sign."""
_AIM = LARGEST_PAIR - 4
"""The sum that channels are scaled to; rounding may still change it a little."""


def neighbors(shape: Sequence[int]) -> NDArray[np.intp]:
    """Find the weight whose product is added in 16 bits to that of each weight of a convolution.

    The runtimes order the inputs of a convolution by position, then by channel, and pair them from the first.

    Args:
        shape: Shape of the weights: outputs, inputs, height, width.

    Returns:
        For each weight of a flattened output channel, the index of its neighbor; its own if it has none.
    """
    _, inputs, height, width = shape
    by_position = np.arange(inputs * height * width).reshape(inputs, height * width).T.ravel()
    place = np.argsort(by_position)
    other = place ^ 1
    return by_position[np.where(other < len(place), other, place)]


def largest_integers(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the value that the largest |weight| of each output channel is scaled to, at most `LARGEST`.

    Args:
        weights: Weights of a convolution: (outputs, inputs, height, width).
    """
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    other = neighbors(weights.shape)
    alone = other == np.arange(len(other))
    pairs = [np.maximum(sign * flat, 0) + np.where(alone, 0, np.maximum(sign * flat[:, other], 0)) for sign in (1, -1)]
    largest_pair = np.maximum(*pairs).max(axis=1)
    peaks = np.abs(flat).max(axis=1)
    share = np.divide(peaks, largest_pair, out=np.ones_like(peaks), where=largest_pair > 0)
    return np.asarray(np.minimum(LARGEST, _AIM * share), np.float64)


def steps_of(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the quantization step of each output channel.

    Args:
        weights: Weights of a convolution: (outputs, inputs, height, width).
    """
    peaks = np.abs(weights.reshape(len(weights), -1)).max(axis=1).astype(np.float64)
    return np.asarray(np.where(peaks > 0, peaks, 1) / largest_integers(weights), np.float64)


def depthwise_steps_of(weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the quantization step of each channel of a depthwise convolution.

    Its products are added in 32 bits, so that its weights use the whole range.

    Args:
        weights: Weights (channels, 1, height, width).
    """
    peaks = np.abs(weights.reshape(len(weights), -1)).max(axis=1).astype(np.float64)
    return np.asarray(np.where(peaks > 0, peaks, 1) / LARGEST, np.float64)
