"""8 bits written into an ONNX: Q/DQ nodes around what is to be computed in integers, weights in 8 bits per channel.

Two engines, two styles, as each runs the other's slowly:

- `onnxruntime`: unsigned activations, every step between two convolutions quantised too, in the forms of `cpu_form`.
- `tensorrt`: signed activations with zero point 0, at the inputs of convolutions only. OpenVINO likes this one as well.
"""

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
from polypstream.export.lookup import Lookup, with_shapes, without_unused

Ranges = Mapping[str, tuple[float, float]]
"""Per tensor, the lowest and the highest value that the 8 bits cover; they hold 0, as padding needs."""

_QUANTISED: Mapping[Engine, tuple[str, ...]] = {
    "onnxruntime": (
        *("Conv", "Relu", "Add", "Mul", "MaxPool", "GlobalAveragePool"),
        *("Concat", "Slice", "Transpose", "Reshape", "Resize", "DepthToSpace"),
    ),
    "tensorrt": ("Conv",),
}


def quantised(
    model: ModelProto,
    ranges: Ranges,
    *,
    engine: Engine,
    weights: Mapping[str, NDArray[np.int8]] | None = None,
    keep_fp32: Collection[str] = (),
) -> ModelProto:
    """The model in 8 bits, but for the nodes that `keep_fp32` names.

    `weights` are those that `rounded_weights` found, by name; others become the nearest 8-bit number.
    Raises `ModelError` where a name is none of the model's.
    """
    if unknown := sorted(set(keep_fp32) - {node.name for node in model.graph.node}):
        raise ModelError(f"the model has no node named {', '.join(unknown)}; keep_fp32 names nodes of the FP32 form")
    copy = with_shapes(model)
    symmetric = engine == "tensorrt"
    steps = _scaled_bytes(copy)
    ranges = {**ranges, **{name: (0.0, 255 * step) for name, step in steps.items()}}
    helper.set_model_props(copy, {"onnx.infer": "onnxruntime.quant"})  # shapes are known: it writes no temporary file
    tool = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range={
            name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()
        },
        nodes_to_quantize=[name for name in quantisable_nodes(model, engine=engine) if name not in keep_fp32],
        nodes_to_exclude=[],
        op_types_to_quantize=list(_QUANTISED[engine]),
        extra_options={
            "ActivationSymmetric": symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": not symmetric,  # TensorRT refuses biases in integers
            "OpTypesToExcludeOutputQuantization": list(_QUANTISED[engine]) if symmetric else [],
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


def _scaled_bytes(model: ModelProto) -> dict[str, float]:
    """The tensors that are the picture's bytes times a constant, and that constant."""
    look, steps = Lookup(model.graph), {}
    for node in model.graph.node:
        cast = look.producer(node.input[0]) if node.op_type == "Mul" else None
        step = look.constant(node.input[1]) if cast is not None and cast.op_type == "Cast" else None
        if cast is not None and step is not None and step.size == 1 and cast.input[0] == model.graph.input[0].name:
            steps[node.output[0]] = float(step.item())
    return steps


def _enter_as_bytes(graph: GraphProto, scaled: Collection[str]) -> None:
    """Where a picture's bytes are made floats and bytes again, of the same steps, take the picture itself."""
    look = Lookup(graph)
    made = [user.output[0] for name in scaled for user in look.users(name) if user.op_type == "QuantizeLinear"]
    for node in graph.node:
        node.input[:] = [graph.input[0].name if name in made else name for name in node.input]


def _store(graph: GraphProto, weights: Mapping[str, NDArray[np.int8]]) -> None:
    """Put the weights in the place of those that the tool rounded."""
    for stored in graph.initializer:
        rounded = weights.get(stored.name.removesuffix(TENSOR_NAME_QUANT_SUFFIX))
        if rounded is not None and stored.data_type == TensorProto.INT8:
            stored.CopyFrom(numpy_helper.from_array(rounded, stored.name))


def quantisable_nodes(model: ModelProto, *, engine: Engine) -> list[str]:
    """The nodes that are quantised unless told otherwise, in graph order.

    Not the gates of squeeze-and-excitation, which work on one value per channel, nor what works on a single channel,
    the logit: both cost next to nothing and err for the whole picture.
    """
    look = Lookup(model.graph)
    return [node.name for node in model.graph.node if node.op_type in _QUANTISED[engine] and _is_map(node, look)]


def _is_map(node: NodeProto, look: Lookup) -> bool:
    taken = [name for name in node.input if name and not look.is_constant(name)]
    if not taken or node.op_type == "GlobalAveragePool":
        return bool(taken)
    shape = look.shape(node.output[0])
    channels_last = node.op_type in ("Transpose", "Reshape", "Concat")
    return len(shape) == 4 and (channels_last or (shape[1] > 1 and max(shape[2:]) > 1))
