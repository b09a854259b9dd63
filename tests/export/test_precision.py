"""The narrow precisions answer as float32 does, and say what they cannot do."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from polypstream.contract import ModelContract
from polypstream.errors import ConfigError, DatasetError, ModelError
from polypstream.export import int8, precision
from polypstream.export.calibration import FEWEST, calibration_pictures, with_dark_ones
from polypstream.export.config import Engine, ExportConfig
from polypstream.export.cost import gmac
from polypstream.export.cpu_form import in_cpu_form
from polypstream.export.equalise import channel_peaks, equalised
from polypstream.export.exporter import ExportReport
from polypstream.export.fp16 import fp16_from_fp32, hazards
from polypstream.export.int8 import int8_from_fp32
from polypstream.export.levelling import LARGEST_SHIFT, levelled, shift_between
from polypstream.export.lookup import with_shapes
from polypstream.export.optimise import optimised
from polypstream.export.precision import narrowed
from polypstream.export.quantise import quantisable_nodes, quantised
from polypstream.export.session import Pictures, float_tensors, frame_ms, probabilities
from tests.models import write_green_finder

TWO_CONVOLUTIONS = ("encoder2_conv2/Conv", "encoder3_conv2/Conv")


@pytest.fixture(scope="module")
def model(report: ExportReport) -> ModelProto:
    """The narrow network, optimised, in float32."""
    return with_shapes(optimised(onnx.load(report.output)))


@pytest.fixture
def few_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The INT8 recipe at a fraction of its time."""
    monkeypatch.setattr(int8, "SHARES", (0.9, 1.0))
    monkeypatch.setattr(int8, "_MAY_BE_LEFT_OUT", ("GlobalAveragePool",))


def operators(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def with_louder_channel(model: ModelProto, name: str, factor: float) -> ModelProto:
    """The model with one weight multiplied."""
    copy = ModelProto.FromString(model.SerializeToString())
    weight = next(weight for weight in copy.graph.initializer if weight.name == name)
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(factor), name))
    return copy


def test_half_precision_takes_two_casts_and_answers_the_same(model: ModelProto, pictures: Pictures) -> None:
    half = fp16_from_fp32(model)
    assert operators(half)["Cast"] == 2
    assert {weight.data_type for weight in half.graph.initializer} == {
        TensorProto.FLOAT16,
        TensorProto.FLOAT,
        TensorProto.INT64,
    }
    assert len(half.SerializeToString()) < 0.75 * len(model.SerializeToString())
    np.testing.assert_allclose(probabilities(half, pictures), probabilities(model, pictures), rtol=0, atol=5e-3)


def test_what_is_too_large_for_half_precision_is_found_and_stays_in_float32(
    model: ModelProto, pictures: Pictures
) -> None:
    assert hazards(model, pictures) == []
    loud = with_louder_channel(model, "decoder2_attention_gate_conv/Conv.weight", 1e5)
    found = hazards(loud, pictures)
    assert "decoder2_attention_gate_conv/Conv" in found
    assert "encoder1/Mul" not in found
    half = fp16_from_fp32(loud, keep_fp32=found)
    assert operators(half)["Cast"] > 2
    types = {value.name: value.type.tensor_type.elem_type for value in half.graph.value_info}
    assert types["decoder2_attention_gate_conv/Conv"] == TensorProto.FLOAT
    assert types["encoder1/Mul"] == TensorProto.FLOAT16
    assert np.isfinite(probabilities(half, pictures)).all()


def test_a_weight_beyond_half_precision_is_refused_by_name(model: ModelProto) -> None:
    loud = with_louder_channel(model, "encoder1_conv2/Conv.weight", 1e7)
    with pytest.raises(ModelError, match=r"encoder1_conv2/Conv\.weight exceeds half precision"):
        fp16_from_fp32(loud)


