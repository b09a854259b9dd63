"""The same function in the forms that ONNX Runtime's 8-bit CPU kernels are fast at. Other engines do better without.

Feature maps are NCHW. What is fast there, measured: whatever keeps the layout channels-last, so normalisation as a
depthwise convolution and interleaving as a move of whole pixels; a convolution to very few channels as a transposed
one, which multiplies first and shifts the few results, instead of gathering nine times the input; and one of stride 2
from very few channels as one of stride 1 on blocks of 2×2 pixels, which gathers longer pieces.
"""

from itertools import product
from math import prod

import numpy as np
from onnx import ModelProto, NodeProto, helper

from polypstream.export.folding import affine, is_constant_conv
from polypstream.export.lookup import Lookup, add_constant, attribute, replace_node, with_shapes, without_unused

NARROW = 2
"""Convolutions to at most this many channels are written as transposed ones."""
FEW = 4
"""Strided convolutions of at most this many channels are done on blocks of pixels."""


def in_cpu_form(model: ModelProto) -> ModelProto:
    """The same function, to be quantised for ONNX Runtime on a CPU."""
    model = with_shapes(model)
    for step in (_mean_at_once, _transpose_narrow_conv, _stride_as_blocks, _normalisation_as_conv, _pixels_moved_whole):
        for node in list(model.graph.node):
            step(node, Lookup(model.graph))
    return without_unused(model)


def _mean_at_once(node: NodeProto, look: Lookup) -> None:
    """A mean of the means of rows as one mean: integers add up exactly however many there are."""
    rows = look.producer(node.input[0]) if node.op_type == "ReduceMean" else None
    if rows is None or rows.op_type != "ReduceMean" or look.sole_user(node.input[0]) is None:
        return
    taken, given = look.shape(rows.input[0]), look.shape(node.output[0])
    if len(taken) == 4 and given == (*taken[:2], 1, 1) and prod(look.shape(rows.output[0])) < prod(taken):
        node.CopyFrom(helper.make_node("GlobalAveragePool", rows.input[:1], node.output, node.name))


