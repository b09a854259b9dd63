"""Reduced precisions return nearly the same as float32, and report unsupported models."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from polypstream.contract import ModelContract
from polypstream.errors import ConfigError, DatasetError, ModelError
from polypstream.export import precision
from polypstream.export.config import Engine, ExportConfig
from polypstream.export.exporter import ExportReport
from polypstream.export.graph import Images, Lookup, float_tensors, frame_ms, gmac, macs, probabilities, with_shapes
from polypstream.export.int8 import recipe as int8
from polypstream.export.int8.calibration import FEWEST, calibration_images, with_dark_images
from polypstream.export.int8.equalization import channel_peaks, equalize
from polypstream.export.int8.quantize import LARGEST_SHIFT, correct_bias, logit_shift, quantizable_nodes, quantize
from polypstream.export.int8.recipe import int8_from_fp32
from polypstream.export.precision import fp16_from_fp32, hazards
from polypstream.export.rewrites.cpu_kernels import rewrite_for_cpu
from polypstream.export.rewrites.optimize import optimize
from tests.models import write_green_finder

TWO_CONVOLUTIONS = ("encoder2_conv2/Conv", "encoder3_conv2/Conv")


@pytest.fixture(scope="module")
def model(report: ExportReport) -> ModelProto:
    """The narrow network, optimized, in float32."""
    return with_shapes(optimize(onnx.load(report.output)))


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The INT8 recipe at a fraction of its time."""
    monkeypatch.setattr(int8, "SHARES", (0.9, 1.0))
    monkeypatch.setattr(int8, "_MAY_BE_LEFT_OUT", {"onnxruntime": ("GlobalAveragePool",), "tensorrt": ()})
    monkeypatch.setattr(int8, "EARLY_COSTS", (0.0, 0.11))


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def with_louder_channel(model: ModelProto, name: str, factor: float) -> ModelProto:
    """The model with one weight multiplied."""
    copy = ModelProto.FromString(model.SerializeToString())
    weight = next(weight for weight in copy.graph.initializer if weight.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(factor), name))
    return copy


def test_half_precision_takes_two_casts_and_returns_the_same(model: ModelProto, images: Images) -> None:
    half = fp16_from_fp32(model)
    assert operators(half)["Cast"] == 2
    assert {weight.data_type for weight in half.graph.initializer} == {
        TensorProto.FLOAT16,
        TensorProto.FLOAT,
        TensorProto.INT64,
    }
    assert len(half.SerializeToString()) < 0.75 * len(model.SerializeToString())
    np.testing.assert_allclose(probabilities(half, images), probabilities(model, images), rtol=0, atol=5e-3)


def test_tensors_too_large_for_half_precision_stay_in_float32(model: ModelProto, images: Images) -> None:
    assert hazards(model, images) == []
    loud = with_louder_channel(model, "decoder2_attention_gate_conv/Conv.weight", 1e5)
    found = hazards(loud, images)
    assert "decoder2_attention_gate_conv/Conv" in found
    assert "encoder1/Mul" not in found
    half = fp16_from_fp32(loud, keep_fp32=found)
    assert operators(half)["Cast"] > 2
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert types["decoder2_attention_gate_conv/Conv"] == TensorProto.FLOAT
    assert types["encoder1/Mul"] == TensorProto.FLOAT16
    assert np.isfinite(probabilities(half, images)).all()


def test_a_weight_beyond_half_precision_is_refused_by_name(model: ModelProto) -> None:
    loud = with_louder_channel(model, "encoder1_conv2/Conv.weight", 1e7)
    with pytest.raises(ModelError, match=r"encoder1_conv2/Conv\.weight exceeds half precision"):
        fp16_from_fp32(loud)


