"""Exported files compared with Keras, and the inputs that are refused."""

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from polypstream.contract import ModelContract
from polypstream.errors import ConfigError, ModelError, OutputError
from polypstream.export import exporter
from polypstream.export.config import ExportConfig
from polypstream.export.exporter import ExportReport, export_model
from polypstream.export.keras import float32_network, onnx_from_keras
from polypstream.export.verify import verification_images, verify_against_keras
from polypstream.train.networks.resunetpp import resunetpp

Export = Callable[..., ExportReport]
RunOnnx = Callable[[Path, np.ndarray], np.ndarray]


def image(height: int, width: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def keras_probability(network: keras.Model, rgb: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(network(rgb[np.newaxis].astype(np.float32) / 255, training=False))[0, :, :, 0]


def test_the_file_equals_keras(network: keras.Model, report: ExportReport, run_onnx: RunOnnx) -> None:
    rgb = image(64, 64)
    expected = keras_probability(network, rgb)
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(run_onnx(report.output, rgb), expected, rtol=0, atol=1e-5)
    assert report.verification.largest_difference <= 1e-5
    assert report.verification.images == 6


def test_a_bgr_image_gives_another_result(report: ExportReport, run_onnx: RunOnnx) -> None:
    rgb = image(64, 64)
    swapped = np.ascontiguousarray(rgb[:, :, ::-1])
    assert np.abs(run_onnx(report.output, rgb) - run_onnx(report.output, swapped)).max() > 1e-3


def test_an_open_size_is_fixed_at_export_and_may_be_oblong(tmp_path: Path, export: Export, run_onnx: RunOnnx) -> None:
    network = resunetpp(height=None, width=None, widths=(8, 8, 8, 8, 8))
    network.save(tmp_path / "open.keras")
    with pytest.raises(ConfigError, match="give --height and --width"):
        export(tmp_path / "open.keras")
    report = export(tmp_path / "open.keras", height=32, width=48)
    rgb = image(32, 48)
    np.testing.assert_allclose(run_onnx(report.output, rgb), keras_probability(network, rgb), rtol=0, atol=1e-5)
    assert (report.contract.height, report.contract.width) == (32, 48)


def test_a_temperature_flattens_probabilities_and_moves_no_outline(
    network: keras.Model, keras_file: Path, export: Export, run_onnx: RunOnnx
) -> None:
    rgb = image(64, 64)
    plain = keras_probability(network, rgb)
    calibrated = run_onnx(export(keras_file, temperature=2.0).output, rgb)
    logit = np.log(plain / (1 - plain)) / 2
    np.testing.assert_allclose(calibrated, 1 / (1 + np.exp(-logit)), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(calibrated >= 0.5, plain >= 0.5)


def test_a_network_without_logits_has_no_temperature(tiny_file: Path, export: Export) -> None:
    with pytest.raises(ModelError, match="no layer probability_logit"):
        export(tiny_file, temperature=1.5)


def test_the_crop_is_in_the_contract(tiny_file: Path, export: Export) -> None:
    assert export(tiny_file, crop="content").contract.crop == "content"


@pytest.mark.usefixtures("mixed_precision")
def test_a_model_saved_in_mixed_precision_is_exported_in_float32(
    tmp_path: Path, network: keras.Model, export: Export, run_onnx: RunOnnx
) -> None:
    mixed = resunetpp(height=32, width=32, widths=(8, 8, 8, 8, 8))
    mixed.set_weights(network.get_weights())
    assert mixed.get_layer("encoder1_conv1").compute_dtype == "bfloat16"
    mixed.save(tmp_path / "mixed.keras")
    report = export(tmp_path / "mixed.keras", height=64, width=64)
    rgb = image(64, 64)
    np.testing.assert_allclose(run_onnx(report.output, rgb), keras_probability(network, rgb), rtol=0, atol=1e-5)
    types = {weight.data_type for weight in onnx.load(report.output).graph.initializer}
    assert types == {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}  # the latter are where slices begin and end


def test_other_layers_pass_through(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="swish")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same")(x)
    x = keras.layers.Conv2DTranspose(4, 2, strides=2, padding="same")(x)
    x = keras.layers.Concatenate()([x, keras.layers.UpSampling2D(2, interpolation="bilinear")(x[:, ::2, ::2])])
    other = float32_network(keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(x)))
    path = tmp_path / "other.onnx"
    path.write_bytes(onnx_from_keras(other).SerializeToString())
    assert verify_against_keras(path, other, verification_images(32, 32)).passed


def test_the_contract_travels_in_the_file(report: ExportReport) -> None:
    model = onnx.load(report.output)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert ModelContract.from_metadata(metadata) == report.contract
    assert report.contract == ModelContract(
        name="small",
        version="3",
        height=64,
        width=64,
        threshold=0.4,
        training_data="none, random weights",
        license="Apache-2.0",
    )
    assert model.producer_name == "polypstream"
    assert "not a medical device" in model.doc_string


def test_the_same_model_gives_the_same_file(tiny_file: Path, export: Export) -> None:
    first, second = export(tiny_file), export(tiny_file)
    assert first.output.read_bytes() == second.output.read_bytes()
    assert len(first.contract.version) == 12


def test_a_file_that_differs_from_keras_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_file: Path
) -> None:
    def tampered(network: keras.Model) -> onnx.ModelProto:
        model = onnx_from_keras(network)
        weight = next(w for w in model.graph.initializer if w.name == "head/Conv.weight")
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) + np.float32(0.01), weight.name))
        return model

    monkeypatch.setattr(exporter, "onnx_from_keras", tampered)
    output = tmp_path / "model.onnx"
    output.write_bytes(b"the one before")
    with pytest.raises(ModelError, match=r"differs from Keras by .* nothing was written"):
        export_model(ExportConfig(model=tiny_file, output=output))
    assert output.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [output]


