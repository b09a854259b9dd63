"""ONNX graphs: lookups, node replacement, cost in multiply-accumulates, and execution in ONNX Runtime."""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polypstream.errors import ModelError
from polypstream.export.rewrites.cleanup import drop_unused
from polypstream.onnxruntime_options import session_options

Array = NDArray[Any]


class Lookup:
    """Index of a graph: which node produces a tensor, which nodes use it, its shape, and its value if constant."""

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
        """Return the node that produces a tensor; None for an input or a constant."""
        return self._producers.get(name)

    def users(self, name: str) -> Sequence[NodeProto]:
        """Return the nodes that use a tensor, one entry per use."""
        return self._users.get(name, [])

    def sole_user(self, name: str) -> NodeProto | None:
        """Return the only node that uses a tensor; None if there are several or the tensor is a graph output."""
        users = self.users(name)
        return users[0] if len(users) == 1 and name not in self._outputs else None

    def is_inner(self, name: str) -> bool:
        """Return whether the tensor is not an output of the graph."""
        return name not in self._outputs

    def is_constant(self, name: str) -> bool:
        """Return whether the tensor is stored in the file."""
        return name in self._weights

    def constant(self, name: str) -> Array | None:
        """Return the value of a constant; None if the tensor is not constant or the name is empty."""
        weight = self._weights.get(name)
        return None if weight is None else numpy_helper.to_array(weight)

    def value(self, name: str) -> Array:
        """Return the value of a constant; raises `KeyError` if the tensor is not constant."""
        return numpy_helper.to_array(self._weights[name])

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the static shape of a tensor, constants included; () if it is unknown."""
        weight = self._weights.get(name)
        return self._shapes.get(name, ()) if weight is None else tuple(weight.dims)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:  # noqa: ANN401 - any ONNX attribute
    """Return the value of a node's attribute; repeated values as a list."""
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def add_constant(graph: GraphProto, name: str, value: Array) -> str:
    """Store a constant under a name that is not yet in use, and return that name."""
    taken = {weight.name for weight in graph.initializer}
    unique = name
    while unique in taken:
        unique += "_"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), unique))
    return unique


def replace_node(graph: GraphProto, old: NodeProto, new: Sequence[NodeProto]) -> None:
    """Replace one node by a sequence of nodes."""
    position = next(index for index, node in enumerate(graph.node) if node is old or node == old)
    nodes = [*graph.node[:position], *new, *graph.node[position + 1 :]]
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(kept)


def with_shapes(model: ModelProto) -> ModelProto:
    """Return a copy of the model with the inferred shape of every tensor."""
    copy = ModelProto.FromString(model.SerializeToString())
    del copy.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, strict_mode=True)


def without_unused(model: ModelProto) -> ModelProto:
    """Return a copy without unused nodes and constants, with shapes inferred again."""
    copy = ModelProto.FromString(model.SerializeToString())
    _drop_dead_nodes(copy.graph)
    drop_unused(copy)
    return with_shapes(copy)


def _drop_dead_nodes(graph: GraphProto) -> None:
    """Remove the nodes whose results are not used."""
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.insert(0, NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)


def gmac(model: ModelProto) -> float:
    """Return the multiply-accumulates of the convolutions and matrix products of one run, in billions."""
    look = Lookup(with_shapes(model).graph)
    return sum(macs(node, look) for node in look.graph.node) / 1e9


def macs(node: NodeProto, look: Lookup) -> int:
    """Return the multiply-accumulates of one node; 0 unless it is a convolution or a matrix product."""
    if node.op_type == "Conv":  # weights (out, in / group, rows, columns), applied once per output pixel
        return int(np.prod(look.shape(node.input[1])) * np.prod(look.shape(node.output[0])[2:]))
    if node.op_type == "ConvTranspose":  # weights (in, out / group, rows, columns), applied once per input pixel
        return int(np.prod(look.shape(node.input[1])) * np.prod(look.shape(node.input[0])[2:]))
    if node.op_type == "MatMul":
        return int(np.prod(look.shape(node.output[0])) * look.shape(node.input[0])[-1])
    if node.op_type == "Gemm":
        inner = look.shape(node.input[0])[0 if attribute(node, "transA", 0) else 1]
        return int(np.prod(look.shape(node.output[0])) * inner)
    return 0


Images = NDArray[np.uint8]
"""uint8 RGB (n, height, width, 3), of the model's size."""


def session_of(model: ModelProto) -> ort.InferenceSession:
    """Open a CPU session with logging turned down; raises `ModelError` if ONNX Runtime rejects the model."""
    try:
        return ort.InferenceSession(model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - ONNX Runtime's own exceptions share no base class
        raise ModelError(f"ONNX Runtime rejects the model ({str(error).splitlines()[0]}); export it again") from None


def probabilities(model: ModelProto, images: Images) -> NDArray[np.float32]:
    """Run the model on each image; returns probabilities, float32 (n, height, width) in [0, 1]."""
    session = session_of(model)
    name = session.get_inputs()[0].name
    outputs = [session.run(None, {name: image})[0] for image in images[:, np.newaxis]]
    return np.concatenate(outputs).astype(np.float32)[..., 0]


def observed(model: ModelProto, images: Images, *, tensors: Collection[str]) -> Iterator[Mapping[str, Array]]:
    """Yield the values of the named tensors for each image; the tensors must exist in the model."""
    session = session_of(_with_outputs(model, tensors))
    taken, names = session.get_inputs()[0].name, list(tensors)
    for image in images[:, np.newaxis]:
        yield dict(zip(names, session.run(names, {taken: image}), strict=True))


def float_tensors(model: ModelProto) -> list[str]:
    """Return the names of the float32 tensors that nodes produce, in graph order; shapes must be known."""
    values = (*model.graph.value_info, *model.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in model.graph.node for name in node.output if name in floats]


def frame_ms(models: Mapping[str, ModelProto], *, rounds: int = 7) -> dict[str, float]:
    """Measure the milliseconds per frame of each model: the median over rounds that alternate between the models."""
    sessions = {name: session_of(model) for name, model in models.items()}
    taken: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds + 1):
        for name, session in sessions.items():
            image = session.get_inputs()[0]
            frame = {image.name: np.full(image.shape, 96, np.uint8)}
            began = time.perf_counter()
            session.run(None, frame)
            taken[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(times[1:])) for name, times in taken.items()}


def _with_outputs(model: ModelProto, tensors: Collection[str]) -> ModelProto:
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in tensors if name not in present)
    return copy
