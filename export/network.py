"""Networks made ready for export: read from a file, put into float32 at one size, spelt in plain convolutions."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
from keras import KerasTensor, layers

from polypstream.errors import ConfigError, ModelError


def network_from_file(path: Path) -> keras.Model:
    """Read a `.keras` file, saved under any backend and precision policy.

    Raises `ModelError` where the file cannot be read or is no network from one RGB picture to one map.
    """
    try:
        network = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} cannot be read as a Keras model ({_first_line(error)}); save it again") from error
    _check_is_segmenter(network)
    return network


def float32_network(network: keras.Model, *, height: int | None = None, width: int | None = None) -> keras.Model:
    """The same network with the same weights, every layer in float32, for float32 RGB of (1, height, width, 3).

    A side that is not given is the network's own. Raises `ConfigError` where a side is open or no multiple of 8, and
    `ModelError` where the network cannot be rebuilt, at that size or at all.
    """
    return _rebuilt(network, partial(_clone, dtype="float32"), _input_size(network, height, width), "float32")


def float64_network(network: keras.Model) -> keras.Model:
    """The same network in float64, of the same static size: what to hold a float32 computation against."""
    return _rebuilt(network, partial(_clone, dtype="float64"), _input_size(network, None, None), "float64")


def convolutional_network(network: keras.Model) -> keras.Model:
    """The same function in layers that have one ONNX node each, from a float32 network of static size.

    A dense layer on a feature map becomes a 1×1 convolution, nearest upsampling one resize operation. Traced as they
    are, the first leaves Transpose, Reshape and MatMul nodes behind, the second Unsqueeze, Tile and Reshape.
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
        raise ConfigError("the Keras model leaves its input size open; give --height and --width")
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
            f"the Keras model gives {copy.output_shape} for an input of {copy.input_shape}; both must be of one size"
        )
    return copy


def _clone(layer: keras.Layer, *, dtype: str) -> keras.Layer:
    config = layer.get_config()
    if isinstance(layer, keras.Layer):  # and not a bare operation, such as indexing, which has no policy
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
