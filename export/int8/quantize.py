"""INT8 quantization of an ONNX graph: Q/DQ nodes around integer operations, and correction of the logit bias.

Weights have 8 bits with per-channel scales (see `weight_range`). There are two styles, as each engine runs the other's
slowly:

- `onnxruntime`: unsigned activations; also quantizes operations between convolutions, in the forms of `cpu_kernels`.
- `tensorrt`: signed activations with zero point 0, only at the inputs of convolutions. OpenVINO runs it well, too.

Quantization errors do not average out in a deep network: a quantized model usually marks slightly more, or slightly
fewer, pixels than the float32 model. A constant added before the final sigmoid, which removes the constant offset of
8-bit arithmetic, restores the number of marked pixels."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType
from onnxruntime.quantization.calibrate import TensorData
from onnxruntime.quantization.quant_utils import TENSOR_NAME_QUANT_SUFFIX

from polypstream.errors import ModelError
from polypstream.export.config import Engine
from polypstream.export.graph import Lookup, add_constant, attribute, with_shapes, without_unused
from polypstream.export.int8.rounding import Rounded
from polypstream.export.int8.weight_range import LARGEST, steps_of

Ranges = Mapping[str, tuple[float, float]]
"""For each tensor, the lowest and highest value that 8 bits cover; the range contains 0, as padding requires."""

_QUANTIZED: Mapping[Engine, tuple[str, ...]] = {
    "onnxruntime": (
        *("Conv", "Relu", "Clip", "Add", "Mul", "MaxPool", "GlobalAveragePool"),
        *("Concat", "Slice", "Transpose", "Reshape", "Resize", "DepthToSpace"),
    ),
    "tensorrt": ("Conv",),
}


def quantize(
    model: ModelProto,
    ranges: Ranges,
    *,
    engine: Engine,
    weights: Mapping[str, Rounded] | None = None,
    keep_fp32: Collection[str] = (),
) -> ModelProto:
    """Quantize a model to 8 bits.

    Args:
        model: Float32 model of static shape; it is not changed.
        ranges: Value ranges of the tensors.
        engine: The runtime whose style is used.
        weights: Rounded weights by tensor name, from `rounded_weights`; others are rounded to nearest.
        keep_fp32: Names of nodes that stay in float32.

    Returns:
        The quantized copy, with the same metadata.

    Raises:
        ModelError: `keep_fp32` contains a name that is not a node of the model.
    """
    if unknown := sorted(set(keep_fp32) - {node.name for node in model.graph.node}):
        raise ModelError(f"the model has no node {', '.join(unknown)}; keep_fp32 takes nodes of the float32 model")
    copy = with_shapes(model)
    names = [name for name in quantizable_nodes(model, engine=engine) if name not in keep_fp32]
    _restore_means(copy.graph, weights or {}, names)
    symmetric = engine == "tensorrt"
    steps = _scaled_bytes(copy)
    ranges = {**ranges, **{name: (0.0, 255 * step) for name, step in steps.items()}}
    helper.set_model_props(copy, {"onnx.infer": "onnxruntime.quant"})  # shapes are known; avoids a temporary file
    tool = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range={
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        },
        nodes_to_quantize=names,
        nodes_to_exclude=[],
        op_types_to_quantize=list(_QUANTIZED[engine]),
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "TensorQuantOverrides": _weight_ranges(copy),
            "QuantizeBias": not symmetric,  # TensorRT rejects integer biases
            "OpTypesToExcludeOutputQuantization": list(_QUANTIZED[engine]) if symmetric else [],
        },
    )
    tool.quantize_model()
    tool.model.topological_sort()
    if not symmetric:
        _enter_as_bytes(tool.model.model.graph, steps)
    _store(tool.model.model.graph, weights or {})
    result = without_unused(tool.model.model)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    del result.metadata_props[:]
    result.metadata_props.extend(model.metadata_props)
    onnx.checker.check_model(result, full_check=True)
    return result


def _weight_ranges(model: ModelProto) -> dict[str, list[dict[str, object]]]:
    """Return the ranges of all weights of ungrouped convolutions, in the form that the tool takes.

    The kernels of depthwise convolutions add products in 32 bits, so that their weights keep the whole range.
    """
    look = Lookup(model.graph)
    common = {"axis": 0, "quant_type": QuantType.QInt8, "symmetric": True}
    plain = (node for node in model.graph.node if node.op_type == "Conv" and attribute(node, "group", 1) == 1)
    names = {node.input[1] for node in plain if look.is_constant(node.input[1])}
    ends = {name: np.asarray(LARGEST * steps_of(look.value(name)), np.float32) for name in sorted(names)}
    return {name: [{**common, "rmin": -end, "rmax": end} for end in ends[name]] for name in ends}


def _scaled_bytes(model: ModelProto) -> dict[str, float]:
    """Return the tensors that equal the image's bytes times a constant, with that constant."""
    look, steps = Lookup(model.graph), {}
    for node in model.graph.node:
        cast = look.producer(node.input[0]) if node.op_type == "Mul" else None
        step = look.constant(node.input[1]) if cast is not None and cast.op_type == "Cast" else None
        if cast is not None and step is not None and step.size == 1 and cast.input[0] == model.graph.input[0].name:
            steps[node.output[0]] = float(step.item())
    return steps


