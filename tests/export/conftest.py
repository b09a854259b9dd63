"""Small networks with nontrivial weights, and one export of each, shared by the tests."""

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
from polypstream.export.graph import Images  # noqa: E402
from polypstream.export.verify import verification_images  # noqa: E402
from polypstream.train.networks.resunetpp import resunetpp  # noqa: E402

WIDTHS = (8, 8, 8, 8, 8)


def scrambled(network: keras.Model, seed: int = 0) -> keras.Model:
    """Set normalizations, which start as the identity, and biases to values as after training."""
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
    """A file with few layers, for tests around the conversion."""
    image = keras.Input((16, 24, 3))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="relu")(image)
    x = keras.layers.UpSampling2D(2)(x)
    path: Path = tmp_path_factory.mktemp("keras") / "tiny.keras"
    keras.Model(image, keras.layers.Dense(1, activation="sigmoid", name="head")(x), name="tiny").save(path)
    return path


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ExportReport]:
    """Export into a separate folder, with defaults for missing options."""

    def run(model: Path, **settings: Any) -> ExportReport:
        output = tmp_path_factory.mktemp("onnx") / "model.onnx"
        return export_model(ExportConfig(**{"model": model, "output": output, **settings}))

    return run


@pytest.fixture(scope="session")
def report(export: Callable[..., ExportReport], keras_file: Path) -> ExportReport:
    """The narrow network, exported at its size with the unoptimized graph."""
    return export(
        keras_file,
        name="small",
        version="3",
        threshold=0.4,
        training_data="none, random weights",
        license="Apache-2.0",
        rewriting="plain",
    )


@pytest.fixture(scope="session")
def images() -> Images:
    """Tissue-like images for the narrow network."""
    return np.concatenate([verification_images(64, 64)[1:], verification_images(72, 64)[1:, 8:]])


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen images of some size, as PNG files."""
    folder: Path = tmp_path_factory.mktemp("calibration")
    for index in range(12):
        rgb = verification_images(80 + 8 * index, 96)[1 + index % 3]
        cv2.imwrite(str(folder / f"{index:02d}.png"), rgb[:, :, ::-1])
    return folder


@pytest.fixture(scope="session")
def run_onnx() -> Callable[[Path, np.ndarray], np.ndarray]:
    """Run one uint8 RGB image (height, width, 3) through a file; float32 (height, width)."""

    def run(path: Path, image: np.ndarray) -> np.ndarray:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        probability = session.run(["probability"], {"image": image[np.newaxis]})[0]
        assert isinstance(probability, np.ndarray)
        return probability[0, :, :, 0]

    return run


@pytest.fixture
def mixed_precision() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")
