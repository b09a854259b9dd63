"""The FP16 pass: every float tensor of an ONNX in half precision, but those too large for it.

Engines of today are strongly typed: the types in the file are the types that are computed with. Inputs and outputs
keep theirs. Two Cast nodes are enough where nothing is too large: the picture's own, and one at the end.
"""

from collections.abc import Collection

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polypstream.errors import ModelError
from polypstream.export.lookup import Lookup, with_shapes
from polypstream.export.session import Pictures, float_tensors, observed

LARGEST = 65504.0
"""The largest finite half-precision number."""
HEADROOM = 4.0
"""How many times larger than on the pictures measured a value may get on others."""

_MEANS = ("ReduceMean", "GlobalAveragePool", "AveragePool")


def hazards(model: ModelProto, pictures: Pictures) -> list[str]:
    """The tensors that may leave half precision, in graph order: what `keep_fp32` should name.

    Measured on the pictures in float32. Of a mean, it is the sum behind it that counts: engines may add up first.
    """
    model = with_shapes(model)
    largest = dict.fromkeys(float_tensors(model), 0.0)
    for values in observed(model, pictures, tensors=largest):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
    look = Lookup(model.graph)
    for node in model.graph.node:
        if node.op_type in _MEANS:
            largest[node.output[0]] *= np.prod(look.shape(node.input[0])) / np.prod(look.shape(node.output[0]))
    return [name for name, value in largest.items() if not value <= LARGEST / HEADROOM]


def fp16_from_fp32(model: ModelProto, *, keep_fp32: Collection[str] = ()) -> ModelProto:
    """The half-precision model of a float32 one. `keep_fp32` names tensors; what makes or takes one stays float32.

    Raises `ModelError` where a name is no tensor of the model, or a weight exceeds half precision.
    """
    model = with_shapes(model)
    graph = model.graph
    known = {name for node in graph.node for name in node.output}
    if unknown := sorted(set(keep_fp32) - known):
        raise ModelError(f"the model has no tensor named {', '.join(unknown)}; keep_fp32 names outputs of its nodes")
    halves = _Halves(model, frozenset(keep_fp32))
    nodes = [new for node in graph.node for new in halves.rewritten(node)] + halves.casts_to_outputs()
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(halves.weights.values())
    model = with_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    return model


class _Halves:
    """Rewrites node after node, and remembers which tensors exist in which of the two precisions."""

    def __init__(self, model: ModelProto, kept: frozenset[str]) -> None:
        self._kept = kept
        self._floats = set(float_tensors(model))
        self._inputs = {
            value.name for value in model.graph.input if value.type.tensor_type.elem_type == TensorProto.FLOAT
        }
        self._outputs = [value.name for value in model.graph.output if value.name in self._floats]
        self._originals = {weight.name: _copied(weight) for weight in model.graph.initializer}
        self._types = dict.fromkeys(self._inputs, TensorProto.FLOAT)
        self._casts: dict[tuple[str, int], str] = {}
        self.weights: dict[str, TensorProto] = {}

    def rewritten(self, node: NodeProto) -> list[NodeProto]:
        """The node with its operands in the right precision, after the casts that takes."""
        wanted = TensorProto.FLOAT if self._kept.intersection((*node.input, *node.output)) else TensorProto.FLOAT16
        new, casts = NodeProto.FromString(node.SerializeToString()), list[NodeProto]()
        for index, name in enumerate(node.input):
            if name in self._originals:
                single = wanted == TensorProto.FLOAT or node.op_type == "Resize"  # its scales are float32 by definition
                new.input[index] = self._weight(name, single=single)
            elif name in self._types and node.op_type != "Cast":
                new.input[index] = self._as(name, wanted, casts)
        for attribute in new.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = wanted
        for index, name in enumerate(node.output):
            if name in self._floats:
                self._types[name] = wanted
                new.output[index] = self._computed(name)
        return [*casts, new]

    def casts_to_outputs(self) -> list[NodeProto]:
        """What turns the results into the outputs' own float32."""
        return [
            helper.make_node("Cast", [self._computed(name)], [name], f"{name}/Cast", to=TensorProto.FLOAT)
            for name in self._outputs
        ]

    def _computed(self, name: str) -> str:
        return f"{name}.computed" if name in self._outputs else name

    def _as(self, name: str, wanted: int, casts: list[NodeProto]) -> str:
        """The name under which a tensor exists in a precision, with the cast that it takes added to `casts`."""
        if self._types[name] == wanted:
            return self._computed(name)
        if (name, wanted) not in self._casts:
            cast = f"{name}.{'single' if wanted == TensorProto.FLOAT else 'half'}"
            self._casts[name, wanted] = cast
            casts.append(helper.make_node("Cast", [self._computed(name)], [cast], f"{cast}/Cast", to=wanted))
        return self._casts[name, wanted]

    def _weight(self, name: str, *, single: bool) -> str:
        original = self._originals[name]
        if single or original.data_type != TensorProto.FLOAT:
            self.weights[name] = original
            return name
        half = f"{name}.half"
        with np.errstate(over="ignore"):
            value = numpy_helper.to_array(original).astype(np.float16)
        if not np.isfinite(value).all():
            raise ModelError(f"the weight {name} exceeds half precision; name its node's output in keep_fp32")
        self.weights[half] = numpy_helper.from_array(value, half)
        return half


def _copied(weight: TensorProto) -> TensorProto:
    copy: TensorProto = TensorProto.FromString(weight.SerializeToString())
    return copy
