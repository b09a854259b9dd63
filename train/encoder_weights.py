"""Pretrained encoder weights: reads a published ResNet from its ONNX file."""

from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import MissingExtraError, TrainingError
from polypstream.train.networks.resunetpp_r50 import convolution_names

MEAN_BGR = np.array([104, 117, 123], np.float32)
"""Mean that the file expects to be subtracted from images in 0 to 255."""
LEAST_DEVIATION = 1e-3
"""A channel with a smaller standard deviation counts as constant; its scale is left unchanged."""
BATCH = 8

Folded = tuple[NDArray[np.float32], NDArray[np.float32]]
"""A kernel (rows, columns, in, out) with its normalization folded in, and the resulting bias."""


def load_encoder(network: keras.Model, path: Path, images: NDArray[np.uint8], *, encoder: str) -> None:
    """Load the convolutions of an ONNX file into the layers that `resnet50_thin` created with the prefix `encoder`.

    The file holds a ResNet of the same layout that takes BGR in 0 to 255 minus `MEAN_BGR`, with each normalization
    folded into the convolution before it. They are unfolded here: each one's mean and variance are measured on
    `images`, uint8 RGB (n, height, width, 3). The encoder then computes what the file does, but that its padding is
    black, where the file pads with the mean. Raises `TrainingError` where the file does not fit.
    """
    names = convolution_names(encoder)
    convolutions = [network.get_layer(name) for name in names]
    normalizations = [network.get_layer(f"{name}_bn") for name in names]
    folded = _folded(path, [tuple(layer.kernel.shape) for layer in convolutions], network.name)
    for layer, normalization, (kernel, bias) in zip(convolutions, normalizations, folded, strict=True):
        layer.kernel.assign(kernel)
        ones = np.ones_like(bias)
        normalization.set_weights([ones, bias, np.zeros_like(bias), ones - normalization.epsilon])
    probe = keras.Model(network.input, [layer.output for layer in convolutions])
    statistics = _statistics(probe, images)
    for layer, normalization, (kernel, bias), (mean, deviation) in zip(
        convolutions, normalizations, folded, statistics, strict=True
    ):
        scale = np.where(deviation > LEAST_DEVIATION, deviation, 1).astype(np.float32)
        layer.kernel.assign(kernel / scale)
        ones = np.ones_like(bias)
        normalization.set_weights([scale, bias + mean, mean / scale, ones - normalization.epsilon])


def _folded(path: Path, shapes: list[tuple[int, ...]], network: str) -> list[Folded]:
    try:
        import onnx
        from onnx import numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("reading an encoder's ONNX file", "export") from error
    try:
        graph = onnx.load(str(path)).graph
    except Exception as error:  # protobuf's exception class is not public
        raise TrainingError(f"{path} cannot be read as ONNX ({error}); check --encoder") from error
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    if not all(len(node.input) == 3 and set(node.input[1:]) <= values.keys() for node in nodes):
        raise TrainingError(f"{path} has convolutions without a bias, so no normalization is folded into them")
    folded = [(values[node.input[1]].transpose(2, 3, 1, 0), values[node.input[2]]) for node in nodes]
    found = [kernel.shape for kernel, _ in folded]
    if found != shapes:
        raise TrainingError(
            f"{path} holds {len(found)} convolutions, {network}'s encoder {len(shapes)}, and their shapes differ; "
            "give --encoder the ONNX file of a ResNet-50 of half the width, such as open_nsfw's"
        )
    first, bias = folded[0]
    folded[0] = 255 * first[:, :, ::-1], bias - np.tensordot(first.sum((0, 1)), MEAN_BGR, (0, 0))
    return folded


def _statistics(probe: keras.Model, images: NDArray[np.uint8]) -> list[Folded]:
    """Mean and standard deviation over `images` of every channel of each output."""
    sums = [(np.zeros(output.shape[-1]), np.zeros(output.shape[-1])) for output in probe.outputs]
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].astype(np.float32) / 255
        for (first, second), out in zip(sums, probe.predict_on_batch(batch), strict=True):
            first += out.mean((1, 2), np.float64).sum(0)
            second += np.square(out).mean((1, 2), np.float64).sum(0)
    means = [(first / len(images), second / len(images)) for first, second in sums]
    return [
        (first.astype(np.float32), np.sqrt(np.maximum(second - first**2, 0)).astype(np.float32))
        for first, second in means
    ]
