"""The CPU rewrites do not change the function."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from polypstream.export.graph import with_shapes, without_unused
from polypstream.export.int8.quantize import quantize
from polypstream.export.rewrites.cpu_kernels import rewrite_for_cpu
from polypstream.export.rewrites.optimize import fold_linear


def model_of(nodes: list[onnx.NodeProto], shape: tuple[int, ...], kind: int, **constants: np.ndarray) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return with_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


BOUNDS = {"zero": np.array(0, np.float32), "most": np.array(6, np.float32)}
"""Of a ReLU6."""


def outcome(model: ModelProto, x: np.ndarray) -> np.ndarray:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
    channels=st.integers(1, 6),
    half=st.tuples(st.integers(4, 7), st.integers(4, 8)),
    relu=st.sampled_from([None, "Relu", "Clip"]),
)
@example(kernel=(7, 7), pads=(2, 2, 3, 3), channels=3, half=(4, 6), relu="Relu")
@example(kernel=(7, 7), pads=(2, 2, 3, 3), channels=3, half=(4, 6), relu=None)
@example(kernel=(7, 7), pads=(2, 2, 3, 3), channels=5, half=(4, 6), relu="Relu")
@example(kernel=(7, 7), pads=(2, 2, 3, 3), channels=3, half=(4, 5), relu="Clip")
def test_a_stride_is_the_same_on_four_columns(
    kernel: tuple[int, int], pads: tuple[int, ...], channels: int, half: tuple[int, int], relu: str | None
) -> None:
    rng = np.random.default_rng(7)
    weight = rng.normal(size=(5, channels, *kernel)).astype(np.float32)
    shape = (1, channels, 2 * half[0], 2 * half[1])
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", strides=[2, 2], pads=pads)]
    if relu is not None:
        nodes[0].output[0] = "made"
        bounds = ["zero", "most"] if relu == "Clip" else []
        nodes.append(helper.make_node(relu, ["made", *bounds], ["y"], "relu"))
    constants = {"w": weight, "b": rng.normal(size=5).astype(np.float32), **BOUNDS}
    model = model_of(nodes, shape, TensorProto.FLOAT, **constants)
    x = rng.normal(size=shape).astype(np.float32)
    form = rewrite_for_cpu(model)
    np.testing.assert_allclose(outcome(form, x), outcome(model, x), rtol=0, atol=1e-4)
    if relu is not None:
        made = {name: node.op_type for node in form.graph.node for name in node.output}
        assert [made[node.input[0]] for node in form.graph.node if node.name == "relu"] == ["Conv"]
    if kernel == (7, 7) and pads == (2, 2, 3, 3):  # as the network begins
        assert (operators(form)["Reshape"] == 2) == (channels <= 4 and half[1] % 2 == 0)


@settings(max_examples=30, deadline=None)
@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    factors=st.tuples(st.sampled_from([1, 2, 3, 4, 1.5]), st.integers(1, 4)),
    channels=st.integers(1, 2),
)
def test_one_channel_is_enlarged_the_same_by_products(
    size: tuple[int, int], factors: tuple[float, float], channels: int
) -> None:
    shape = (1, channels, *size)
    resize = helper.make_node("Resize", ["x", "", "f"], ["y"], "resize", mode="linear")
    model = model_of([resize], shape, TensorProto.FLOAT, f=np.array([1, 1, *factors], np.float32))
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    form = rewrite_for_cpu(model)
    assert (operators(form)["MatMul"] == 2) == (channels == 1 and factors[0] != 1.5)
    np.testing.assert_allclose(outcome(form, x), outcome(model, x), rtol=0, atol=1e-5)


def image_model() -> ModelProto:
    """Bytes to floats, then a strided convolution of the three colors, as at the start of the network."""
    weight = np.random.default_rng(2).normal(size=(8, 3, 7, 7)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["x"], ["float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["scaled"], "scale"),
        helper.make_node("Transpose", ["scaled"], ["first"], "first", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["first", "w"], ["y"], "conv", strides=[2, 2], pads=[3, 3, 3, 3]),
    ]
    return model_of(nodes, (1, 16, 24, 3), TensorProto.UINT8, w=weight, scale=np.array([1 / 255], np.float32))


def test_an_image_enters_8_bit_arithmetic_unchanged() -> None:
    model = image_model()
    image = np.random.default_rng(3).integers(0, 256, (1, 16, 24, 3), dtype=np.uint8)
    expected = outcome(model, image)
    form = rewrite_for_cpu(model)
    names = {name for node in form.graph.node for name in node.output}
    made = quantize(form, dict.fromkeys(names, (-32.0, 32.0)), engine="onnxruntime")
    assert operators(made).keys().isdisjoint({"Cast", "Mul"})
    (first,) = (node for node in made.graph.node if "x" in node.input)
    assert first.op_type == "DequantizeLinear"
    assert np.abs(outcome(made, image) - expected).max() < 0.3  # of what lies within 32, in 8 bits


def test_the_8_bits_of_a_bounded_relu_cover_its_range_alone() -> None:
    rng = np.random.default_rng(6)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["sum"], "conv"),
        helper.make_node("Clip", ["sum", "zero", "most"], ["bounded"], "relu6"),
        helper.make_node("Conv", ["bounded", "v"], ["y"], "next"),
    ]
    shape, weight = (1, 4, 9, 9), rng.normal(size=(4, 4, 1, 1)).astype(np.float32)
    constants = {"w": weight, "v": weight, **BOUNDS}
    model = model_of(nodes, shape, TensorProto.FLOAT, **constants)
    x = rng.normal(size=shape).astype(np.float32)
    expected = outcome(model, x)
    ranges = {"x": (-4.0, 4.0), "sum": (-256.0, 256.0), "bounded": (0.0, 6.0), "y": (-32.0, 32.0)}
    made = quantize(model, ranges, engine="onnxruntime")
    assert "Clip" not in operators(made)
    assert np.abs(outcome(made, x) - expected).mean() < 0.1  # steps of 2, as the sum has, would be off by more


def test_signed_bytes_have_other_steps_than_the_image() -> None:
    model = image_model()
    names = {name for node in model.graph.node for name in node.output}
    made = quantize(model, dict.fromkeys(names, (-32.0, 32.0)), engine="tensorrt")
    (first,) = (node for node in made.graph.node if "x" in node.input)
    assert first.op_type == "Cast"


@pytest.mark.parametrize("axes", [[2, 3], [1, 3]])
def test_a_normalization_passes_moved_pixels_but_no_cut_among_channels(axes: list[int]) -> None:
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["stacked"], "phases", pads=[1, 1, 1, 1]),
        helper.make_node("DepthToSpace", ["stacked"], ["interleaved"], "interleave", blocksize=2),
        helper.make_node("Slice", ["interleaved", "starts", "ends", "axes"], ["cut"], "cut"),
        helper.make_node("Conv", ["cut_before", "v"], ["other"], "other"),
        helper.make_node("Add", ["cut", "other"], ["sum"], "sum"),
        helper.make_node("BatchNormalization", ["sum", *"sbmn"], ["y"], "norm", epsilon=0.0),
    ]
    channels = 3 if axes == [2, 3] else 1
    nodes.insert(0, helper.make_node("Resize", ["x", "", "two"], ["large"], "large", mode="nearest"))
    nodes.insert(1, helper.make_node("Slice", ["large", "starts", "ends", "pixels"], ["cut_before"], "cut_large"))
    if channels == 1:
        nodes[1] = helper.make_node("Slice", ["large", "start", "end", "last"], ["cut_before"], "cut_large")
    values = {name: rng.uniform(0.5, 1.5, channels).astype(np.float32) for name in "sbmn"}
    model = model_of(
        nodes,
        (1, 2, 5, 6),
        TensorProto.FLOAT,
        w=rng.normal(size=(12, 2, 3, 3)).astype(np.float32),
        v=rng.normal(size=(channels, 2, 1, 1)).astype(np.float32),
        two=np.array([1, 1, 2, 2], np.float32),
        starts=np.array([1, 1]),
        ends=np.array([-1, -1]),
        start=np.array([1]),
        end=np.array([-1]),
        axes=np.array(axes),
        pixels=np.array([2, 3]),
        last=np.array([3]),
        **values,
    )
    x = rng.normal(size=(1, 2, 5, 6)).astype(np.float32)
    expected = outcome(model, x)
    folded = with_shapes(model)
    changed = fold_linear(folded.graph)
    assert changed == (axes == [2, 3])
    assert ("BatchNormalization" in operators(folded)) != changed
    np.testing.assert_allclose(outcome(without_unused(folded), x), expected, rtol=0, atol=1e-5)