def test_even_scales_and_the_cpu_form_change_nothing(model: ModelProto, pictures: Pictures) -> None:
    even = equalised(model, channel_peaks(model, pictures))
    weights = [{weight.SerializeToString() for weight in one.graph.initializer} for one in (model, even)]
    assert weights[0] != weights[1]
    expected = probabilities(model, pictures)
    np.testing.assert_allclose(probabilities(even, pictures), expected, rtol=0, atol=1e-5)
    form = in_cpu_form(even)
    assert operators(form).keys().isdisjoint({"BatchNormalization", "DepthToSpace", "Resize"})
    np.testing.assert_allclose(probabilities(form, pictures), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt"])
def test_int8_answers_nearly_the_same(model: ModelProto, pictures: Pictures, engine: Engine) -> None:
    made = int8_from_fp32(model, pictures, engine=engine)
    moved = np.abs(probabilities(made.model, pictures) - probabilities(model, pictures))
    assert moved.mean() < 0.02
    assert made.difference < 0.02
    types = Counter(weight.data_type for weight in made.model.graph.initializer)
    assert types[TensorProto.INT8] >= 40
    assert (types[TensorProto.INT32] > 0) == (engine == "onnxruntime")
    assert made.model.metadata_props == model.metadata_props
    again = int8_from_fp32(model, pictures, engine=engine)
    assert again.model.SerializeToString(deterministic=True) == made.model.SerializeToString(deterministic=True)


def test_the_most_sensitive_node_is_left_out(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, pictures: Pictures
) -> None:
    monkeypatch.setattr(int8, "SHARES", (1.0,))
    monkeypatch.setattr(int8, "LEFT_OUT", (1,))
    monkeypatch.setattr(
        int8._Trials, "difference", lambda self, share, left_out=(): 0.1 if "encoder3_conv2/Conv" in left_out else 0.2
    )
    monkeypatch.setattr(int8._Trials, "candidates", lambda self: ["encoder2_conv2/Conv", "encoder3_conv2/Conv"])
    made = int8_from_fp32(model, pictures, engine="tensorrt")
    assert made.left_out == ("encoder3_conv2/Conv",)
    producers = {node.output[0]: node.op_type for node in made.model.graph.node}
    sources = {
        node.name: producers.get(node.input[1]) for node in made.model.graph.node if node.name in TWO_CONVOLUTIONS
    }
    assert sources == {"encoder2_conv2/Conv": "DequantizeLinear", "encoder3_conv2/Conv": None}


def test_a_small_gain_leaves_no_node_out(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, pictures: Pictures
) -> None:
    monkeypatch.setattr(int8, "SHARES", (1.0,))
    monkeypatch.setattr(int8, "LEFT_OUT", (1,))
    monkeypatch.setattr(int8._Trials, "difference", lambda self, share, left_out=(): 0.17 if left_out else 0.2)
    monkeypatch.setattr(int8._Trials, "candidates", lambda self: ["encoder3_conv2/Conv"])
    assert int8_from_fp32(model, pictures, engine="tensorrt").left_out == ()


def test_nodes_left_out_together_stay_cheap(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, pictures: Pictures
) -> None:
    trials = int8._Trials(model, pictures, "tensorrt")
    monkeypatch.setattr(int8, "LARGEST_COST_LEFT_OUT", 0.0)
    assert trials.affordable(TWO_CONVOLUTIONS) == []
    monkeypatch.setattr(int8, "LARGEST_COST_LEFT_OUT", 1.0)
    assert trials.affordable(TWO_CONVOLUTIONS) == list(TWO_CONVOLUTIONS)
    assert set(TWO_CONVOLUTIONS) < set(trials.candidates())


def test_names_that_the_model_lacks_are_refused(model: ModelProto) -> None:
    with pytest.raises(ModelError, match="no tensor named absent; keep_fp32 names outputs"):
        fp16_from_fp32(model, keep_fp32=["absent", "encoder1/Mul"])
    with pytest.raises(ModelError, match="no node named absent; keep_fp32 names nodes"):
        quantised(model, {}, engine="tensorrt", keep_fp32=["absent"])


def test_neither_gates_nor_the_logit_are_quantised(model: ModelProto) -> None:
    names = quantisable_nodes(model, engine="tensorrt")
    assert "encoder2_conv2/Conv" in names
    assert not [name for name in names if "excite" in name or "squeeze" in name or "logit" in name]


def test_an_answer_that_is_no_number_is_refused(
    monkeypatch: pytest.MonkeyPatch, model: ModelProto, pictures: Pictures
) -> None:
    monkeypatch.setattr(precision, "probabilities", lambda model, pictures: np.full((len(pictures), 2, 2), np.nan))
    with pytest.raises(ModelError, match="no number"):
        narrowed(model, pictures, precision="fp16", engine="onnxruntime")


def test_the_cost_is_that_of_the_convolutions(report: ExportReport, model: ModelProto) -> None:
    plain = onnx.load(report.output)
    assert gmac(model) < 0.85 * gmac(plain)
    assert report.gmac == report.gmac_before == pytest.approx(gmac(plain))
    assert set(frame_ms({"one": model}, rounds=1)) == {"one"}
    assert float_tensors(model)[-1] == "probability"


def test_dark_pictures_join_the_others(pictures: Pictures) -> None:
    more = with_dark_ones(pictures)
    np.testing.assert_array_equal(more[: len(pictures)], pictures)
    assert not more[-1].any()
    surrounded = more[len(pictures)]
    assert surrounded.any()
    assert not surrounded[:8].any()
    assert not surrounded[:, :10].any()


def test_pictures_come_from_folders_of_images_and_data_sets(picture_folder: Path, tmp_path: Path) -> None:
    data = tmp_path / "set"
    for name in ("images", "masks"):
        (data / name).mkdir(parents=True)
        for path in picture_folder.iterdir():
            (data / name / path.name).write_bytes(path.read_bytes())
    bare = calibration_pictures([picture_folder], splits=None, height=32, width=48)
    assert (bare.dtype, bare.shape) == (np.uint8, (12, 32, 48, 3))
    np.testing.assert_array_equal(calibration_pictures([data], splits=None, height=32, width=48), bare)
    splits = tmp_path / "splits.csv"
    rows = [f"set,{index:02d}.png,{'test' if index in (2, 5) else 'train'}" for index in range(12)]
    splits.write_text("\n".join(["dataset,image,grouped", *rows]), encoding="utf-8")
    training = calibration_pictures([data], splits=splits, height=32, width=48)
    np.testing.assert_array_equal(training, np.delete(bare, [2, 5], axis=0))


def test_pictures_that_cannot_be_had_are_an_error(picture_folder: Path, tmp_path: Path) -> None:
    def fail(folder: Path, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            calibration_pictures([folder], splits=None, height=32, width=32)

    fail(tmp_path / "absent", DatasetError, "No such file.*check --calibration")
    fail(tmp_path, DatasetError, "holds no images")
    for name in [f"{index:02d}.png" for index in range(FEWEST - 1)]:
        (tmp_path / name).write_bytes((picture_folder / name).read_bytes())
    fail(tmp_path, ConfigError, f"there are {FEWEST - 1} images to calibrate on; give at least {FEWEST}")
    (tmp_path / "broken.png").write_bytes(b"no image")
    fail(tmp_path, DatasetError, "broken.png cannot be read as an image")


def test_contradicting_options_are_refused(tiny_file: Path, tmp_path: Path) -> None:
    cases = {
        "fitted to pictures; give a folder": {"precision": "fp16"},
        "needs no pictures": {"calibration": (tmp_path,)},
        "made of the optimised graph": {"precision": "int8", "calibration": (tmp_path,), "rewriting": "plain"},
        "'bf16' is unknown; choose one of fp32, fp16, int8": {"precision": "bf16"},
        "'coreml' is unknown": {"engine": "coreml"},
    }
    for message, settings in cases.items():
        with pytest.raises(ConfigError, match=message):
            ExportConfig(model=tiny_file, output=tmp_path / "out.onnx", **settings)


@pytest.mark.parametrize("bias", [-0.4, 0.0, 0.3])
def test_levelling_marks_as_much_as_the_exact_model_does(tmp_path: Path, bias: float) -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    good, model = (
        onnx.load(write_green_finder(tmp_path / f"{value}.onnx", gain=0.02, bias=value, shape=(32, 32)))
        for value in (0.05, bias)
    )
    exact, answers = probabilities(good, pictures), probabilities(model, pictures)
    mended = probabilities(levelled(model, answers, exact), pictures)
    assert abs(int((mended >= 0.5).sum()) - int((exact >= 0.5).sum())) <= 4  # ties
    np.testing.assert_allclose(mended, exact, atol=0.005)


def test_levelling_knows_its_limits() -> None:
    assert shift_between(np.full((1, 4, 4), 0.01, np.float32), np.ones((1, 4, 4), np.float32)) == 0.0
    half = np.repeat(np.float32([0.1, 0.9]), 8).reshape(1, 4, 4)
    assert shift_between(half * np.float32(0.1), half) == LARGEST_SHIFT
    assert shift_between(half, np.zeros_like(half)) == 0.0


@pytest.mark.slow
@pytest.mark.usefixtures("few_trials")
def test_each_file_carries_its_own_contract(
    export: Callable[..., ExportReport], keras_file: Path, picture_folder: Path
) -> None:
    for wanted in ("fp16", "int8"):
        report = export(keras_file, precision=wanted, calibration=(picture_folder,), rewriting="optimised")
        metadata = {entry.key: entry.value for entry in onnx.load(report.output).metadata_props}
        assert ModelContract.from_metadata(metadata).precision == report.contract.precision == wanted
        assert report.verification.largest_difference <= 1e-5
        assert report.loss is not None
        assert report.loss.pictures == 12
        assert report.loss.mean_difference < 0.02
        assert report.gmac < report.gmac_before
        assert list(metadata) == ["polypstream.contract"]