def test_even_scales_and_the_cpu_form_change_nothing(model: ModelProto, images: Images) -> None:
    even = equalize(model, channel_peaks(model, images))
    weights = [{weight.SerializeToString() for weight in one.graph.initializer} for one in (model, even)]
    assert weights[0] != weights[1]
    expected = probabilities(model, images)
    np.testing.assert_allclose(probabilities(even, images), expected, rtol=0, atol=1e-5)
    form = rewrite_for_cpu(even)
    assert operators(form).keys().isdisjoint({"BatchNormalization", "DepthToSpace", "Resize"})
    np.testing.assert_allclose(probabilities(form, images), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_int8_returns_nearly_the_same(model: ModelProto, images: Images, engine: Engine) -> None:
    made = int8_from_fp32(model, images, engine=engine, threshold=0.5)
    moved = np.abs(probabilities(made.model, images) - probabilities(model, images))
    assert moved.mean() < 0.02
    assert made.difference < 0.02
    types = Counter(weight.data_type for weight in made.model.graph.initializer)
    assert types[TensorProto.INT8] >= 40
    assert (types[TensorProto.INT32] > 0) == (engine == "onnxruntime")
    assert made.model.metadata_props == model.metadata_props
    again = int8_from_fp32(model, images, engine=engine, threshold=0.5)
    assert again.model.SerializeToString(deterministic=True) == made.model.SerializeToString(deterministic=True)


def test_no_convolution_is_left_to_onnx_runtime_to_quantize(model: ModelProto, images: Images) -> None:
    operators = {}
    for engine in get_args(Engine):
        trials = int8._Trials(model, images, engine)
        kinds = {node.name: node.op_type for node in trials._form.graph.node}
        operators[engine] = {kinds[name] for name in trials.candidates()}
    assert operators == {"onnxruntime": {"Mul", "GlobalAveragePool"}, "tensorrt": {"Conv"}}


def test_the_first_layers_are_all_that_their_last_one_depends_on(model: ModelProto, images: Images) -> None:
    trials = int8._Trials(model, images, "onnxruntime")
    assert trials.first_layers(0.0) == []
    look = Lookup(trials._form.graph)
    cost = {node.name: macs(node, look) for node in trials._form.graph.node}
    nodes = {node.name: node for node in trials._form.graph.node}
    for share in (0.1, 0.3, 0.6):
        names = trials.first_layers(share)
        assert 0 < sum(cost[name] for name in names) <= share * sum(cost.values())
        producers = [look.producer(source) for name in names for source in nodes[name].input]
        assert {each.name for each in producers if each is not None and cost[each.name]} <= set(names)


def test_first_layers_stay_in_float32_if_that_reduces_the_error(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, images: Images
) -> None:
    monkeypatch.setattr(int8, "SHARES", (1.0,))
    monkeypatch.setattr(int8, "_MAY_BE_LEFT_OUT", {"onnxruntime": ()})
    monkeypatch.setattr(int8, "EARLY_COSTS", (0.0, 0.3, 0.6))
    expected = int8._Trials(model, images, "onnxruntime").first_layers(0.3)
    errors = {0: 0.2, len(expected): 0.1}
    monkeypatch.setattr(int8._Trials, "difference", lambda self, share, names=(): errors.get(len(names), 0.15))
    made = int8_from_fp32(model, images, engine="onnxruntime", threshold=0.5)
    assert list(made.left_out) == expected


def test_the_most_sensitive_node_is_left_out(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, images: Images
) -> None:
    monkeypatch.setattr(int8, "SHARES", (1.0,))
    monkeypatch.setattr(int8, "EARLY_COSTS", (0.0,))
    monkeypatch.setattr(int8, "LEFT_OUT", (1,))
    monkeypatch.setattr(
        int8._Trials, "difference", lambda self, share, left_out=(): 0.1 if "encoder3_conv2/Conv" in left_out else 0.2
    )
    monkeypatch.setattr(int8._Trials, "candidates", lambda self: ["encoder2_conv2/Conv", "encoder3_conv2/Conv"])
    made = int8_from_fp32(model, images, engine="tensorrt", threshold=0.5)
    assert made.left_out == ("encoder3_conv2/Conv",)
    producers = {node.output[0]: node.op_type for node in made.model.graph.node}
    sources = {
        node.name: producers.get(node.input[1]) for node in made.model.graph.node if node.name in TWO_CONVOLUTIONS
    }
    assert sources == {"encoder2_conv2/Conv": "DequantizeLinear", "encoder3_conv2/Conv": None}


def test_a_small_gain_leaves_no_node_out(monkeypatch: pytest.MonkeyPatch, model: ModelProto, images: Images) -> None:
    monkeypatch.setattr(int8, "SHARES", (1.0,))
    monkeypatch.setattr(int8, "EARLY_COSTS", (0.0,))
    monkeypatch.setattr(int8, "LEFT_OUT", (1,))
    monkeypatch.setattr(int8._Trials, "difference", lambda self, share, left_out=(): 0.17 if left_out else 0.2)
    monkeypatch.setattr(int8._Trials, "candidates", lambda self: ["encoder3_conv2/Conv"])
    assert int8_from_fp32(model, images, engine="tensorrt", threshold=0.5).left_out == ()


def test_nodes_left_out_together_stay_cheap(monkeypatch: pytest.MonkeyPatch, model: ModelProto, images: Images) -> None:
    trials = int8._Trials(model, images, "tensorrt")
    monkeypatch.setattr(int8, "LARGEST_COST_LEFT_OUT", 0.0)
    assert trials.affordable(TWO_CONVOLUTIONS) == []
    monkeypatch.setattr(int8, "LARGEST_COST_LEFT_OUT", 1.0)
    assert trials.affordable(TWO_CONVOLUTIONS) == list(TWO_CONVOLUTIONS)
    assert set(TWO_CONVOLUTIONS) < set(trials.candidates())


def test_unknown_names_are_refused(model: ModelProto) -> None:
    with pytest.raises(ModelError, match="no tensor named absent; keep_fp32 names outputs"):
        fp16_from_fp32(model, keep_fp32=["absent", "encoder1/Mul"])
    with pytest.raises(ModelError, match="no node absent; keep_fp32 takes nodes"):
        quantize(model, {}, engine="tensorrt", keep_fp32=["absent"])


def test_neither_gates_nor_the_logit_are_quantized(model: ModelProto) -> None:
    names = quantizable_nodes(model, engine="tensorrt")
    assert "encoder2_conv2/Conv" in names
    assert not [name for name in names if "excite" in name or "squeeze" in name or "logit" in name]


def test_an_output_that_is_not_a_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, images: Images
) -> None:
    monkeypatch.setattr(precision, "probabilities", lambda model, images: np.full((len(images), 2, 2), np.nan))
    with pytest.raises(ModelError, match="NaN or infinity"):
        precision.reduce_precision(model, images, precision="fp16", engine="onnxruntime", threshold=0.5)


