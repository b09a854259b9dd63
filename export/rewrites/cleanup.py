"""Exact cleanup of a traced ONNX graph: constant folding, merged normalization, standard nodes, names of Keras layers.

Each pass changes the graph in place and computes the same function up to rounding. Feature maps are NCHW.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnxslim
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

IR_VERSION = 8
"""The IR version released with opset 17; ONNX Runtime 1.20, which the package still supports, rejects newer ones."""

_INPUT_ROLES: Mapping[str, Sequence[str]] = {
    "Conv": ("", "weight", "bias"),
    "BatchNormalization": ("", "scale", "bias", "mean", "variance"),
    "Resize": ("", "roi", "scales", "sizes"),
}


def clean_graph(model: ModelProto, *, layers: Iterable[str]) -> ModelProto:
    """Fold constants, fold or merge normalizations, and name the nodes after the Keras layers.

    Args:
        model: A traced model; it is not changed.
        layers: Names of the Keras layers.

    Returns:
        A cleaned copy that computes the same function.

    Raises:
        onnx.checker.ValidationError: The result is not a valid model, which is a bug rather than invalid input.
    """
    model = onnxslim.slim(model)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    merge_affine(model)
    simplify_resize(model)
    transpose_output(model.graph)
    name_after_layers(model.graph, layers)
    drop_unused(model)
    del model.graph.value_info[:]
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return model


def operator_counts(model: ModelProto) -> dict[str, int]:
    """Count the nodes of each operator, most frequent first."""
    return dict(Counter(node.op_type for node in model.graph.node).most_common())


def merge_affine(model: ModelProto) -> None:
    """Replace each per-channel multiplication followed by an addition with one BatchNormalization.

    These pairs are normalizations in front of a convolution, which cannot be folded into it because of its zero
    padding. One node needs one pass over memory instead of two, and engines fuse it with the ReLU.
    """
    graph = model.graph
    constants, channels, users = _constants(graph), _channels(graph), _users(graph)
    outputs = {value.name for value in graph.output}
    for first in [node for node in graph.node if node.op_type == "Mul"]:
        followers = users.get(first.output[0], [])
        if len(followers) != 1 or followers[0].op_type != "Add" or first.output[0] in outputs:
            continue
        second = followers[0]
        count = channels.get(first.output[0], 0)
        scale, shift = (_per_channel(node, constants, count) for node in (first, second))
        if scale is None or shift is None:
            continue
        data = next(name for name in first.input if name not in constants)
        merged = _normalization(data, second.output[0], name=second.name, scale=scale, shift=shift, graph=graph)
        second.CopyFrom(merged)
        graph.node.remove(first)


def simplify_resize(model: ModelProto) -> None:
    """Use the form of nearest upsampling by integer factors that is fast in every runtime: asymmetric, floor."""
    graph = model.graph
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type != "Resize" or len(node.input) != 3 or node.input[2] not in constants:
            continue
        scales = constants[node.input[2]]
        if (
            _attribute(node, "mode", b"nearest") != b"nearest"
            or np.any(scales < 1)
            or np.any(scales != np.round(scales))
        ):
            continue
        data, output, name, factors = node.input[0], node.output[0], node.name, node.input[2]
        node.CopyFrom(
            helper.make_node(
                "Resize",
                [data, "", factors],
                [output],
                name=name,
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )


def transpose_output(graph: GraphProto) -> None:
    """Replace the final reshape from (n, 1, h, w) to (n, h, w, 1) with a Transpose, which works for every size."""
    shapes, producers = _shapes(graph), {node.output[0]: node for node in graph.node}
    for value in graph.output:
        node = producers.get(value.name)
        if node is None or node.op_type != "Reshape":
            continue
        taken = shapes.get(node.input[0], ())
        if len(taken) == 4 and taken[1] == 1 and shapes[value.name] == (taken[0], taken[2], taken[3], 1):
            transpose = helper.make_node("Transpose", node.input[:1], [value.name], name=node.name, perm=[0, 2, 3, 1])
            node.CopyFrom(transpose)


def name_after_layers(graph: GraphProto, layers: Iterable[str]) -> None:
    """Name every node, tensor and weight after its Keras layer, as in `encoder2_conv1/Conv`; deterministic."""
    known, taken, renamed = frozenset(layers), Counter[str](), {}
    fixed = {value.name for value in (*graph.input, *graph.output)}
    weights = {weight.name for weight in graph.initializer}
    for node in graph.node:
        layer = _layer_of(node, known, weights)
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        roles = _INPUT_ROLES.get(node.op_type, ())
        for index, used in enumerate(node.input):
            if used in weights and used not in renamed:
                renamed[used] = f"{node.name}.{roles[index] if index < len(roles) else f'input{index}'}"
        for index, made in enumerate(node.output):
            if made not in fixed:
                renamed[made] = node.name if index == 0 else f"{node.name}.output{index}"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for weight in graph.initializer:
        weight.name = renamed.get(weight.name, weight.name)


def drop_unused(model: ModelProto) -> None:
    """Remove unused constants, and operator sets that no node belongs to."""
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    domains = {node.domain for node in graph.node}
    versions = [version for version in model.opset_import if version.domain in domains]
    del model.opset_import[:]
    model.opset_import.extend(versions)


def _normalization(
    data: str, output: str, *, name: str, scale: NDArray[np.float32], shift: NDArray[np.float32], graph: GraphProto
) -> NodeProto:
    values = {"scale": scale, "bias": shift, "mean": np.zeros_like(scale), "variance": np.ones_like(scale)}
    graph.initializer.extend(numpy_helper.from_array(array, f"{output}.{role}") for role, array in values.items())
    inputs = [data, *(f"{output}.{role}" for role in values)]
    return helper.make_node("BatchNormalization", inputs, [output], name=name, epsilon=0.0)


def _per_channel(
    node: NodeProto, constants: Mapping[str, NDArray[np.float32]], count: int
) -> NDArray[np.float32] | None:
    """Return the constant operand of a per-channel operation on `count` channels, flat; None if it is not one."""
    operands = [constants[name] for name in node.input if name in constants]
    if count < 1 or len(operands) != 1 or operands[0].shape not in ((1, count, 1, 1), (count, 1, 1)):
        return None
    return operands[0].reshape(count)


def _layer_of(node: NodeProto, layers: frozenset[str], weights: set[str]) -> str | None:
    """Find the Keras layer in the path of a node's output, in its name, or in a weight it uses."""
    for text in (*node.output, node.name, *(name for name in node.input if name in weights)):
        for part in _path(text):
            if part in layers:
                return part
    return None


def _path(text: str) -> Iterator[str]:
    """Yield the parts of a scope path, innermost last, without the numbers that TensorFlow adds to reused scopes."""
    for part in text.split("/"):
        yield re.sub(r"_\d+$", "", part)
        yield part


def _attribute(node: NodeProto, name: str, default: bytes) -> bytes:
    return next((attribute.s for attribute in node.attribute if attribute.name == name), default)


def _constants(graph: GraphProto) -> dict[str, NDArray[np.float32]]:
    return {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}


def _users(graph: GraphProto) -> dict[str, list[NodeProto]]:
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _shapes(graph: GraphProto) -> dict[str, tuple[int, ...]]:
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}


def _channels(graph: GraphProto) -> dict[str, int]:
    return {name: shape[1] for name, shape in _shapes(graph).items() if len(shape) == 4}
