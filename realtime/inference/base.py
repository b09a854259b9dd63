"""Shared by all inference backends: input size, and validation of images and probability maps."""

import re
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError


@runtime_checkable
class BatchSegmenter(Protocol):
    """Ability of some segmenters: several images in one inference, which is faster than one by one on a GPU."""

    @property
    def largest_batch(self) -> int:
        """The largest batch that one call accepts; 1 where batches have no advantage. May change between inferences."""
        ...

    def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width) of n uint8 RGB images (n, height, width, 3).

        Raises `BackendError` if n is larger than `largest_batch`, or for any image whose values are no probabilities.
        """
        ...


class ContractSize:
    """Mixin: a segmenter's input size, from its contract."""

    contract: ModelContract

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the selection of this backend; none if it was named."""
        return ()

    @property
    def height(self) -> int:
        """Height of the network's input in pixels."""
        return self.contract.height

    @property
    def width(self) -> int:
        """Width of the network's input in pixels."""
        return self.contract.width


class SessionSegmenter(ContractSize):
    """Base of segmenters without resources to release; a context manager that does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to release: the session ends with this object."""


ROUNDING = 1e-6
"""Tolerance around [0, 1] for a runtime's approximation of the logistic function; ONNX Runtime returns 1 + 1.2e-7."""


def checked_image(rgb: Rgb, contract: ModelContract) -> Rgb:
    """Return the image if it is uint8 RGB (height, width, 3) of the contract's size, else raise `BackendError`."""
    wanted = (contract.height, contract.width, 3)
    if rgb.dtype != np.uint8 or rgb.shape != wanted:
        raise BackendError(f"the network takes uint8 RGB of {wanted}, received {rgb.dtype} {rgb.shape}")
    return rgb


def checked_probability(probability: Probability) -> Probability:
    """Return the map, clipped to [0, 1]; raise `BackendError` for NaN, or values outside by more than rounding."""
    if probability.dtype != np.float32 or not probability.size:
        raise BackendError(
            f"the network returned {probability.dtype} {probability.shape}, not a float32 map (height, width)"
        )
    low, high = float(probability.min()), float(probability.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise BackendError(
            f"the network returned values from {low} to {high} instead of probabilities; "
            "the model is damaged or its precision is too low: try the fp32 model"
        )
    return probability if low >= 0 and high <= 1 else np.clip(probability, 0, 1)


def reason_of(error: Exception) -> str:
    """First line of an error message, without the location in ONNX Runtime's source; its class if it is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"/onnxruntime_src/.*\) ", " ", lines[0]) if lines else type(error).__name__
