"""8-bit weights that keep a convolution's answers, not its weights, nearest to what they were.

Weights are rounded one after the other; what each loses is made up for by those not yet rounded, as far as the inputs
that the convolution sees on real pictures allow. The file is no larger and no slower for it.

Source: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from polypstream.export.lookup import Array, Lookup, attribute
from polypstream.export.session import Pictures, observed

LARGEST = 127
"""Of the 8-bit numbers in use: the largest |weight| of each output channel becomes this."""
POSITIONS = 256
"""Places at which a convolution's input is looked at, on each picture."""
DAMPING = 0.01
"""Of the inputs' mean square, added to each: what hardly ever varies is not trusted to make up for much."""
TOGETHER = 64
"""Weights whose losses are carried on to the later ones in one multiplication."""


def rounded_weights(model: ModelProto, pictures: Pictures) -> Mapping[str, NDArray[np.int8]]:
    """The weights of every convolution of a float32 model in 8 bits, by their name, in steps of their channel's own.

    A step is 1/127 of the channel's largest |weight|. Depthwise and grouped convolutions, and those whose padding is
    not stated, are left to the nearest number. The same model and pictures give the same bytes.
    """
    look = Lookup(model.graph)
    convolutions = [node for node in model.graph.node if _is_plain(node, look)]
    moments = _second_moments(convolutions, look, model, pictures)
    return {name: _rounded(look.value(name), moment) for name, moment in moments.items()}


def _is_plain(node: NodeProto, look: Lookup) -> bool:
    if node.op_type != "Conv" or not look.is_constant(node.input[1]) or not look.shape(node.input[0]):
        return False
    return bool(attribute(node, "group", 1) == 1 and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET")


def _second_moments(
    convolutions: Sequence[NodeProto], look: Lookup, model: ModelProto, pictures: Pictures
) -> Mapping[str, NDArray[np.float64]]:
    """Per weight tensor, how the numbers that its weights are multiplied by go together: (k, k) for k of them."""
    random, moments = np.random.default_rng(0), dict[str, NDArray[np.float64]]()
    taken = sorted({node.input[0] for node in convolutions})
    for values in observed(model, pictures, tensors=taken):
        for node in convolutions:
            kernel = look.shape(node.input[1])[2:]
            seen = _places(values[node.input[0]][0], node, kernel, random).astype(np.float64)
            moments[node.input[1]] = moments.get(node.input[1], 0) + seen.T @ seen
    return moments


def _places(picture: Array, node: NodeProto, kernel: Sequence[int], random: np.random.Generator) -> Array:
    """What a convolution sees of (channels, height, width) at random places: (places, channels * kernel)."""
    strides, dilations = attribute(node, "strides", [1, 1]), attribute(node, "dilations", [1, 1])
    top, left, bottom, right = attribute(node, "pads", [0] * 4)
    padded = np.pad(picture, ((0, 0), (top, bottom), (left, right)))
    spans = [dilation * (size - 1) for dilation, size in zip(dilations, kernel, strict=True)]
    counts = [(s - span - 1) // by + 1 for s, span, by in zip(padded.shape[1:], spans, strides, strict=True)]
    rows, columns = (random.integers(0, n, POSITIONS) * by for n, by in zip(counts, strides, strict=True))
    offsets = [(y * dilations[0], x * dilations[1]) for y in range(kernel[0]) for x in range(kernel[1])]
    return np.stack([padded[:, rows + y, columns + x] for y, x in offsets], axis=1).reshape(-1, POSITIONS).T


def _rounded(weights: Array, moment: NDArray[np.float64]) -> NDArray[np.int8]:
    """Weights (outputs, inputs, height, width) as whole steps, given the second moment of what they multiply."""
    flat = weights.reshape(len(weights), -1).astype(np.float64)
    peaks = np.abs(flat).max(axis=1, keepdims=True)
    flat = flat * (LARGEST / np.where(peaks > 0, peaks, 1))
    order = np.argsort(-np.diag(moment), kind="stable")
    flat, moment = flat[:, order], moment[np.ix_(order, order)]
    damped = moment + max(DAMPING * np.diag(moment).mean(), np.finfo(np.float32).tiny) * np.eye(len(moment))
    carried = np.linalg.cholesky(np.linalg.inv(damped)).T
    whole = np.empty_like(flat)
    for start in range(0, flat.shape[1], TOGETHER):
        lost = np.empty_like(flat[:, start : start + TOGETHER])
        end = start + lost.shape[1]
        for i in range(start, end):
            whole[:, i] = np.round(flat[:, i]).clip(-LARGEST, LARGEST)
            lost[:, i - start] = (flat[:, i] - whole[:, i]) / carried[i, i]
            flat[:, i:end] -= np.outer(lost[:, i - start], carried[i, i:end])
        flat[:, end:] -= lost @ carried[start:end, end:]
    rounded = np.empty(flat.shape, np.int8)
    rounded[:, order] = whole
    return rounded.reshape(weights.shape)
