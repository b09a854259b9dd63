"""CPU rewrites: equivalent graph forms that are fast in ONNX Runtime's 8-bit CPU kernels (slower in other engines).

Feature maps are NCHW. According to measurements, operations that keep the layout channels-last are fast. Therefore:

- Normalization becomes a depthwise convolution, and interleaving moves whole pixels.
- A convolution to very few channels becomes a transposed one, which multiplies first and then shifts the few results
  instead of gathering nine times the input.
- A convolution of stride 2 from very few channels reads four columns and computes two at a time, which gathers fewer,
  longer pieces of memory.
- Upsampling of a single channel, which runs in one thread, becomes two matrix products, which use all threads.
"""

from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper

from polypstream.export.graph import Lookup, add_constant, attribute, replace_node, with_shapes, without_unused
from polypstream.export.rewrites.optimize import affine, is_constant_conv

FEW_OUTPUTS = 2
"""Convolutions to at most this many channels are rewritten as transposed ones."""
FEW = 4
"""Strided convolutions from at most this many channels read four columns at a time."""


def rewrite_for_cpu(model: ModelProto) -> ModelProto:
    """Rewrite a float32 model that is to be quantized for ONNX Runtime on a CPU; the function stays the same."""
    model = with_shapes(model)
    in_place = (_mean_at_once, _transpose_few_outputs, _normalization_as_conv)
    for step in (*in_place, _stride_as_wide_pixels, _enlarging_as_products, _pixels_moved_whole):
        for node in list(model.graph.node):
            step(node, Lookup(model.graph))
    return without_unused(model)


def _mean_at_once(node: NodeProto, look: Lookup) -> None:
    """Compute the mean of row means as a single mean: sums of integers are exact at any length."""
    rows = look.producer(node.input[0]) if node.op_type == "ReduceMean" else None
    if rows is None or rows.op_type != "ReduceMean" or look.sole_user(node.input[0]) is None:
        return
    taken, given = look.shape(rows.input[0]), look.shape(node.output[0])
    if len(taken) == 4 and given == (*taken[:2], 1, 1) and prod(look.shape(rows.output[0])) < prod(taken):
        node.CopyFrom(helper.make_node("GlobalAveragePool", rows.input[:1], node.output, node.name))


