"""8-bit weights that never saturate the 16-bit sums of CPUs without VNNI."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper

from polypstream.export.graph import Images, Lookup, attribute, probabilities
from polypstream.export.int8.recipe import _Trials
from polypstream.export.int8.rounding import _rounded_plain
from polypstream.export.int8.weight_range import LARGEST, largest_integers, neighbors
from polypstream.models import default_model
from tests.export.int8.test_rounding import SIDE, conv, network


def largest_pair(whole: np.ndarray) -> int:
    """Largest sum of two weights of one sign that a runtime adds in 16 bits; inputs by position, then by channel."""
    rows = whole.astype(int).transpose(0, 2, 3, 1).reshape(len(whole), -1)
    rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(whole), -1, 2)
    return int(max(np.maximum(sign * rows, 0).sum(axis=2).max() for sign in (1, -1)))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 8),
    inputs=st.integers(1, 17),
    size=st.sampled_from([(1, 1), (3, 3), (1, 2)]),
    tail=st.floats(1, 6),
)
def test_no_two_neighboring_weights_overflow_16_bits(
    seed: int, outputs: int, inputs: int, size: tuple[int, int], tail: float
) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 1, (outputs, inputs, *size))
    weights = (np.sign(values) * abs(values) ** tail).astype(np.float32)
    taken = rng.normal(1, 1, (200, weights[0].size)) + rng.normal(0, 2, (200, 1))
    whole = _rounded_plain(weights, taken.T @ taken)
    assert 255 * largest_pair(whole) <= 32767
    ends = largest_integers(weights)
    assert ((ends > 61) & (ends <= LARGEST)).all()


@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)))
def test_neighbors_are_mutual_and_at_most_one_weight_has_none(shape: tuple[int, int, int, int]) -> None:
    other = neighbors(shape)
    np.testing.assert_array_equal(other[other], np.arange(len(other)))
    assert (other == np.arange(len(other))).sum() == len(other) % 2


def test_a_channel_whose_large_weights_have_small_neighbors_keeps_nearly_8_bits() -> None:
    weights = np.array([[1.0, 0.01, -1.0, -0.01], [1.0, 1.0, 0.0, 0.0]], np.float32).reshape(2, 4, 1, 1)
    apart, together = largest_integers(weights)
    assert (apart > 120, together) == (True, 62)


def loud_network() -> ModelProto:
    """A convolution whose weights all have one sign and nearly one size: the worst case for 16-bit sums."""
    rng = np.random.default_rng(0)
    weights = {"a.w": rng.uniform(0.9, 1, (16, 3, 3, 3)), "b.w": rng.uniform(0.9, 1, (16, 16, 3, 3)) / 144}
    weights["head.w"] = rng.normal(0, 1, (1, 16, 1, 1)) / 2000
    nodes = [
        conv("x", "a", kernel=3),
        helper.make_node("Relu", ["a"], ["r"], "r"),
        conv("r", "b", kernel=3),
        helper.make_node("Relu", ["b"], ["s"], "s"),
        conv("s", "head"),
    ]
    return network(nodes, weights, last="head")


def test_the_runtime_computes_what_the_file_states() -> None:
    bright: Images = np.full((12, SIDE, SIDE, 3), 255, np.uint8) - np.random.default_rng(0).integers(
        0, 20, (12, SIDE, SIDE, 3), np.uint8
    )
    model = _Trials(loud_network(), bright, "onnxruntime").made(1.0)
    exactly = ort.SessionOptions()
    exactly.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # floats between Q and DQ
    session = ort.InferenceSession(model.SerializeToString(), exactly, providers=["CPUExecutionProvider"])
    expected = np.concatenate([session.run(None, {"image": image[None]})[0][..., 0] for image in bright])
    np.testing.assert_allclose(probabilities(model, bright), expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_the_model_of_the_package_never_saturates(backend: str) -> None:
    graph = onnx.load(default_model(backend)).graph
    look, checked = Lookup(graph), 0
    for node in graph.node:
        source = look.producer(node.input[1]) if node.op_type == "Conv" else None
        if source is not None and source.op_type == "DequantizeLinear" and attribute(node, "group", 1) == 1:
            whole = numpy_helper.to_array(next(each for each in graph.initializer if each.name == source.input[0]))
            assert 255 * largest_pair(whole) <= 32767, node.name
            checked += 1
    assert checked > 50