def test_a_model_that_returns_nan_is_refused(tiny_file: Path, tmp_path: Path) -> None:
    broken = keras.saving.load_model(tiny_file)
    bias = broken.get_layer("head").bias
    bias.assign(np.full(bias.shape, np.nan))
    broken.save(tmp_path / "nan.keras")
    with pytest.raises(ModelError, match="differs from Keras by nan"):
        export_model(ExportConfig(model=tmp_path / "nan.keras", output=tmp_path / "nan.onnx"))
    assert not (tmp_path / "nan.onnx").exists()


def test_an_operation_without_onnx_equivalent_is_named(tmp_path: Path) -> None:
    image = keras.Input((16, 16, 3))
    keras.Model(image, keras.layers.Conv2D(1, 1, activation="gelu")(image)).save(tmp_path / "gelu.keras")
    with pytest.raises(ModelError, match="ONNX has no Erfc"):
        export_model(ExportConfig(model=tmp_path / "gelu.keras", output=tmp_path / "gelu.onnx"))


def test_other_kinds_of_network_are_refused(tmp_path: Path) -> None:
    image = keras.Input((32, 32, 3))
    gray, other = keras.Input((32, 32, 1)), keras.layers.Conv2D(1, 1)(image)
    strided, pooled = keras.layers.Conv2D(1, 1, strides=2)(image), keras.layers.GlobalAveragePooling2D()(image)
    cases = {
        "one input and one output": keras.Model(image, [other, other]),
        "it should map": keras.Model(image, pooled),
        r"maps \(None, 32, 32, 1\)": keras.Model(gray, keras.layers.Conv2D(1, 1)(gray)),
        "the sizes must be equal": keras.Model(image, strided),
    }
    for message, model in cases.items():
        model.save(tmp_path / "other.keras")
        with pytest.raises(ModelError, match=message):
            export_model(ExportConfig(model=tmp_path / "other.keras", output=tmp_path / "other.onnx"))
    assert list(tmp_path.iterdir()) == [tmp_path / "other.keras"]


def test_a_network_bound_to_its_size_is_refused_at_another(tmp_path: Path) -> None:
    image = keras.Input((16, 16, 3))
    flat = keras.layers.Dense(256)(keras.layers.Flatten()(image))
    keras.Model(image, keras.layers.Reshape((16, 16, 1))(flat)).save(tmp_path / "bound.keras")
    with pytest.raises(ModelError, match="cannot be rebuilt at 32x24"):
        export_model(ExportConfig(model=tmp_path / "bound.keras", output=tmp_path / "bound.onnx", height=24, width=32))


def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_file: Path
) -> None:
    monkeypatch.setattr(exporter, "network_from_file", lambda path: pytest.fail("the work began"))
    for folder in (tmp_path / "absent", tiny_file):
        with pytest.raises(OutputError, match="cannot be written"):
            export_model(ExportConfig(model=tiny_file, output=folder / "model.onnx"))


def test_a_disk_that_fills_up_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_file: Path) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="No space left on device"):
        export_model(ExportConfig(model=tiny_file, output=tmp_path / "model.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_resunetpp_at_full_size_equals_keras(tmp_path: Path, export: Export) -> None:
    keras.utils.set_random_seed(2)
    network = resunetpp()
    network.save(tmp_path / "full.keras")
    report = export(tmp_path / "full.keras")
    assert report.parameters == 4_070_385
    assert report.verification.largest_difference <= 1e-5
    assert report.size_bytes < 17e6
