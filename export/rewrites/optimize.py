"""Graph optimization: applies exact rewrites until none matches; and folding of linear operations into convolutions.

A 1×1 convolution of a sum of convolutions equals a sum of convolutions with other weights. A positive scale per channel
commutes with sums, maximum pooling, rearrangement of pixels and convolutions; of a normalization after a sum, only a
bias remains. Feature maps are NCHW."""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from polypstream.export.graph import Array, Lookup, add_constant, attribute, with_shapes, without_unused
from polypstream.export.rewrites.upsampling import upsample_late


def optimize(model: ModelProto) -> ModelProto:
    """Reduce the multiplications of a model; the result is equal up to rounding.

    Args:
        model: Model of static shape with feature maps in NCHW; it is not changed.

    Returns:
        An optimized copy with the same metadata, inputs and outputs. A model without the known patterns is returned
        unchanged.

    Raises:
        onnx.checker.ValidationError: The result is not a valid model, which is a bug rather than invalid input.
    """
    model, changed = with_shapes(model), False
    while fold_linear(model.graph) or upsample_late(model.graph):
        changed = True
        model = without_unused(model)
    if changed:
        onnx.checker.check_model(model, full_check=True)
    return model


def fold_linear(graph: GraphProto) -> bool:
    """Apply the first rewrite that matches; returns False if none does. Shapes must be known."""
    look = Lookup(graph)
    return any(_fold_pointwise_conv(node, look) or _fold_normalization(node, look) for node in graph.node)


def _fold_pointwise_conv(node: NodeProto, look: Lookup) -> bool:
    """Fold a 1×1 convolution into the convolutions whose sum it reads, if that saves multiplications."""
    if not is_constant_conv(node, look) or not _is_pointwise(node, look):
        return False
    branches = _summands(node.input[0], look)
    if branches is None or not all(is_constant_conv(branch, look) for branch in branches):
        return False
    weight = look.value(node.input[1])[:, :, 0, 0].astype(np.float64)
    taps = sum(int(np.prod(look.shape(branch.input[1])[1:])) for branch in branches)
    if taps * weight.shape[0] > taps * weight.shape[1] + weight.size:
        return False
    bias = _bias(node, look) + weight @ sum(_bias(branch, look) for branch in branches)
    for index, branch in enumerate(branches):
        folded = np.tensordot(weight, look.value(branch.input[1]).astype(np.float64), axes=1)
        _set_parameters(branch, look.graph, folded, bias if index == 0 else None)
    _bypass(node, look)
    return True


def _fold_normalization(node: NodeProto, look: Lookup) -> bool:
    """Fold a normalization with positive scales into the convolutions whose (pooled) sum it reads."""
    if node.op_type != "BatchNormalization" or not all(look.is_constant(name) for name in node.input[1:]):
        return False
    branches = _summands(node.input[0], look, through=("MaxPool", "Slice", "DepthToSpace"))
    scale, shift = affine(node, look)
    if branches is None or not all(is_constant_conv(branch, look) for branch in branches) or scale.min() <= 0:
        return False
    for index, branch in enumerate(branches):
        copies = look.shape(branch.input[1])[0] // len(scale)  # DepthToSpace moves channels to pixels
        scales, shifts = np.tile(scale, copies), np.tile(shift, copies)
        weight = look.value(branch.input[1]) * scales[:, np.newaxis, np.newaxis, np.newaxis]
        bias = _bias(branch, look) * scales + (shifts if index == 0 else 0)
        _set_parameters(branch, look.graph, weight, bias)
    _bypass(node, look)
    return True


def _summands(name: str, look: Lookup, *, through: Sequence[str] = ()) -> list[NodeProto] | None:
    """Return the nodes whose outputs add up to this tensor, in order; None if another node uses one of them."""
    node = look.producer(name)
    if node is None or look.sole_user(name) is None:
        return None
    if node.op_type == "Add":
        parts = [_summands(part, look, through=through) for part in node.input]
        return None if None in parts else [branch for part in parts if part is not None for branch in part]
    if node.op_type in through and _keeps_channels(node, look):
        return _summands(node.input[0], look, through=through)
    return [node]


def _keeps_channels(node: NodeProto, look: Lookup) -> bool:
    """Whether the node preserves the order of channels; for DepthToSpace, within each copy."""
    if node.op_type == "Slice":
        axes = look.constant(node.input[3]) if len(node.input) > 3 else None
        return axes is not None and axes.min() >= 2
    return node.op_type != "DepthToSpace" or attribute(node, "mode", b"DCR") == b"DCR"


def is_constant_conv(node: NodeProto, look: Lookup) -> bool:
    """Whether the node is an ungrouped two-dimensional convolution with constant weights."""
    return (
        node.op_type == "Conv"
        and all(look.is_constant(name) for name in node.input[1:])
        and attribute(node, "group", 1) == 1
        and len(look.shape(node.input[1])) == 4
    )


def _is_pointwise(node: NodeProto, look: Lookup) -> bool:
    plain = not any(attribute(node, "pads", [])) and set(attribute(node, "strides", [1])) == {1}
    return plain and look.shape(node.input[1])[2:] == (1, 1)


def affine(node: NodeProto, look: Lookup) -> tuple[Array, Array]:
    """Return the scale and shift, float64 (channels,), of a normalization with constant parameters."""
    scale, bias, mean, variance = (look.value(name).astype(np.float64) for name in node.input[1:])
    scale = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    return scale, bias - mean * scale


def _set_parameters(node: NodeProto, graph: GraphProto, weight: Array, bias: Array | None) -> None:
    new = [add_constant(graph, f"{node.name}.weight", weight.astype(np.float32))]
    if bias is not None:
        new.append(add_constant(graph, f"{node.name}.bias", bias.astype(np.float32)))
    node.input[1:] = new


def _bypass(node: NodeProto, look: Lookup) -> None:
    """Remove a node: the producer of its input produces its output instead."""
    producer = look.producer(node.input[0])
    if producer is None:
        raise KeyError(node.input[0])
    producer.output[0] = node.output[0]
    look.graph.node.remove(node)


def _bias(node: NodeProto, look: Lookup) -> Array:
    if len(node.input) > 2:
        return look.value(node.input[2]).astype(np.float64)
    return np.zeros(look.shape(node.input[1])[0])