def _enter_as_bytes(graph: GraphProto, scaled: Collection[str]) -> None:
    """Bypass dequantization and quantization with equal steps between the image and its users."""
    look = Lookup(graph)
    made = [user.output[0] for name in scaled for user in look.users(name) if user.op_type == "QuantizeLinear"]
    for node in graph.node:
        node.input[:] = [graph.input[0].name if name in made else name for name in node.input]


def _restore_means(graph: GraphProto, weights: Mapping[str, Rounded], names: Collection[str]) -> None:
    """Add to the biases of the named convolutions what their outputs lose on average when weights are rounded."""
    look = Lookup(graph)
    for node in graph.node:
        rounded = weights.get(node.input[1]) if node.op_type == "Conv" and node.name in names else None
        if rounded is not None and all(look.is_constant(name) for name in node.input[2:]):
            bias = look.value(node.input[2]) if len(node.input) > 2 else 0
            corrected = add_constant(graph, f"{node.name}.corrected", np.asarray(bias + rounded.lost, np.float32))
            node.input[2:] = [corrected]


def _store(graph: GraphProto, weights: Mapping[str, Rounded]) -> None:
    """Replace the tool's rounded weights with the given ones."""
    for stored in graph.initializer:
        rounded = weights.get(stored.name.removesuffix(TENSOR_NAME_QUANT_SUFFIX))
        if rounded is not None and stored.data_type == TensorProto.INT8:
            stored.CopyFrom(numpy_helper.from_array(rounded.weights, stored.name))


def quantizable_nodes(model: ModelProto, *, engine: Engine) -> list[str]:
    """List the nodes that are quantized by default, in graph order.

    The gates of squeeze-and-excitation blocks, which process one value per channel, and the single-channel logit are
    excluded: they cost almost nothing, and their errors affect the whole image.
    """
    look = Lookup(model.graph)
    return [node.name for node in model.graph.node if node.op_type in _QUANTIZED[engine] and _is_map(node, look)]


def _is_map(node: NodeProto, look: Lookup) -> bool:
    taken = [name for name in node.input if name and not look.is_constant(name)]
    if not taken or node.op_type == "GlobalAveragePool":
        return bool(taken)
    shape = look.shape(node.output[0])
    channels_last = node.op_type in ("Transpose", "Reshape", "Concat")
    return len(shape) == 4 and (channels_last or (shape[1] > 1 and max(shape[2:]) > 1))


LARGEST_SHIFT = 0.5
"""Largest correction of a logit, in either direction. A model that needs more has more than an offset."""
_EPSILON = 1e-7
"""Probabilities are clipped to this distance from 0 and 1, whose logits are infinite."""
_AFTER_SIGMOID = ("Transpose", "Reshape", "Identity")


def correct_bias(
    model: ModelProto, quantized: NDArray[np.float32], exact: NDArray[np.float32], *, threshold: float
) -> ModelProto:
    """Add a constant to a quantized model's logits so that it marks as many pixels as the float32 model.

    Args:
        model: The quantized model; it must end in a sigmoid.
        quantized: Its probabilities on some images, float32 in [0, 1], of any shape.
        exact: The float32 model's probabilities on the same images, of the same shape.
        threshold: Probability from which a pixel is marked: the model's own threshold. At other thresholds the two
            models may still differ.

    Returns:
        A corrected copy of the model.

    Raises:
        ModelError: The graph does not end in a sigmoid.
    """
    copy: ModelProto = ModelProto.FromString(model.SerializeToString())
    sigmoid = _final_sigmoid(copy)
    shift = logit_shift(quantized, exact, threshold=threshold)
    constant = numpy_helper.from_array(np.array(shift, np.float32), f"{sigmoid.name}.bias_correction")
    corrected = f"{sigmoid.name}.corrected"
    add = helper.make_node("Add", [sigmoid.input[0], constant.name], [corrected], f"{sigmoid.name}/BiasCorrection")
    position = list(copy.graph.node).index(sigmoid)
    sigmoid.input[0] = corrected
    copy.graph.node.insert(position, add)
    copy.graph.initializer.append(constant)
    return with_shapes(copy)


def logit_shift(quantized: NDArray[np.float32], exact: NDArray[np.float32], *, threshold: float) -> float:
    """Compute the constant that `correct_bias` adds; 0 if the float32 model marks no pixels or all of them.

    Args:
        quantized: Probabilities of the quantized model, float32 in [0, 1].
        exact: Probabilities of the float32 model, of the same shape.
        threshold: Probability from which a pixel is marked, between 0 and 1.

    Returns:
        The shift of the logits, at most `LARGEST_SHIFT` in either direction.
    """
    wanted = int((exact >= threshold).sum())
    if not 0 < wanted < quantized.size:
        return 0.0
    logits = _logit(np.clip(quantized.astype(np.float64).ravel(), _EPSILON, 1 - _EPSILON))
    lowest_marked = np.partition(logits, logits.size - wanted)[logits.size - wanted]
    return float(np.clip(_logit(np.float64(threshold)) - lowest_marked, -LARGEST_SHIFT, LARGEST_SHIFT))


def _logit(probability: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.asarray(np.log(probability / (1 - probability)))


def _final_sigmoid(model: ModelProto) -> NodeProto:
    """Return the node that converts logits to probabilities."""
    look = Lookup(model.graph)
    node = look.producer(model.graph.output[0].name)
    while node is not None and node.op_type in _AFTER_SIGMOID:
        node = look.producer(node.input[0])
    if node is None or node.op_type != "Sigmoid":
        raise ModelError("the graph does not end in a Sigmoid; use a model exported by polypstream")
    return node
