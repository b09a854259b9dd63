"""Cleanup passes, and the structure of the exported graph."""

from collections.abc import Sequence

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from polypstream.export.exporter import ExportReport
from polypstream.export.keras import OPSET
from polypstream.export.rewrites.cleanup import merge_affine, operator_counts, simplify_resize

SHAPE = (1, 4, 6, 6)


@pytest.fixture(scope="module")
def exported(report: ExportReport) -> ModelProto:
    return onnx.load(report.output)


def test_the_graph_holds_these_nodes_and_no_others(exported: ModelProto, report: ExportReport) -> None:
    assert operator_counts(exported) == report.operators
    assert report.operators == {
        "Conv": 55,
        "Relu": 29,
        "Add": 16,
        "BatchNormalization": 15,
        "ReduceMean": 14,
        "Mul": 11,
        "Sigmoid": 8,
        "MaxPool": 3,
        "Resize": 3,
        "Concat": 3,
        "Transpose": 2,
        "Cast": 1,
    }


def test_dilated_convolutions_have_the_attribute(exported: ModelProto) -> None:
    dilations = [
        tuple(attribute.ints)
        for node in exported.graph.node
        for attribute in node.attribute
        if node.op_type == "Conv" and attribute.name == "dilations" and tuple(attribute.ints) != (1, 1)
    ]
    assert sorted(dilations) == [(6, 6)] * 2 + [(12, 12)] * 2 + [(18, 18)] * 2


def test_the_image_is_cast_first(exported: ModelProto) -> None:
    users = [node.op_type for node in exported.graph.node if "image" in node.input]
    assert users == ["Cast"]
    assert exported.graph.node[-1].op_type == "Transpose"


def test_inputs_and_outputs_are_static_and_typed(exported: ModelProto) -> None:
    described = {
        value.name: (value.type.tensor_type.elem_type, [d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*exported.graph.input, *exported.graph.output)
    }
    assert described == {
        "image": (TensorProto.UINT8, [1, 64, 64, 3]),
        "probability": (TensorProto.FLOAT, [1, 64, 64, 1]),
    }


def test_nodes_are_named_after_layers(exported: ModelProto, network: keras.Model) -> None:
    layers = {layer.name for layer in network.layers}
    names = [node.name for node in exported.graph.node]
    assert len(set(names)) == len(names)
    assert "encoder2_conv2/Conv" in names
    nameless = {name.split("_")[0] for name in names if name.split("/")[0] not in layers}
    assert nameless == {"Cast", "Mul", "Resize", "ReduceMean"}


def test_old_runtimes_can_read_the_format(exported: ModelProto) -> None:
    assert exported.ir_version == 8
    assert [(version.domain, version.version) for version in exported.opset_import] == [("", OPSET)]


def graph_model(
    nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: Sequence[str] = ("y",)
) -> ModelProto:
    """A model of one float32 input `x` of `SHAPE`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def outcome(model: ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def affine_nodes() -> list[onnx.NodeProto]:
    return [helper.make_node("Mul", ["scale", "x"], ["scaled"]), helper.make_node("Add", ["scaled", "shift"], ["y"])]


def per_channel(*shape: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {name: rng.normal(size=shape).astype(np.float32) for name in ("scale", "shift")}


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (4, 1, 1)])
def test_scale_and_shift_become_one_normalization(shape: tuple[int, ...]) -> None:
    model = graph_model(affine_nodes(), per_channel(*shape))
    before = outcome(model)
    merge_affine(model)
    assert operator_counts(model) == {"BatchNormalization": 1}
    np.testing.assert_allclose(outcome(model)[0], before[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 6), (), (1, 4, 6, 6), (1,)])
def test_an_affine_step_that_is_not_per_channel_stays(shape: tuple[int, ...]) -> None:
    model = graph_model(affine_nodes(), per_channel(*shape))
    merge_affine(model)
    assert operator_counts(model) == {"Mul": 1, "Add": 1}


def test_a_product_with_other_users_is_kept() -> None:
    constants = per_channel(1, 4, 1, 1)
    another = helper.make_node("Relu", ["scaled"], ["z"])
    for nodes, outputs in (([*affine_nodes(), another], ("y", "z")), (affine_nodes(), ("y", "scaled"))):
        model = graph_model(nodes, constants, outputs)
        merge_affine(model)
        assert operator_counts(model)["Mul"] == 1


def resize_model(scales: Sequence[float], mode: str = "nearest") -> ModelProto:
    settings = {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"}
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], mode=mode, **settings)
    return graph_model([node], {"scales": np.array(scales, np.float32)})


def test_whole_nearest_upsampling_takes_the_fast_form() -> None:
    model = resize_model((1, 1, 2, 3))
    before = outcome(model)
    simplify_resize(model)
    values = {a.name: a.s for a in model.graph.node[0].attribute}
    assert values["coordinate_transformation_mode"] == b"asymmetric"
    np.testing.assert_array_equal(outcome(model)[0], before[0])


@pytest.mark.parametrize(
    ("scales", "mode"), [((1, 1, 1.5, 2), "nearest"), ((1, 1, 2, 2), "linear"), ((1, 1, 0.5, 1), "nearest")]
)
def test_other_resizing_is_unchanged(scales: tuple[float, ...], mode: str) -> None:
    model = resize_model(scales, mode)
    before = model.SerializeToString()
    simplify_resize(model)
    assert model.SerializeToString() == before
