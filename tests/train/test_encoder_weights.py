"""An encoder initialized from a published file computes the same as that file."""

from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from polypstream.errors import TrainingError
from polypstream.train.encoder_weights import MEAN_BGR, load_encoder
from polypstream.train.networks.resunetpp_r50 import ENCODER, STAGES, resunetpp_r50

SIDE = 64


class Published:
    """Writes a half-width ResNet-50 as published: BGR minus its mean, normalizations folded, shortcuts first."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self._rng = np.random.default_rng(5)

    def conv(self, x: str, taken: int, given: int, *, kernel: int = 1, stride: int = 1, pad: int = 0) -> str:
        name = f"conv{len(self.nodes)}"
        scale = 0.7 / np.sqrt(taken * kernel**2) / (100 if taken == 3 else 1)
        weight = self._rng.normal(0, scale, (given, taken, kernel, kernel))
        for role, value in (("w", weight), ("b", self._rng.normal(0, 0.1, given))):
            self.constants.append(numpy_helper.from_array(value.astype(np.float32), f"{name}.{role}"))
        self.nodes.append(
            helper.make_node("Conv", [x, f"{name}.w", f"{name}.b"], [name], strides=[stride] * 2, pads=[pad] * 4)
        )
        return name

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def write(self, path: Path) -> Path:
        x = self.node("Relu", self.conv("image", 3, 64, kernel=7, stride=2))
        x, channels = self.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]), 64
        for stage, (blocks, inner) in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                shortcut = x if block else self.conv(x, channels, 4 * inner, stride=stride)
                y = self.node("Relu", self.conv(x, channels, inner, stride=stride))
                y = self.node("Relu", self.conv(y, inner, inner, kernel=3, pad=1))
                x = self.node("Relu", self.node("Add", self.conv(y, inner, 4 * inner), shortcut))
                channels = 4 * inner
        self.nodes[-1].output[0] = "features"
        padded = [1, 3, SIDE + 6, SIDE + 6]
        graph = helper.make_graph(
            self.nodes,
            "published",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, padded)],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
            self.constants,
        )
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Published().write(tmp_path_factory.mktemp("published") / "resnet.onnx")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (12, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def network(published: Path, images: np.ndarray) -> keras.Model:
    built = resunetpp_r50(height=SIDE, width=SIDE, widths=(8,) * 5)
    load_encoder(built, published, images, encoder=ENCODER)
    return built


def test_the_encoder_computes_what_the_file_does(network: keras.Model, published: Path, images: np.ndarray) -> None:
    encoder = keras.Model(network.input, network.get_layer("encoder4_block3_relu3").output)
    found = encoder.predict_on_batch(images[:1].astype(np.float32) / 255)
    black_around = np.pad(images[0, :, :, ::-1].astype(np.float32), ((3, 3), (3, 3), (0, 0))) - MEAN_BGR
    session = onnxruntime.InferenceSession(str(published), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": black_around.transpose(2, 0, 1)[None]})[0].transpose(0, 2, 3, 1)
    assert expected.std() > 0.05
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_its_normalizations_have_the_statistics_of_the_images(network: keras.Model, images: np.ndarray) -> None:
    name = "encoder3_block2_conv2"
    batch = images.astype(np.float32) / 255
    out = keras.Model(network.input, network.get_layer(name).output).predict_on_batch(batch)
    normalization = network.get_layer(f"{name}_bn")
    mean = keras.ops.convert_to_numpy(normalization.moving_mean)
    np.testing.assert_allclose(out.mean((0, 1, 2)), mean, atol=1e-3)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-2)


def test_another_file_is_refused(network: keras.Model, images: np.ndarray, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.onnx"
    with pytest.raises(TrainingError, match=r"nothing\.onnx cannot be read"):
        load_encoder(network, nothing, images, encoder=ENCODER)
    nothing.write_bytes(b"this is no model")
    with pytest.raises(TrainingError, match=r"nothing\.onnx cannot be read"):
        load_encoder(network, nothing, images, encoder=ENCODER)
    short = Published()
    short.nodes = [helper.make_node("Relu", [short.conv("image", 3, 64, kernel=7)], ["features"])]
    graph = helper.make_graph(short.nodes, "short", [], [], short.constants)
    onnx.save(helper.make_model(graph), nothing)
    with pytest.raises(TrainingError, match="half the width"):
        load_encoder(network, nothing, images, encoder=ENCODER)
