"""Exact rewrites of "upsample, concatenate, convolve": convolve before upsampling, on a quarter of the pixels.

A convolution of a concatenation is the sum of convolutions of its parts. Normalization, ReLU and 1×1 convolution
commute with nearest upsampling. A 3×3 convolution after nearest 2× upsampling reads each small pixel up to four times:
for each of the four positions within a small pixel it equals a 2×2 convolution of the small map, in which the weights
that fall on the same pixel are added up. This takes 4/9 of the multiplications. DepthToSpace interleaves the four
results. Feature maps are NCHW.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
from onnx import GraphProto, NodeProto, helper

from polypstream.export.graph import Array, Lookup, add_constant, attribute, replace_node


def upsample_late(graph: GraphProto) -> bool:
    """Apply the first rewrite that matches; returns False if none does. Shapes must be known."""
    look = Lookup(graph)
    for node in graph.node:
        for rewrite in (_split_over_concat, _moved_before_upsampling, _in_phases):
            nodes = rewrite(node, look)
            if nodes is not None:
                replace_node(graph, node, nodes)
                return True
    return False


def _split_over_concat(node: NodeProto, look: Lookup) -> list[NodeProto] | None:
    """Split an operation on a concatenation with an upsampled map into one operation per part."""
    concat = look.producer(node.input[0]) if node.input else None
    if concat is None or concat.op_type != "Concat" or attribute(concat, "axis") != 1:
        return None
    if not any(_upsampled(name, look) is not None for name in concat.input):
        return None
    widths = [look.shape(name)[1] if len(look.shape(name)) == 4 else 0 for name in concat.input]
    if min(widths) < 1 or not (_is_pointwise(node, look) or _is_plain_conv(node, look)):
        return None
    ends = np.cumsum(widths)
    parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
    made = [
        _restricted(node, look, data=data, part=part, index=index)
        for index, (data, part) in enumerate(zip(concat.input, parts, strict=True))
    ]
    return [*made, *_joined(node, [part.output[0] for part in made])]


def _restricted(node: NodeProto, look: Lookup, *, data: str, part: slice, index: int) -> NodeProto:
    """Restrict a node to some channels: `part` of its per-channel parameters or of its weights' input channels."""
    suffix = f".part{index + 1}"
    new: NodeProto = NodeProto.FromString(node.SerializeToString())
    new.name, new.input[0], new.output[0] = node.name + suffix, data, node.output[0] + suffix
    if node.op_type == "BatchNormalization":
        new.input[1:] = [add_constant(look.graph, name + suffix, look.value(name)[part]) for name in node.input[1:]]
    elif node.op_type == "Conv":
        weight = look.value(node.input[1])[:, part]
        kept = list(node.input[2:]) if index == 0 else []  # add the bias only once
        new.input[1:] = [add_constant(look.graph, node.input[1] + suffix, weight), *kept]
    return new


def _joined(node: NodeProto, parts: list[str]) -> Iterator[NodeProto]:
    """Combine the outputs of the parts: a sum for a convolution, otherwise a concatenation."""
    if node.op_type != "Conv":
        yield helper.make_node("Concat", parts, node.output, f"{node.name}/Concat", axis=1)
        return
    total = parts[0]
    for index, part in enumerate(parts[1:], start=2):
        output = node.output[0] if index == len(parts) else f"{node.output[0]}.sum{index}"
        yield helper.make_node("Add", [total, part], [output], f"{node.name}/Add{index}")
        total = output


def _moved_before_upsampling(node: NodeProto, look: Lookup) -> list[NodeProto] | None:
    """Move a per-pixel operation from after an upsampling to before it."""
    upsampling = _upsampled(node.input[0], look) if node.input else None
    if upsampling is None or not (_is_pointwise(node, look) or _is_pointwise_conv(node, look)):
        return None
    small = f"{node.output[0]}.small"
    first = NodeProto.FromString(node.SerializeToString())
    first.input[0], first.output[0] = upsampling.input[0], small
    second = NodeProto.FromString(upsampling.SerializeToString())
    second.input[0], second.output[0], second.name = small, node.output[0], f"{node.name}/Resize"
    return [first, second]


