"""The model under evaluation: an ONNX or Keras file behind one function from image to probability map."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Rgb
from polypstream.content import CropRule
from polypstream.errors import ConfigError, MissingExtraError, ModelError
from polypstream.evaluation.evaluate import Predict

if TYPE_CHECKING:
    import keras

KERAS_THRESHOLD = 0.5
"""Threshold of a Keras file, which stores none."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model that can be evaluated."""

    name: str
    """Name of its file."""
    threshold: float
    """Probability from which a pixel is polyp, as stated in the file."""
    min_peak: float = 0.0
    """Probability that a region must reach somewhere, as stated in the file."""
    predict: Predict


@contextmanager
def open_predictor(
    path: Path | None = None, *, crop: CropRule | None = None, accurate: bool = False
) -> Iterator[Predictor]:
    """Open a model for evaluation; it is closed at the end of the `with` block.

    An ONNX file runs in ONNX Runtime on the CPU, so that the results are the same on every machine.

    Args:
        path: An `.onnx` file with a contract, or a `.keras` file; None for the model in the package.
        crop: Part of each image that the model receives; None: as in its contract, or all for a Keras file.

        accurate: Average several views of each image, see `AveragedSegmenter`; not for a Keras file.

    Yields:
        The model.

    Raises:
        ModelError: The file is missing, damaged or not a segmentation model.
        ConfigError: `accurate` is given with a Keras file.
        MissingExtraError: A Keras file is given, and Keras is not installed.
    """
    from polypstream.models import default_model
    from polypstream.realtime.inference.model_input import probability_of_still
    from polypstream.realtime.inference.segmenter import segmenter_from_onnx

    path = path or default_model()
    if path.suffix == ".keras":
        if accurate:
            raise ConfigError(f"{path} is a Keras file; accurate mode needs an ONNX file: export it first")
        predict = partial(probability_of_still, _keras_segmenter(path), crop=crop or "none")
        yield Predictor(name=path.name, threshold=KERAS_THRESHOLD, predict=predict)
        return
    with segmenter_from_onnx(path, backend="onnxruntime", accurate=accurate) as segmenter:
        predict = partial(probability_of_still, segmenter, crop=crop or segmenter.contract.crop)
        contract = segmenter.contract
        yield Predictor(name=path.name, threshold=contract.threshold, min_peak=contract.min_peak, predict=predict)


class KerasSegmenter:
    """Runs a Keras network, (n, height, width, 3) to (n, height, width, 1), on single images of its input size."""

    def __init__(self, network: "keras.Model") -> None:
        _, self.height, self.width, _ = network.input_shape
        self._network = network

    def segment(self, rgb: Rgb) -> NDArray[np.float32]:
        """Probability, float32 (height, width), of a uint8 RGB image (height, width, 3)."""
        batch = rgb[np.newaxis].astype(np.float32) / np.float32(255)
        return np.asarray(self._network.predict_on_batch(batch)[0, :, :, 0], dtype=np.float32)


def _keras_segmenter(path: Path) -> KerasSegmenter:
    try:
        import keras
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"a .keras model (no module named {error.name!r})", "train") from error
    try:
        network = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{path} cannot be loaded as a Keras model ({reason}); check the path") from error
    _, height, width, channels = network.input_shape
    if None in (height, width) or channels != 3:
        raise ModelError(f"{path} takes {network.input_shape}; it must take RGB images of a fixed size")
    return KerasSegmenter(network)
