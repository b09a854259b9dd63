"""Looking things up in an ONNX graph, and the two ways the passes change one: another node in place, nodes in front.

Feature maps are NCHW, shapes static. A `Lookup` describes the graph as it was when made: make another after a change.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, helper, numpy_helper

from polypstream.export.graph import drop_unused

Array = NDArray[Any]


class Lookup:
    """Who makes a tensor, who takes it, what shape it has, and what value where it is constant."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self._weights = {weight.name: weight for weight in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        values = (*graph.input, *graph.value_info, *graph.output)
        self._shapes = {value.name: tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in values}

    def producer(self, name: str) -> NodeProto | None:
        """The node that makes a tensor; None for an input or a constant."""
        return self._producers.get(name)

    def users(self, name: str) -> Sequence[NodeProto]:
        """The nodes that take a tensor, once for each time they do."""
        return self._users.get(name, [])

    def sole_user(self, name: str) -> NodeProto | None:
        """The one node that takes a tensor, if it is one and the tensor is no output of the graph."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def is_inner(self, name: str) -> bool:
        """Whether the tensor is no output of the graph."""
        return name not in self._outputs

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is stored in the file."""
        return name in self._weights

    def constant(self, name: str) -> Array | None:
        """The value of a constant; None where the tensor is none, or the name is empty."""
        weight = self._weights.get(name)
        return None if weight is None else numpy_helper.to_array(weight)

    def value(self, name: str) -> Array:
        """The value of a constant; raises `KeyError` where the tensor is none."""
        return numpy_helper.to_array(self._weights[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """The static shape of a tensor, constants included; () where it is not known."""
        weight = self._weights.get(name)
        return self._shapes.get(name, ()) if weight is None else tuple(weight.dims)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401 - whatever ONNX stores
    """The value of a node's attribute, lists as lists."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def add_constant(graph: GraphProto, name: str, value: Array) -> str:
    """Store a constant under a name not yet in use, and return that name."""
    taken = {weight.name for weight in graph.initializer}
    unique = name
    while unique in taken:
        unique += "_"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), unique))
    return unique


def replace_node(graph: GraphProto, old: NodeProto, new: Sequence[NodeProto]) -> None:
    """Put nodes in the place of one."""
    position = next(index for index, node in enumerate(graph.node) if node is old or node == old)
    nodes = [*graph.node[:position], *new, *graph.node[position + 1 :]]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def with_shapes(model: ModelProto) -> ModelProto:
    """A copy of the model in which the shape of every tensor is stated."""
    copy = ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True)


def without_unused(model: ModelProto) -> ModelProto:
    """A copy without the nodes whose result nobody takes and the constants that no node takes, shapes stated anew."""
    copy = ModelProto.FromString(model.SerializeToString())
    _drop_dead_nodes(copy.graph)
    drop_unused(copy)
    return with_shapes(copy)


def _drop_dead_nodes(graph: GraphProto) -> None:
    """Remove the nodes whose result nobody takes."""
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.insert(0, NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)
