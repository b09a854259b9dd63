"""INT8 weights: rounding minimizes the change of outputs; equalization makes channels similar in magnitude."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, TensorProto, helper, numpy_helper

from polypstream.export.graph import Images, Lookup, observed, probabilities, with_shapes
from polypstream.export.int8.equalization import channel_peaks, equalize
from polypstream.export.int8.quantize import quantize
from polypstream.export.int8.recipe import _Trials
from polypstream.export.int8.rounding import Rounded, _rounded_depthwise, _rounded_plain, rounded_weights
from polypstream.export.int8.weight_range import LARGEST, depthwise_steps_of, steps_of

SIDE = 24


def network(nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray], *, last: str) -> ModelProto:
    """A model of 24×24 images whose nodes start from `x`, (1, 3, 24, 24), and end in one channel, `last`."""
    front = [
        helper.make_node("Cast", ["image"], ["floats"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x"], "first", perm=[0, 3, 1, 2]),
    ]
    back = [
        helper.make_node("Sigmoid", [last], ["sigmoid"], "sigmoid"),
        helper.make_node("Transpose", ["sigmoid"], ["probability"], "last", perm=[0, 2, 3, 1]),
    ]
    graph = helper.make_graph(
        [*front, *nodes, *back],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [1, SIDE, SIDE, 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return with_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def conv(source: str, name: str, *, kernel: int = 1) -> onnx.NodeProto:
    return helper.make_node(
        "Conv", [source, f"{name}.w"], [name], name, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4
    )


@pytest.fixture
def seen() -> Images:
    """Smooth images, so that neighboring pixels and colors are correlated as in real ones."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (12, 4, 4, 1)).repeat(6, axis=1).repeat(6, axis=2)
    noise = rng.normal(0, 6, (12, SIDE, SIDE, 3))
    return (coarse * [1.0, 0.7, 0.6] + noise).clip(0, 255).astype(np.uint8)


def residual_network(louder: np.ndarray) -> ModelProto:
    """A residual stream of eight channels with two blocks; channels have the given magnitudes and equal effect."""
    rng = np.random.default_rng(3)

    def some(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.5, shape)

    per_output, per_input = louder.reshape(-1, 1, 1, 1), louder.reshape(1, -1, 1, 1)
    weights = {"stem.w": some(8, 3, 3, 3) * per_output / 128, "head.w": some(1, 8, 1, 1) / per_input}
    nodes = [conv("x", "stem", kernel=3), helper.make_node("Relu", ["stem"], ["stream0"], "stream0")]
    for block in (1, 2):
        weights |= {
            f"in{block}.w": some(4, 8, 1, 1) / per_input,
            f"out{block}.w": some(8, 4, 3, 3) * per_output / 4,
        }
        nodes += [
            conv(f"stream{block - 1}", f"in{block}"),
            helper.make_node("Relu", [f"in{block}"], [f"inner{block}"], f"inner{block}"),
            conv(f"inner{block}", f"out{block}", kernel=3),
            helper.make_node("Add", [f"out{block}", f"stream{block - 1}"], [f"sum{block}"], f"sum{block}"),
            helper.make_node("Relu", [f"sum{block}"], [f"stream{block}"], f"stream{block}"),
        ]
    return network([*nodes, conv("stream2", "head")], weights, last="head")


def test_all_of_a_residual_stream_is_brought_to_one_scale(seen: Images) -> None:
    model = residual_network(np.array([1, 1, 32, 1, 0.03, 1, 8, 1]))
    even = equalize(model, channel_peaks(model, seen))
    np.testing.assert_allclose(probabilities(even, seen), probabilities(model, seen), rtol=0, atol=1e-6)
    before, after = (channel_peaks(each, seen) for each in (model, even))
    for name in ("stream0", "stream2"):
        assert before[name].max() > 10 * np.median(before[name]), name
        assert after[name].max() < 4 * np.median(after[name]), name
    factors = [after[name] / before[name] for name in ("stream0", "stream2")]
    np.testing.assert_allclose(*factors)  # what is added to a stream has its factors
    np.testing.assert_allclose(np.log2(factors[0]), np.round(np.log2(factors[0])), atol=1e-6)


def test_a_map_that_the_graph_gives_out_keeps_its_scale(seen: Images) -> None:
    model = residual_network(np.array([1, 1, 32, 1, 1, 1, 1, 1]))
    model.graph.output.append(helper.make_tensor_value_info("stream1", TensorProto.FLOAT, [1, 8, SIDE, SIDE]))
    even = equalize(model, channel_peaks(model, seen))
    np.testing.assert_array_equal(*(channel_peaks(each, seen)["stream2"] for each in (model, even)))


