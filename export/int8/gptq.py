"""GPTQ rounding: 8-bit weights that minimize the error of a convolution's output, rather than that of its weights.

Weights are rounded one after the other. The rounding error of each is compensated by the weights not yet rounded,
based on the inputs that the convolution receives on calibration images. File size and speed stay the same.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from polypstream.export.graph import Array, Images, Lookup, attribute, observed
from polypstream.export.int8.weight_range import LARGEST, LARGEST_PAIR, neighbors, steps_of

POSITIONS = 256
"""Positions per image at which the input of a convolution is sampled."""
DAMPING = 0.01
"""Share of the inputs' mean square that is added to each of them, so that nearly constant inputs compensate little."""
TOGETHER = 64
"""Weights whose errors are propagated to the later ones in one multiplication (block size)."""


def gptq_weights(model: ModelProto, images: Images) -> Mapping[str, NDArray[np.int8]]:
    """Round the weights of every convolution to 8 bits, in the steps of `weight_range`.

    The same model and images give the same bytes.

    Args:
        model: Float32 model of static shape.
        images: Calibration images, uint8 RGB (n, height, width, 3), of the model's size.

    Returns:
        int8 weights by tensor name. Depthwise and grouped convolutions, and those without explicit padding, are
        missing: for these, round to nearest.
    """
    look = Lookup(model.graph)
    convolutions = [node for node in model.graph.node if _is_plain(node, look)]
    moments = _second_moments(convolutions, look, model, images)
    return {name: _rounded(look.value(name), moment) for name, moment in moments.items()}


def _is_plain(node: NodeProto, look: Lookup) -> bool:
    if node.op_type != "Conv" or not look.is_constant(node.input[1]) or not look.shape(node.input[0]):
        return False
    return bool(attribute(node, "group", 1) == 1 and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET")


def _second_moments(
    convolutions: Sequence[NodeProto], look: Lookup, model: ModelProto, images: Images
) -> Mapping[str, NDArray[np.float64]]:
    """Return the second moments (k, k) of the k inputs that each weight tensor is multiplied by."""
    random, moments = np.random.default_rng(0), dict[str, NDArray[np.float64]]()
    taken = sorted({node.input[0] for node in convolutions})
    for values in observed(model, images, tensors=taken):
        for node in convolutions:
            kernel = look.shape(node.input[1])[2:]
            seen = _places(values[node.input[0]][0], node, kernel, random).astype(np.float64)
            moments[node.input[1]] = moments.get(node.input[1], 0) + seen.T @ seen
    return moments


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


def _rounded(weights: Array, moment: NDArray[np.float64]) -> NDArray[np.int8]:
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