def test_the_cost_is_that_of_the_convolutions(report: ExportReport, model: ModelProto) -> None:
    plain = onnx.load(report.output)
    assert gmac(model) < 0.85 * gmac(plain)
    assert report.gmac == report.gmac_before == pytest.approx(gmac(plain))
    assert set(frame_ms({"one": model}, rounds=1)) == {"one"}
    assert float_tensors(model)[-1] == "probability"


def test_dark_images_are_appended(images: Images) -> None:
    more = with_dark_images(images)
    np.testing.assert_array_equal(more[: len(images)], images)
    assert not more[-1].any()
    surrounded = more[len(images)]
    assert surrounded.any()
    assert not surrounded[:8].any()
    assert not surrounded[:, :10].any()


def test_calibration_images_come_from_folders_and_data_sets(image_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
        for path in image_folder.iterdir():
            (data / name / path.name).write_bytes(path.read_bytes())
    bare = calibration_images([image_folder], splits=None, height=32, width=48)
    assert (bare.dtype, bare.shape) == (np.uint8, (12, 32, 48, 3))
    np.testing.assert_array_equal(calibration_images([data], splits=None, height=32, width=48), bare)
    splits = tmp_path / "splits.csv"
    rows = [f"set,{index:02d}.png,{'test' if index in (2, 5) else 'train'}" for index in range(12)]
    splits.write_text("\n".join(["dataset,image,grouped", *rows]), encoding="utf-8")
    training = calibration_images([data], splits=splits, height=32, width=48)
    np.testing.assert_array_equal(training, np.delete(bare, [2, 5], axis=0))


def test_unavailable_images_are_an_error(image_folder: Path, tmp_path: Path) -> None:
    def fail(folder: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            calibration_images([folder], splits=None, height=32, width=32)

    fail(tmp_path / "absent", DatasetError, "No such file.*check --calibration")
    fail(tmp_path, DatasetError, "has no images")
    for name in [f"{index:02d}.png" for index in range(FEWEST - 1)]:
        (tmp_path / name).write_bytes((image_folder / name).read_bytes())
    fail(tmp_path, ConfigError, f"{FEWEST - 1} calibration images are too few; give at least {FEWEST}")
    (tmp_path / "broken.png").write_bytes(b"no image")
    fail(tmp_path, DatasetError, "broken.png cannot be read as an image")


def test_contradicting_options_are_refused(tiny_file: Path, tmp_path: Path) -> None:
    cases = {
        "calibrated on images; give a folder": {"precision": "fp16"},
        "needs no images": {"calibration": (tmp_path,)},
        "requires the optimized graph": {"precision": "int8", "calibration": (tmp_path,), "rewriting": "plain"},
        "'bf16' is unknown; choose one of fp32, fp16, int8": {"precision": "bf16"},
        "'coreml' is unknown": {"engine": "coreml"},
    }
    for message, settings in cases.items():
        with pytest.raises(ConfigError, match=message):
            ExportConfig(model=tiny_file, output=tmp_path / "out.onnx", **settings)


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.7])
@pytest.mark.parametrize("bias", [-0.3, 0.3])
def test_bias_correction_restores_the_marked_area_at_the_models_threshold(
    tmp_path: Path, bias: float, threshold: float
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    good, steeper = (
        onnx.load(write_green_finder(tmp_path / f"{gain}.onnx", gain=gain, bias=offset, shape=(32, 32)))
        for gain, offset in ((0.02, 0.05), (0.025, bias))
    )
    exact, quantized = probabilities(good, images), probabilities(steeper, images)
    corrected = probabilities(correct_bias(steeper, quantized, exact, threshold=threshold), images)
    wanted = int((exact >= threshold).sum())
    assert abs(int((quantized >= threshold).sum()) - wanted) > 20
    assert abs(int((corrected >= threshold).sum()) - wanted) <= 16  # equal pixels share one probability


def test_bias_correction_is_limited() -> None:
    few, all_of_it = np.full((1, 4, 4), 0.01, np.float32), np.ones((1, 4, 4), np.float32)
    assert logit_shift(few, all_of_it, threshold=0.5) == 0.0
    half = np.repeat(np.float32([0.1, 0.9]), 8).reshape(1, 4, 4)
    assert logit_shift(half * np.float32(0.1), half, threshold=0.5) == LARGEST_SHIFT
    assert logit_shift(half, np.zeros_like(half), threshold=0.5) == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_an_int8_export_corrects_its_bias_at_the_threshold_of_its_contract(
    monkeypatch: pytest.MonkeyPatch,
    export: Callable[..., ExportReport],
    keras_file: Path,
    image_folder: Path,
    threshold: float,
) -> None:
    used = []

    def recorded(*args: Any, threshold: float) -> ModelProto:
        used.append(threshold)
        return correct_bias(*args, threshold=threshold)

    monkeypatch.setattr(int8, "correct_bias", recorded)
    export(keras_file, precision="int8", calibration=(image_folder,), rewriting="optimized", threshold=threshold)
    assert used == [threshold]


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
def test_each_file_carries_its_own_contract(
    export: Callable[..., ExportReport], keras_file: Path, image_folder: Path
) -> None:
    for wanted in ("fp16", "int8"):
        report = export(keras_file, precision=wanted, calibration=(image_folder,), rewriting="optimized")
        metadata = {entry.key: entry.value for entry in onnx.load(report.output).metadata_props}
        assert ModelContract.from_metadata(metadata).precision == report.contract.precision == wanted
        assert report.verification.largest_difference <= 1e-5
        assert report.loss is not None
        assert report.loss.images == 12
        assert report.loss.mean_difference < 0.02
        assert report.gmac < report.gmac_before
        assert list(metadata) == ["polypstream.contract"]
