"""Rounding of weights to 8 bits that minimizes the error of a convolution's output, rather than that of its weights.

The inputs that a convolution receives on calibration images are correlated, so rounding errors of several weights can
cancel. File size and speed stay the same.

- Plain convolutions, by GPTQ: weights are rounded one after the other, and the rounding error of each is compensated by
  those not yet rounded.
- Depthwise convolutions, by coordinate descent: the few weights of a channel are changed by one step, singly and in
  pairs, as long as the error decreases. Their channels mix nothing, so rounding to nearest hurts them most.

The mean error that remains in each output is added to the bias (bias correction).

Sources: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023;
Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from polypstream.export.graph import Array, Images, Lookup, attribute, observed
from polypstream.export.int8.weight_range import LARGEST, LARGEST_PAIR, depthwise_steps_of, neighbors, steps_of

POSITIONS = 256
"""Positions per image at which the input of a convolution is sampled."""
DAMPING = 0.01
"""Share of the inputs' mean square that is added to each of them, so that nearly constant inputs compensate little."""
DEPTHWISE_DAMPING = 1e-4
"""The same for depthwise convolutions, whose inputs are few and sampled well."""
TOGETHER = 64
"""Weights whose errors are propagated to the later ones in one multiplication (block size)."""
MOST_CHANGES = 256
"""Upper limit of the changes per channel of a depthwise convolution; it is never reached in practice."""


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """The 8-bit weights of a convolution."""

    weights: NDArray[np.int8]
    """(outputs, inputs per group, height, width)."""
    lost: NDArray[np.float64]
    """Mean of each output on the calibration images minus that with the rounded weights: (outputs,)."""


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """Mean and second moment of the k inputs that the weights of each group are multiplied by."""

    mean: NDArray[np.float64]
    """(groups, k)."""
    moment: NDArray[np.float64]
    """(groups, k, k)."""


def rounded_weights(model: ModelProto, images: Images) -> Mapping[str, Rounded]:
    """Round the weights of every plain and depthwise convolution to 8 bits, in the steps of `weight_range`.

    The same model and images give the same bytes.

    Args:
        model: Float32 model of static shape.
        images: Calibration images, uint8 RGB (n, height, width, 3), of the model's size.

    Returns:
        The rounded weights by tensor name. Other grouped convolutions, and those without explicit padding, are
        missing: for these, round to nearest.
    """
    look = Lookup(model.graph)
    convolutions = [node for node in model.graph.node if _is_plain_or_depthwise(node, look)]
    found = _inputs(convolutions, look, model, images)
    rounded = {}
    for node in convolutions:
        weights, inputs = look.value(node.input[1]), found[node.input[1]]
        if attribute(node, "group", 1) > 1:
            whole, steps = _rounded_depthwise(weights, inputs.moment), depthwise_steps_of(weights)
        else:
            whole, steps = _rounded_plain(weights, inputs.moment[0]), steps_of(weights)
        errors = (weights - whole * steps.reshape(-1, 1, 1, 1)).reshape(len(weights), -1)
        rounded[node.input[1]] = Rounded(weights=whole, lost=(errors * inputs.mean).sum(axis=1))
    return rounded