def _in_phases(node: NodeProto, look: Lookup) -> list[NodeProto] | None:
    """Replace a 3×3 convolution of a 2× upsampled map with four interleaved 2×2 convolutions of the small map."""
    upsampling = _upsampled(node.input[0], look) if node.input else None
    if upsampling is None or not _is_plain_conv(node, look):
        return None
    scales = look.value(upsampling.input[2])
    weight = look.value(node.input[1])
    if tuple(scales) != (1, 1, 2, 2) or weight.shape[2:] != (3, 3) or list(attribute(node, "pads", [])) != [1, 1, 1, 1]:
        return None
    small, name = upsampling.input[0], node.output[0]
    stacked, interleaved = f"{name}.phases", f"{name}.interleaved"
    inputs = [small, add_constant(look.graph, node.input[1] + ".phases", _phases_weight(weight))]
    if len(node.input) > 2:
        inputs.append(add_constant(look.graph, node.input[2] + ".phases", np.tile(look.value(node.input[2]), 4)))
    crop = {"starts": [1, 1], "ends": [-1, -1], "axes": [2, 3]}
    crops = [add_constant(look.graph, f"{node.name}.{key}", np.array(value, np.int64)) for key, value in crop.items()]
    return [
        helper.make_node("Conv", inputs, [stacked], node.name, kernel_shape=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", [stacked], [interleaved], f"{node.name}/DepthToSpace", blocksize=2),
        helper.make_node("Slice", [interleaved, *crops], [name], f"{node.name}/Slice"),
    ]


def _phases_weight(weight: Array) -> Array:
    """Return the 2×2 weights (4·out, in, 2, 2) of the four positions, in DepthToSpace order.

    Position 1 of a small pixel and position 0 of the next one read the same two small pixels. Position 1 therefore
    comes before 0, and the interleaved map starts one pixel early and ends one pixel late.
    """
    return np.concatenate([phase_weight(weight, row, column) for row, column in product((1, 0), repeat=2)])


def phase_weight(weight: Array, row: int, column: int) -> Array:
    """Return the 2×2 weights (out, in, 2, 2) of one of the four positions within a small pixel, from 3×3 weights.

    Position 0 reads the previous small pixel and its own one, position 1 its own one and the next.
    """
    exact = weight.astype(np.float64)
    for axis, phase in ((2, row), (3, column)):
        first, middle, last = (np.take(exact, [tap], axis) for tap in range(3))
        taps = (first, middle + last) if phase == 0 else (first + middle, last)
        exact = np.concatenate(taps, axis)
    return exact.astype(weight.dtype)


def _upsampled(name: str, look: Lookup) -> NodeProto | None:
    """Return the node that produces a tensor by nearest upsampling by integer factors; None if it is another one."""
    node = look.producer(name)
    if node is None or node.op_type != "Resize" or len(node.input) != 3:
        return None
    scales = look.constant(node.input[2])
    form = (attribute(node, "coordinate_transformation_mode"), attribute(node, "nearest_mode"))
    if scales is None or form != (b"asymmetric", b"floor") or attribute(node, "mode", b"nearest") != b"nearest":
        return None
    whole = (
        len(scales) == 4 and tuple(scales[:2]) == (1, 1) and np.all(scales == np.round(scales)) and scales.min() >= 1
    )
    return node if whole else None


def _is_pointwise(node: NodeProto, look: Lookup) -> bool:
    """Whether the node processes each value separately, with parameters per channel."""
    if node.op_type == "BatchNormalization":
        return len(node.output) == 1 and all(look.is_constant(name) for name in node.input[1:])
    return node.op_type == "Relu"


def _is_plain_conv(node: NodeProto, look: Lookup) -> bool:
    """Whether the node is an ordinary convolution of stride 1 with constant weights."""
    return (
        node.op_type == "Conv"
        and all(look.is_constant(name) for name in node.input[1:])
        and attribute(node, "group", 1) == 1
        and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
        and set(attribute(node, "strides", [1])) == {1}
        and set(attribute(node, "dilations", [1])) == {1}
    )


def _is_pointwise_conv(node: NodeProto, look: Lookup) -> bool:
    return (
        _is_plain_conv(node, look) and look.shape(node.input[1])[2:] == (1, 1) and not any(attribute(node, "pads", []))
    )