def _transpose_narrow_conv(node: NodeProto, look: Lookup) -> None:
    """A 'same' convolution to few channels equals a transposed one with mirrored weights."""
    if not is_constant_conv(node, look) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return
    outputs, inputs, *kernel = look.shape(node.input[1])
    dilations = attribute(node, "dilations", [1, 1])
    same = [dilation * (size // 2) for dilation, size in zip(dilations, kernel, strict=True)] * 2
    if outputs > NARROW or outputs >= inputs or kernel == [1, 1] or any(size % 2 == 0 for size in kernel):
        return
    if set(attribute(node, "strides", [1])) != {1} or attribute(node, "pads", [0] * 4) != same:
        return
    mirrored = look.value(node.input[1])[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    node.op_type, node.input[1] = "ConvTranspose", add_constant(look.graph, f"{node.input[1]}.mirrored", mirrored)


def _stride_as_blocks(node: NodeProto, look: Lookup) -> None:
    """A convolution of stride 2 of few channels as one of stride 1, blocks of 2×2 pixels its pixels."""
    if not is_constant_conv(node, look) or attribute(node, "strides", [1, 1]) != [2, 2]:
        return
    weight, pads = look.value(node.input[1]), attribute(node, "pads", [0] * 4)
    _, channels, height, width = look.shape(node.input[0])
    plain = set(attribute(node, "dilations", [1])) == {1} and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    if channels > FEW or height % 2 or width % 2 or not plain:
        return
    first = [-pad // 2 for pad in pads[:2]]  # the block in which the kernel begins, seen from its output's
    ends = zip(weight.shape[2:], pads[:2], first, strict=True)
    size = [(kernel - 1 - pad) // 2 - start + 1 for kernel, pad, start in ends]
    blocks = np.zeros((len(weight), 4 * channels, *size), np.float32)
    for row, column in product(*map(range, weight.shape[2:])):
        (down, y), (right, x) = divmod(row - pads[0], 2), divmod(column - pads[1], 2)
        part = slice((2 * y + x) * channels, (2 * y + x + 1) * channels)
        blocks[:, part, down - first[0], right - first[1]] = weight[:, :, row, column]
    given = look.shape(node.output[0])[2:]
    after = [g - s // 2 + f + z - 1 for g, s, f, z in zip(given, (height, width), first, size, strict=True)]
    if min(after) < 0:
        return
    name, source = node.name, f"{node.name}.blocks"
    pairs = add_constant(look.graph, f"{name}.pairs", np.array([height // 2, 2, width // 2, 2 * channels], np.int64))
    shape = add_constant(look.graph, f"{name}.shape", np.array([1, height // 2, width // 2, 4 * channels], np.int64))
    bias = list(node.input[2:])
    inputs = [source, add_constant(look.graph, f"{node.input[1]}.blocks", blocks), *bias]
    nodes = [
        helper.make_node("Transpose", node.input[:1], [f"{name}.last"], f"{name}/Last", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{name}.last", pairs], [f"{name}.pairs_"], f"{name}/Pairs"),
        helper.make_node("Transpose", [f"{name}.pairs_"], [f"{name}.moved"], f"{name}/Blocks", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"{name}.moved", shape], [f"{name}.whole"], f"{name}/Whole"),
        helper.make_node("Transpose", [f"{name}.whole"], [source], f"{name}/First", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", inputs, node.output, name, kernel_shape=size, pads=[*(-f for f in first), *after]),
    ]
    replace_node(look.graph, node, nodes)


def _normalisation_as_conv(node: NodeProto, look: Lookup) -> None:
    """A normalisation as a 1×1 convolution of each channel by itself; with a scale per channel, 8 bits lose nothing."""
    if node.op_type != "BatchNormalization" or not all(look.is_constant(name) for name in node.input[1:]):
        return
    scale, shift = (value.astype(np.float32) for value in affine(node, look))
    weight = add_constant(look.graph, f"{node.name}.weight", scale.reshape(-1, 1, 1, 1))
    bias = add_constant(look.graph, f"{node.name}.shift", shift)
    inputs = [node.input[0], weight, bias]
    node.CopyFrom(helper.make_node("Conv", inputs, node.output, node.name, kernel_shape=[1, 1], group=len(scale)))


def _pixels_moved_whole(node: NodeProto, look: Lookup) -> None:
    """DepthToSpace and nearest 2× upsampling by moving all channels of a pixel together, in channels-last."""
    if node.op_type not in ("DepthToSpace", "Resize") or len(look.shape(node.output[0])) != 4:
        return
    if node.op_type == "DepthToSpace":
        if attribute(node, "blocksize") != 2 or attribute(node, "mode", b"DCR") != b"DCR":
            return
        moved = _interleaving(node, look)
    else:
        factors = look.constant(node.input[2]) if len(node.input) == 3 else None
        nearest = attribute(node, "mode", b"nearest") == b"nearest"
        if factors is None or tuple(factors) != (1, 1, 2, 2) or not nearest:
            return
        moved = _repetition(node)
    name, output = node.name, node.output[0]
    _, channels, height, width = look.shape(output)
    shape = add_constant(look.graph, f"{name}.shape", np.array([1, height, width, channels], np.int64))
    nodes = [
        helper.make_node("Transpose", node.input[:1], [f"{output}.last"], f"{name}/Last", perm=[0, 2, 3, 1]),
        *moved,
        helper.make_node("Reshape", [f"{output}.moved", shape], [f"{output}.whole"], f"{name}/Whole"),
        helper.make_node("Transpose", [f"{output}.whole"], [output], f"{name}/First", perm=[0, 3, 1, 2]),
    ]
    replace_node(look.graph, node, nodes)


def _interleaving(node: NodeProto, look: Lookup) -> list[NodeProto]:
    name, output = node.name, node.output[0]
    _, channels, height, width = look.shape(output)
    pairs = np.array([height // 2, width // 2, 2, 2 * channels], np.int64)
    shape = add_constant(look.graph, f"{name}.pairs", pairs)
    return [
        helper.make_node("Reshape", [f"{output}.last", shape], [f"{output}.pairs"], f"{name}/Pairs"),
        helper.make_node("Transpose", [f"{output}.pairs"], [f"{output}.moved"], f"{name}/Rows", perm=[0, 2, 1, 3]),
    ]


def _repetition(node: NodeProto) -> list[NodeProto]:
    name, output = node.name, node.output[0]
    return [
        helper.make_node("Concat", [f"{output}.last"] * 2, [f"{output}.wide"], f"{name}/Wide", axis=3),
        helper.make_node("Concat", [f"{output}.wide"] * 2, [f"{output}.moved"], f"{name}/High", axis=2),
    ]
