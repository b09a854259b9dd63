"""Reduced precision: FP16 conversion, and the effect of FP16 and INT8 on the output.

FP16 conversion keeps tensors that are too large for half precision in float32. Current engines are strongly typed: they
compute with the types that the file declares. Inputs and outputs keep their types. If no tensor is too large, two Cast
nodes suffice: one after the image input and one before the output."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from polypstream.errors import ModelError
from polypstream.export.config import Engine, Precision
from polypstream.export.graph import Images, Lookup, float_tensors, observed, probabilities, with_shapes
from polypstream.export.int8.calibration import with_dark_images
from polypstream.export.int8.recipe import int8_from_fp32


@dataclass(frozen=True, kw_only=True)
class PrecisionLoss:
    """Differences in probability from the float32 model in ONNX Runtime, over the calibration images."""

    mean_difference: float
    largest_difference: float
    images: int
    kept_fp32: tuple[str, ...]
    """What stays in float32: tensors of an fp16 file, nodes of an int8 file."""


def reduce_precision(
    model: ModelProto, images: Images, *, precision: Precision, engine: Engine, threshold: float
) -> tuple[ModelProto, PrecisionLoss]:
    """Convert an optimized float32 model to fp16 or int8.

    Args:
        model: Float32 model of static shape.
        images: Calibration images, uint8 RGB (n, height, width, 3), of the model's size.
        precision: "fp16" or "int8".
        engine: The runtime that an int8 file is made for; ignored for fp16.
        threshold: The model's threshold, at which the INT8 logit bias is corrected; ignored for fp16.

    Returns:
        The converted model, and its differences from the float32 one.

    Raises:
        ModelError: The converted model returns NaN or infinity for one of the images.
    """
    kept: tuple[str, ...]
    if precision == "fp16":
        kept = tuple(hazards(model, with_dark_images(images)))
        converted = fp16_from_fp32(model, keep_fp32=kept)
    else:
        int8 = int8_from_fp32(model, images, engine=engine, threshold=threshold)
        converted, kept = int8.model, int8.left_out
    outputs = probabilities(converted, with_dark_images(images))
    if not np.isfinite(outputs).all():
        raise ModelError(f"the {precision} model returns NaN or infinity; use fp32, and report a bug with the model")
    difference = np.abs(outputs[: len(images)] - probabilities(model, images))
    return converted, PrecisionLoss(
        mean_difference=float(difference.mean()),
        largest_difference=float(difference.max()),
        images=len(images),
        kept_fp32=kept,
    )


LARGEST = 65504.0
"""The largest finite half-precision number."""
HEADROOM = 4.0
"""Safety factor: how much larger than on the calibration images a value may become on other images."""

_MEANS = ("ReduceMean", "GlobalAveragePool", "AveragePool")


def hazards(model: ModelProto, images: Images) -> list[str]:
    """Find the tensors that may overflow half precision.

    For a mean, the sum before the division is checked, because engines may accumulate first.

    Args:
        model: Float32 model of static shape.
        images: Images to measure on, uint8 RGB (n, height, width, 3), of the model's size.

    Returns:
        Tensor names in graph order, to be passed as `keep_fp32` to `fp16_from_fp32`.
    """
    model = with_shapes(model)
    largest = dict.fromkeys(float_tensors(model), 0.0)
    for values in observed(model, images, tensors=largest):
        for name, value in values.items():
            largest[name] = max(largest[name], float(np.abs(value).max()))
    look = Lookup(model.graph)
    for node in model.graph.node:
        if node.op_type in _MEANS:
            largest[node.output[0]] *= np.prod(look.shape(node.input[0])) / np.prod(look.shape(node.output[0]))
    return [name for name, value in largest.items() if not value <= LARGEST / HEADROOM]


def fp16_from_fp32(model: ModelProto, *, keep_fp32: Collection[str] = ()) -> ModelProto:
    """Convert a float32 model to half precision.

    Args:
        model: Float32 model of static shape.
        keep_fp32: Names of tensors to keep in float32. Nodes that read or write one also stay in float32.

    Returns:
        The converted copy.

    Raises:
        ModelError: A name is not a tensor of the model, or a weight exceeds the range of half precision.
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
    """Rewrites the graph node by node and records which precisions of each tensor exist."""

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
        """Return the node with inputs of the right precision, preceded by the casts that this requires."""
        wanted = TensorProto.FLOAT if self._kept.intersection((*node.input, *node.output)) else TensorProto.FLOAT16
        new, casts = NodeProto.FromString(node.SerializeToString()), list[NodeProto]()
        for index, name in enumerate(node.input):
            if name in self._originals:
                single = wanted == TensorProto.FLOAT or node.op_type == "Resize"  # Resize requires float32 scales
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
        """Return the casts that convert the results back to the float32 of the outputs."""
        return [
            helper.make_node("Cast", [self._computed(name)], [name], f"{name}/Cast", to=TensorProto.FLOAT)
            for name in self._outputs
        ]

    def _computed(self, name: str) -> str:
        return f"{name}.computed" if name in self._outputs else name

    def _as(self, name: str, wanted: int, casts: list[NodeProto]) -> str:
        """Return the name of a tensor in the wanted precision; append the cast to `casts` if one is needed."""
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
            raise ModelError(f"the weight {name} exceeds half precision; add its node's output to keep_fp32")
        self.weights[half] = numpy_helper.from_array(value, half)
        return half


def _copied(weight: TensorProto) -> TensorProto:
    copy: TensorProto = TensorProto.FromString(weight.SerializeToString())
    return copy