def test_a_square_is_unchanged(seen: Images) -> None:
    rng = np.random.default_rng(4)
    loud = np.array([1, 1, 32, 1]).reshape(-1, 1, 1, 1)
    weights = {"a.w": loud * rng.normal(0, 1, (4, 3, 1, 1)) / 64, "head.w": rng.normal(0, 1, (1, 4, 1, 1)) / 999}
    nodes = [
        conv("x", "a"),
        helper.make_node("Relu", ["a"], ["r"], "r"),
        helper.make_node("Mul", ["r", "r"], ["square"], "square"),
        conv("square", "head"),
    ]
    model = network(nodes, weights, last="head")
    even = equalize(model, channel_peaks(model, seen))
    np.testing.assert_allclose(probabilities(even, seen), probabilities(model, seen), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 12),
    inputs=st.integers(1, 40),
    size=st.sampled_from([(1, 1), (3, 3)]),
)
def test_outputs_change_less_than_with_rounding_to_nearest(
    seed: int, outputs: int, inputs: int, size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    count = inputs * size[0] * size[1]
    weights = rng.normal(0, 1, (outputs, inputs, *size)).astype(np.float32)
    common = rng.normal(1, 1, (4000, 1 + count // 4)) @ rng.normal(0, 1, (1 + count // 4, count))
    taken = common + rng.normal(0, 0.1, common.shape)
    rounded = _rounded_plain(weights, taken.T @ taken)
    assert (rounded.dtype, rounded.shape) == (np.int8, weights.shape)
    assert abs(rounded.astype(int)).max() <= LARGEST
    flat = weights.reshape(outputs, -1)
    steps = steps_of(weights)[:, None]
    errors = [
        np.square(taken @ (flat - steps * whole).T).mean()
        for whole in (rounded.reshape(outputs, -1), np.round(flat / steps))
    ]
    if count >= 90 and outputs >= 4:  # with few, the nearest may do as well by chance
        assert errors[0] < 0.7 * errors[1]


def test_inputs_without_samples_are_rounded_to_nearest() -> None:
    weights = np.array([[0.0, 1.24, -0.504, 0.0]], np.float32).reshape(1, 4, 1, 1)
    assert _rounded_plain(weights, np.zeros((4, 4))).ravel().tolist() == [0, 124, -50, 0]
    assert not _rounded_plain(np.zeros((2, 3, 1, 1), np.float32), np.eye(3)).any()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    channels=st.sampled_from([1, 3, 64]),
    size=st.sampled_from([(1, 1), (2, 2), (3, 3), (5, 5)]),
    noise=st.sampled_from([0.01, 0.1, 1.0]),
)
def test_depthwise_outputs_change_no_more_than_with_rounding_to_nearest(
    seed: int, channels: int, size: tuple[int, int], noise: float
) -> None:
    rng = np.random.default_rng(seed)
    count = size[0] * size[1]
    weights = rng.normal(0, 1, (channels, 1, *size)).astype(np.float32)
    taken = rng.normal(1, 1, (channels, 500, 1)) + rng.normal(0, noise, (channels, 500, count))
    moments = taken.swapaxes(1, 2) @ taken
    rounded = _rounded_depthwise(weights, moments)
    assert (rounded.dtype, rounded.shape) == (np.int8, weights.shape)
    assert abs(rounded.astype(int)).max() <= LARGEST
    flat = weights.reshape(channels, count) / depthwise_steps_of(weights)[:, None]

    def error(whole: np.ndarray) -> np.ndarray:
        difference = whole.reshape(channels, count) - flat
        return np.einsum("ck,ckl,cl->c", difference, moments, difference)

    nearest = error(np.round(flat))
    assert (error(rounded) <= nearest + 1e-3 * np.trace(moments, axis1=1, axis2=2)).all()
    if count >= 9 and channels == 64 and noise <= 0.1:  # errors of similar inputs cancel; by chance also those of a few
        assert error(rounded).sum() < 0.5 * nearest.sum()


def test_depthwise_rounding_comes_close_to_the_best_of_all_neighbors() -> None:
    rng = np.random.default_rng(5)
    weights = rng.normal(0, 1, (6, 1, 2, 2)).astype(np.float32)
    taken = rng.normal(1, 1, (6, 300, 1)) + rng.normal(0, 0.3, (6, 300, 4))
    moments = taken.swapaxes(1, 2) @ taken
    flat = weights.reshape(6, 4) / depthwise_steps_of(weights)[:, None]
    below = np.floor(flat)
    options = np.array(list(np.ndindex(2, 2, 2, 2)))
    for channel, rounded in enumerate(_rounded_depthwise(weights, moments).reshape(6, 4)):
        tried = np.vstack([below[channel] + options, rounded]) - flat[channel]
        errors = np.einsum("nk,kl,nl->n", tried, moments[channel], tried)
        assert errors[-1] <= 1.05 * errors[:-1].min()


def depthwise_network() -> ModelProto:
    """Three channels, each convolved by itself with large weights and bounded, then added."""
    rng = np.random.default_rng(6)
    weights = {
        "alone.w": rng.normal(0, 0.5, (3, 1, 3, 3)),
        "alone.b": rng.normal(0, 1, 3),
        "head.w": rng.normal(0, 0.1, (1, 3, 1, 1)),
        "low": np.array(0.0),
        "high": np.array(6.0),
    }
    alone = conv("x", "alone", kernel=3)
    alone.input.append("alone.b")
    alone.attribute.append(helper.make_attribute("group", 3))
    return network(
        [alone, helper.make_node("Clip", ["alone", "low", "high"], ["bounded"], "bounded"), conv("bounded", "head")],
        weights,
        last="head",
    )


def test_quantized_outputs_keep_their_means(seen: Images) -> None:
    model = depthwise_network()
    ranges = {"x": (0.0, 255.0), "alone": (-2000.0, 2000.0), "bounded": (0.0, 6.0), "floats": (0.0, 255.0)}
    found = rounded_weights(model, seen)
    lost = found["alone.w"].lost
    biases = {}
    for name, keep in (("quantized", ()), ("kept", ("alone",))):
        made = quantize(model, ranges, engine="tensorrt", weights=found, keep_fp32=keep)
        look = Lookup(made.graph)
        (node,) = (each for each in made.graph.node if each.name == "alone")
        biases[name] = look.value(node.input[2])
        if name == "quantized":
            np.testing.assert_array_equal(look.value("alone.w_quantized"), found["alone.w"].weights)
            wanted_steps = depthwise_steps_of(Lookup(model.graph).value("alone.w"))
            np.testing.assert_allclose(look.value("alone.w_scale"), wanted_steps, rtol=1e-6)
    exact = Lookup(model.graph).value("alone.b")
    np.testing.assert_array_equal(biases["kept"], exact)
    np.testing.assert_allclose(biases["quantized"], exact + lost, rtol=1e-6)
    wanted = mean_outputs(model, seen)
    corrected, uncorrected = (
        abs(mean_outputs(with_rounded(model, found, added), seen) - wanted) for added in (lost, 0 * lost)
    )
    assert corrected.max() < 0.3 * uncorrected.max()


def mean_outputs(model: ModelProto, images: Images) -> np.ndarray:
    """Mean of each channel of the depthwise convolution."""
    return np.mean([each["alone"].mean(axis=(0, 2, 3)) for each in observed(model, images, tensors=["alone"])], axis=0)


def with_rounded(model: ModelProto, found: Mapping[str, Rounded], added: np.ndarray) -> ModelProto:
    """The depthwise network with rounded weights and a larger bias, in float32."""
    copy = with_shapes(model)
    look = Lookup(copy.graph)
    whole, bias = found["alone.w"].weights, look.value("alone.b")
    steps = depthwise_steps_of(look.value("alone.w")).reshape(-1, 1, 1, 1)
    for weight in copy.graph.initializer:
        if weight.name == "alone.w":
            weight.CopyFrom(numpy_helper.from_array((whole * steps).astype(np.float32), weight.name))
        elif weight.name == "alone.b":
            weight.CopyFrom(numpy_helper.from_array((bias + added).astype(np.float32), weight.name))
    return copy


def test_the_file_holds_the_rounded_weights(seen: Images) -> None:
    trials = _Trials(residual_network(np.ones(8)), seen, "onnxruntime")
    found = {name: each.weights for name, each in rounded_weights(trials._form, seen).items()}
    exact, stored = (
        {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
        for model in (trials._form, trials.made(1.0))
    )
    quantized = [name for name in found if f"{name}_quantized" in stored]
    assert len(quantized) == 5  # all but the last, which makes the logit
    for name in quantized:
        np.testing.assert_array_equal(stored[f"{name}_quantized"], found[name])
        step = stored[f"{name}_scale"].reshape(-1, 1, 1, 1)
        assert abs(step * found[name] - exact[name]).max() < 4 * step.max()
    nearest = [np.round(exact[name] / stored[f"{name}_scale"].reshape(-1, 1, 1, 1)) for name in quantized]
    assert any(np.any(found[name] != each) for name, each in zip(quantized, nearest, strict=True))
