"""Keras to ONNX conversion: prepares the network, traces it with tf2onnx, and cleans the graph."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keras import KerasTensor, layers

from polypstream.errors import ConfigError, ModelError
from polypstream.export.rewrites.cleanup import clean_graph

OPSET = 17
"""tf2onnx supports up to 18. 17 has everything needed (per-channel Q/DQ came with 13) and is supported by ONNX Runtime
since 1.12, by OpenVINO and by the parsers of TensorRT 10 and 11; 18 changes Resize and adds nothing used here."""

INPUT = "image"
OUTPUT = "probability"


def onnx_from_keras(network: keras.Model) -> onnx.ModelProto:
    """Convert a float32 network of static size to ONNX.

    The model's input `image` is uint8 RGB (1, height, width, 3), divided by 255 inside the graph; its output
    `probability` is float32 (1, height, width, 1).

    Args:
        network: The network, as returned by `float32_network`.

    Returns:
        The cleaned ONNX model.

    Raises:
        ModelError: The network contains an operation without an ONNX equivalent.
    """
    model = trace(convolutional_network(network))
    foreign = {node.op_type for node in model.graph.node if not onnx.defs.has(node.op_type, node.domain)}
    if foreign:
        raise ModelError(f"ONNX has no {', '.join(sorted(foreign))}, used by the Keras model; replace those layers")
    return clean_graph(model, layers=[layer.name for layer in network.layers])


def trace(network: keras.Model) -> onnx.ModelProto:
    """Return the tf2onnx model of the network and its input scaling, before any cleanup."""
    image = tf.TensorSpec(network.input_shape, tf.uint8, name=INPUT)

    @tf.function(input_signature=[image], autograph=False)  # type: ignore[untyped-decorator, unused-ignore]
    def segment(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {OUTPUT: network(tf.cast(image, tf.float32) / 255.0, training=False)}

    model: onnx.ModelProto
    model, _ = tf2onnx.convert.from_function(segment, input_signature=[image], opset=OPSET)
    return model


def network_from_file(path: Path) -> keras.Model:
    """Read a `.keras` file, saved under any backend and precision policy.

    Args:
        path: The file.

    Returns:
        The network: one RGB image in, one probability map out.

    Raises:
        ModelError: The file cannot be read, or the network has other inputs or outputs.
    """
    try:
        network = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read as a Keras model ({_first_line(error)}); save it again") from error
    _check_is_segmenter(network)
    return network


def float32_network(network: keras.Model, *, height: int | None = None, width: int | None = None) -> keras.Model:
    """Copy a network with all layers in float32 and a static input of float32 RGB (1, height, width, 3).

    Args:
        network: The network; its weights are copied.
        height: Input height in pixels, a multiple of 8; None: the network's own.
        width: Input width in pixels, a multiple of 8; None: the network's own.

    Returns:
        The copy.

    Raises:
        ConfigError: A side is undefined or not a multiple of 8.
        ModelError: The network cannot be rebuilt, at this size or at all.
    """
    return _rebuilt(network, partial(_clone, dtype="float32"), _input_size(network, height, width), "float32")


def float64_network(network: keras.Model) -> keras.Model:
    """Copy a network in float64 at the same static size, as the reference for float32 computations."""
    return _rebuilt(network, partial(_clone, dtype="float64"), _input_size(network, None, None), "float64")


def convolutional_network(network: keras.Model) -> keras.Model:
    """Rebuild a float32 network of static size from layers that map to one ONNX node each.

    A dense layer on a feature map becomes a 1×1 convolution, nearest upsampling becomes one resize operation.
    Otherwise tracing turns the first into Transpose, Reshape and MatMul, the second into Unsqueeze, Tile and Reshape.
    """
    return _rebuilt(network, _clone_in_plain_operations, _input_size(network, None, None), "float32")


def _check_is_segmenter(network: keras.Model) -> None:
    if not isinstance(network, keras.Model) or len(network.inputs) != 1 or len(network.outputs) != 1:
        raise ModelError("the Keras model must have one input and one output; give the network without auxiliary heads")
    taken, given = network.input_shape, network.output_shape
    if len(taken) != 4 or taken[-1] != 3 or len(given) != 4 or given[-1] != 1:
        raise ModelError(
            f"the Keras model maps {taken} to {given}; it should map (n, height, width, 3) to (n, height, width, 1)"
        )


def _input_size(network: keras.Model, height: int | None, width: int | None) -> tuple[int, int]:
    own_height, own_width = network.input_shape[1:3]
    height, width = height or own_height, width or own_width
    if height is None or width is None:
        raise ConfigError("the Keras model does not define its input size; give --height and --width")
    if min(height, width) < 8 or height % 8 or width % 8:
        raise ConfigError(f"the input size is {width}x{height}; both sides must be multiples of 8")
    return height, width


def _rebuilt(
    network: keras.Model, clone: Callable[[keras.Layer], keras.Layer], size: tuple[int, int], dtype: str
) -> keras.Model:
    height, width = size
    image = keras.Input(batch_shape=(1, height, width, 3), dtype=dtype, name="image")
    try:
        copy = keras.models.clone_model(network, input_tensors=image, clone_function=clone)
        values = zip(network.get_weights(), copy.weights, strict=True)
        copy.set_weights([np.asarray(value, dtype).reshape(weight.shape) for value, weight in values])
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(f"the Keras model cannot be rebuilt at {width}x{height}: {_first_line(error)}") from error
    if tuple(copy.output_shape) != (1, height, width, 1):
        raise ModelError(
            f"the Keras model returns {copy.output_shape} for an input of {copy.input_shape}; the sizes must be equal"
        )
    return copy


def _clone(layer: keras.Layer, *, dtype: str) -> keras.Layer:
    config = layer.get_config()
    if isinstance(layer, keras.Layer):  # bare operations, such as indexing, have no dtype policy
        config["dtype"] = dtype
    return type(layer).from_config(config)


def _clone_in_plain_operations(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, layers.Dense) and len(layer.input.shape) == 4:
        return layers.Conv2D(
            layer.units, 1, activation=layer.activation, use_bias=layer.use_bias, dtype="float32", name=layer.name
        )
    if isinstance(layer, layers.UpSampling2D) and layer.interpolation == "nearest":
        return layers.Lambda(partial(_upsampled, factors=layer.size), dtype="float32", name=layer.name)
    return type(layer).from_config(layer.get_config())


def _upsampled(x: KerasTensor, *, factors: tuple[int, int]) -> KerasTensor:
    size = (x.shape[1] * factors[0], x.shape[2] * factors[1])
    return keras.ops.image.resize(x, size, interpolation="nearest", data_format="channels_last")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


LOGIT = "probability_logit"
"""Name of the layer that computes the logits, at full or reduced resolution."""


def divide_logits(network: keras.Model, temperature: float) -> None:
    """Divide a network's logits by a temperature, exactly and at no cost: in the weights of its last convolution.

    Raises `ModelError` if the network has no such layer.
    """
    if temperature == 1:
        return
    try:
        layer = network.get_layer(LOGIT)
    except ValueError:
        raise ModelError(f"the Keras model has no layer {LOGIT} to divide by {temperature}; leave it at 1") from None
    layer.set_weights([weight / np.float32(temperature) for weight in layer.get_weights()])
