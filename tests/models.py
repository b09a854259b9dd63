"""Tiny ONNX models with a polypstream contract, for tests that need a small network."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from polypstream.contract import ModelContract

SIZE = 64


def contract(**changes: object) -> ModelContract:
    """A valid contract of a 64×64 model, with the given fields changed."""
    fields: dict[str, object] = {
        "name": "tiny",
        "version": "1",
        "height": SIZE,
        "width": SIZE,
        "threshold": 0.5,
        "training_data": "none",
        "license": "Apache-2.0",
    }
    return ModelContract(**{**fields, **changes})  # type: ignore[arg-type]


def write_green_finder(
    path: Path,
    *,
    metadata: dict[str, str] | None = None,
    gain: float = 0.2,
    bias: float = -8.0,
    shape: tuple[int, ...] = (),
) -> Path:
    """A model whose probability is sigmoid(gain · (G − R) + bias): green is polyp. With `gain` NaN it returns NaN."""
    height, width = shape or (SIZE, SIZE)
    weights = np.array([[-gain], [gain], [0.0]], np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["real", "weights"], ["green"]),
        helper.make_node("Add", ["green", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
    ]
    graph = helper.make_graph(
        nodes,
        "green_finder",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, height, width, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, height, width, 1])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.float32([bias]), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, contract().to_metadata() if metadata is None else metadata)
    onnx.save(model, path)
    return path