def _is_plain_or_depthwise(node: NodeProto, look: Lookup) -> bool:
    if node.op_type != "Conv" or not look.is_constant(node.input[1]) or not look.shape(node.input[0]):
        return False
    groups = attribute(node, "group", 1)
    is_known = groups == 1 or look.shape(node.input[1])[:2] == (groups, 1)
    return bool(is_known and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET")


def _inputs(
    convolutions: Sequence[NodeProto], look: Lookup, model: ModelProto, images: Images
) -> Mapping[str, _Inputs]:
    """Sample the inputs of convolutions, by name of the weight tensor."""
    random = np.random.default_rng(0)
    samples = dict.fromkeys((node.input[1] for node in convolutions), 0)
    sums: dict[str, NDArray[np.float64]] = {}
    products: dict[str, NDArray[np.float64]] = {}
    for values in observed(model, images, tensors=sorted({node.input[0] for node in convolutions})):
        for node in convolutions:
            name, kernel = node.input[1], look.shape(node.input[1])[2:]
            seen = _places(values[node.input[0]][0], node, kernel, random).astype(np.float64)
            seen = seen.reshape(POSITIONS, attribute(node, "group", 1), -1).swapaxes(0, 1)
            samples[name] += POSITIONS
            sums[name] = sums.get(name, 0) + seen.sum(axis=1)
            products[name] = products.get(name, 0) + seen.swapaxes(1, 2) @ seen
    return {name: _Inputs(mean=sums[name] / samples[name], moment=products[name]) for name in sums}


def _places(image: Array, node: NodeProto, kernel: Sequence[int], random: np.random.Generator) -> Array:
    """Sample the receptive fields of a convolution in (channels, height, width): (places, channels * kernel)."""
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    padded = np.pad(image, ((0, 0), (top, bottom), (left, right)))
    spans = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    counts = [(s - span - 1) // by + 1 for s, span, by in zip(padded.shape[1:], spans, strides, strict=True)]
    rows, columns = (random.integers(0, n, POSITIONS) * by for n, by in zip(counts, strides, strict=True))
    offsets = [(y * dilations[0], x * dilations[1]) for y in range(kernel[0]) for x in range(kernel[1])]
    return np.stack([padded[:, rows + y, columns + x] for y, x in offsets], axis=1).reshape(-1, POSITIONS).T


def _rounded_plain(weights: Array, moment: NDArray[np.float64]) -> NDArray[np.int8]:
    """Round weights (outputs, inputs, height, width) to integers, given the second moments of their inputs."""
    flat = weights.reshape(len(weights), -1) / steps_of(weights)[:, None]
    order = np.argsort(-np.diag(moment), kind="stable")
    neighbor = np.argsort(order)[neighbors(weights.shape)[order]]
    flat, moment = flat[:, order], moment[np.ix_(order, order)]
    damped = moment + max(DAMPING * np.diag(moment).mean(), np.finfo(np.float32).tiny) * np.eye(len(moment))
    carried = np.linalg.cholesky(np.linalg.inv(damped)).T
    whole = np.zeros_like(flat)
    for start in range(0, flat.shape[1], TOGETHER):
        lost = np.empty_like(flat[:, start : start + TOGETHER])
        end = start + lost.shape[1]
        for i in range(start, end):
            other = whole[:, neighbor[i]]  # 0 if it is rounded later
            lowest = np.maximum(-LARGEST, -LARGEST_PAIR - np.minimum(other, 0))
            highest = np.minimum(LARGEST, LARGEST_PAIR - np.maximum(other, 0))
            whole[:, i] = np.round(flat[:, i]).clip(lowest, highest)
            lost[:, i - start] = (flat[:, i] - whole[:, i]) / carried[i, i]
            flat[:, i:end] -= np.outer(lost[:, i - start], carried[i, i:end])
        flat[:, end:] -= lost @ carried[start:end, end:]
    rounded = np.empty(flat.shape, np.int8)
    rounded[:, order] = whole
    return rounded.reshape(weights.shape)


def _rounded_depthwise(weights: Array, moments: NDArray[np.float64]) -> NDArray[np.int8]:
    """Round weights (channels, 1, height, width) to integers, given the second moments (channels, k, k)."""
    flat = weights.reshape(len(weights), -1) / depthwise_steps_of(weights)[:, None]
    whole, changes = np.round(flat), _changes(flat.shape[1])
    diagonal = np.trace(moments, axis1=1, axis2=2)[:, None, None] / flat.shape[1]
    damped = moments + np.maximum(DEPTHWISE_DAMPING * diagonal, np.finfo(np.float32).tiny) * np.eye(flat.shape[1])
    own = np.einsum("nk,ckl,nl->cn", changes, damped, changes, optimize=True)
    channels = np.arange(len(flat))
    for _ in range(MOST_CHANGES):
        slope = np.einsum("ckl,cl->ck", damped, whole - flat)
        gain = own + 2 * slope @ changes.T
        exceeds = (whole >= LARGEST) @ (changes > 0).T | (whole <= -LARGEST) @ (changes < 0).T
        best = np.where(exceeds, np.inf, gain).argmin(axis=1)
        helps = (gain[channels, best] < -1e-9 * own[channels, best]) & ~exceeds[channels, best]
        if not helps.any():
            break
        whole[helps] += changes[best[helps]]
    return np.asarray(whole.reshape(weights.shape), np.int8)


def _changes(count: int) -> NDArray[np.float64]:
    """List the changes of one weight and of two by one step: (changes, count)."""
    one = np.eye(count)
    pairs = [
        first * one[i] + second * one[j]
        for i, j in combinations(range(count), 2)
        for first, second in product((1, -1), repeat=2)
    ]
    return np.array([*one, *-one, *pairs])
