"""Small networks with weights that no test can pass by accident, and one export of each, shared by the tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from polypstream.export.toolchain import load_toolchain

load_toolchain()

import keras  # noqa: E402
import onnxruntime  # noqa: E402

from polypstream.export.config import ExportConfig  # noqa: E402
from polypstream.export.exporter import ExportReport, export_model  # noqa: E402
from polypstream.export.session import Pictures  # noqa: E402
from polypstream.export.verify import verification_pictures  # noqa: E402
from polypstream.train.resunetpp import resunetpp  # noqa: E402

WIDTHS = (8, 8, 8, 8, 8)


def scrambled(network: keras.Model, seed: int = 0) -> keras.Model:
    """Give the normalisations, which start as the identity, and the biases values as training would."""
    rng = np.random.default_rng(seed)
    for weight in network.weights:
        shape = tuple(weight.shape)
        if weight.path.endswith(("gamma", "moving_variance")):
            weight.assign(rng.uniform(0.5, 1.5, shape))
        elif weight.path.endswith(("beta", "bias", "moving_mean")):
            weight.assign(rng.normal(0, 0.3, shape))
    return network


@pytest.fixture(scope="session")
def network() -> keras.Model:
    """A narrow ResUNet++ for 64×64, float32."""
    keras.utils.set_random_seed(1)
    return scrambled(resunetpp(height=64, width=64, widths=WIDTHS))


@pytest.fixture(scope="session")
def keras_file(network: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("keras") / "small.keras"
    network.save(path)
    return path


@pytest.fixture(scope="session")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a few layers, for tests of what surrounds the conversion."""
    image = keras.Input((16, 24, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.UpSampling2D(2)(x)
    path: Path = tmp_path_factory.mktemp("keras") / "tiny.keras"
    keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="head")(x), name="tiny").save(path)
    return path


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ExportReport]:
    """Export with defaults for what is not given, into a folder of its own."""

    def run(model: Path, **settings: Any) -> ExportReport:
        output = tmp_path_factory.mktemp("onnx") / "model.onnx"
        return export_model(ExportConfig(**{"model": model, "output": output, **settings}))

    return run


@pytest.fixture(scope="session")
def report(export: Callable[..., ExportReport], keras_file: Path) -> ExportReport:
    """The narrow network, exported at its own size, its graph as Keras has it."""
    return export(
        keras_file,
        name="small",
        version="3",
        threshold=0.4,
        training_data="none, random weights",
        licence="Apache-2.0",
        rewriting="plain",
    )


@pytest.fixture(scope="session")
def pictures() -> Pictures:
    """Tissue-like pictures for the narrow network."""
    return np.concatenate([verification_pictures(64, 64)[1:], verification_pictures(72, 64)[1:, 8:]])


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen images of some size, as PNG files."""
    folder: Path = tmp_path_factory.mktemp("calibration")
    for index in range(12):
        rgb = verification_pictures(80 + 8 * index, 96)[1 + index % 3]
        cv2.imwrite(str(folder / f"{index:02d}.png"), rgb[:, :, ::-1])
    return folder


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[Path, np.ndarray], np.ndarray]:
    """Run one uint8 RGB picture (height, width, 3) through a file; float32 (height, width)."""

    def run(path: Path, picture: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        probability = session.run(["probability"], {"image": picture[np.newaxis]})[0]
        assert isinstance(probability, np.ndarray)
        return probability[0, :, :, 0]

    return run


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")