def _transpose_few_outputs(node: NodeProto, look: Lookup) -> None:
    """Replace a 'same' convolution to few channels with a transposed convolution with mirrored weights."""
    if not is_constant_conv(node, look) or attribute(node, "auto_pad", b"NOTSET") != b"NOTSET":
        return
    outputs, inputs, *kernel = look.shape(node.input[1])
    dilations = attribute(node, "dilations", [1, 1])
    same = [dilation * (size // 2) for dilation, size in zip(dilations, kernel, strict=True)] * 2
    if outputs > FEW_OUTPUTS or outputs >= inputs or kernel == [1, 1] or any(size % 2 == 0 for size in kernel):
        return
    if set(attribute(node, "strides", [1])) != {1} or attribute(node, "pads", [0] * 4) != same:
        return
    mirrored = look.value(node.input[1])[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    node.op_type, node.input[1] = "ConvTranspose", add_constant(look.graph, f"{node.input[1]}.mirrored", mirrored)


def _stride_as_wide_pixels(node: NodeProto, look: Lookup) -> None:
    """Group columns into wide pixels in a convolution of stride 2: four input columns, two output columns.

    In channels-last layout this only changes the shape. A ReLU or ReLU6 that follows is kept directly behind the
    convolution.
    """
    if not is_constant_conv(node, look) or attribute(node, "strides", [1, 1]) != [2, 2]:
        return
    weight, (top, left, bottom, _) = look.value(node.input[1]), attribute(node, "pads", [0] * 4)
    outputs, channels, rows, columns = weight.shape
    _, _, height, width = look.shape(node.input[0])
    _, _, tall, wide = look.shape(node.output[0])
    plain = set(attribute(node, "dilations", [1])) == {1} and attribute(node, "auto_pad", b"NOTSET") == b"NOTSET"
    if channels > FEW or width % 4 or wide % 2 or not plain:
        return
    first, last = -left // 4, (columns + 1 - left) // 4  # input pixels of one output pixel, relative to its position
    size = last - first + 1
    after = wide // 2 - width // 4 + first + size - 1
    if after < 0:
        return
    wider = np.zeros((2, outputs, 4, channels, rows, size), np.float32)
    for second, column in product(range(2), range(columns)):
        pixel, part = divmod(2 * second + column - left, 4)
        wider[second, :, part, :, :, pixel - first] = weight[..., column]
    name, graph = node.name, look.graph
    stored = add_constant(graph, f"{node.input[1]}.wide", wider.reshape(2 * outputs, 4 * channels, rows, size))
    taken, made = f"{name}.taken", f"{name}.made"
    pads = [top, -first, bottom, after]
    conv = helper.make_node("Conv", [taken, stored, *node.input[2:]], [made], name, strides=[2, 1], pads=pads)
    if len(node.input) > 2:
        conv.input[2] = add_constant(graph, f"{node.input[2]}.wide", np.tile(look.value(node.input[2]), 2))
    nodes = [*_regrouped(graph, node.input[0], taken, (height, width // 4, 4 * channels)), conv]
    follower = look.sole_user(node.output[0])
    if follower is not None and follower.op_type in ("Relu", "Clip"):
        inputs = [*conv.output, *follower.input[1:]]
        nodes.append(helper.make_node(follower.op_type, inputs, [f"{name}.rectified"], follower.name))
        output = follower.output[0]
        graph.node.remove(follower)
    else:
        output = node.output[0]
    replace_node(graph, node, [*nodes, *_regrouped(graph, nodes[-1].output[0], output, (tall, wide, outputs))])


def _regrouped(graph: GraphProto, source: str, output: str, shape: tuple[int, int, int]) -> list[NodeProto]:
    """Reshape a map, in channels-last order, to another (height, width, channels)."""
    constant = add_constant(graph, f"{output}.shape", np.array([1, *shape], np.int64))
    return [
        helper.make_node("Transpose", [source], [f"{output}.last"], f"{output}/Last", perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{output}.last", constant], [f"{output}.whole"], f"{output}/Whole"),
        helper.make_node("Transpose", [f"{output}.whole"], [output], f"{output}/First", perm=[0, 3, 1, 2]),
    ]


def _enlarging_as_products(node: NodeProto, look: Lookup) -> None:
    """Replace bilinear upsampling of a single channel with two matrix products, which use all threads."""
    if node.op_type != "Resize" or len(node.input) != 3 or len(look.shape(node.output[0])) != 4:
        return
    linear = attribute(node, "mode", b"nearest") == b"linear"
    centered = attribute(node, "coordinate_transformation_mode", b"half_pixel") == b"half_pixel"
    factors = look.constant(node.input[2])
    if factors is None or not linear or not centered or attribute(node, "antialias", 0):
        return
    _, channels, height, width = look.shape(node.input[0])
    images, maps, *sides = factors.tolist()
    if (images, maps, channels) != (1, 1, 1) or any(side < 1 or side % 1 for side in sides):
        return
    down = add_constant(look.graph, f"{node.name}.down", _bilinear(height, int(sides[0])))
    across = add_constant(look.graph, f"{node.name}.across", _bilinear(width, int(sides[1])).T)
    tall = f"{node.name}.tall"
    nodes = [
        helper.make_node("MatMul", [down, node.input[0]], [tall], f"{node.name}/Down"),
        helper.make_node("MatMul", [tall, across], node.output, f"{node.name}/Across"),
    ]
    replace_node(look.graph, node, nodes)


def _bilinear(size: int, factor: int) -> NDArray[np.float32]:
    """Return the interpolation matrix (factor * size, size); samples at the borders are repeated."""
    at = (np.arange(factor * size) + 0.5) / factor - 0.5
    below = np.floor(at).astype(int)
    taken = np.zeros((factor * size, size), np.float32)
    for source, share in ((below, 1 - (at - below)), (below + 1, at - below)):
        np.add.at(taken, (np.arange(factor * size), source.clip(0, size - 1)), share)
    return taken


def _normalization_as_conv(node: NodeProto, look: Lookup) -> None:
    """Replace a normalization with a depthwise 1×1 convolution; one scale per channel keeps 8 bits precise."""
    if node.op_type != "BatchNormalization" or not all(look.is_constant(name) for name in node.input[1:]):
        return
    scale, shift = (value.astype(np.float32) for value in affine(node, look))
    weight = add_constant(look.graph, f"{node.name}.weight", scale.reshape(-1, 1, 1, 1))
    bias = add_constant(look.graph, f"{node.name}.shift", shift)
    inputs = [node.input[0], weight, bias]
    node.CopyFrom(helper.make_node("Conv", inputs, node.output, node.name, kernel_shape=[1, 1], group=len(scale)))


def _pixels_moved_whole(node: NodeProto, look: Lookup) -> None:
    """Implement DepthToSpace and nearest 2× upsampling by moving all channels of a pixel together (channels-last)."""
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
