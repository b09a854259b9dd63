"""What every backend checks: the picture that goes in, and the numbers that come out."""

import numpy as np

from polypstream.contract import ModelContract
from polypstream.errors import BackendError
from polypstream.realtime.frame import Probability, Rgb

ROUNDING = 1e-6
"""By so much a runtime's approximation of the logistic function may leave [0, 1]; ONNX Runtime's gives 1 + 1.2e-7."""


def checked_picture(rgb: Rgb, contract: ModelContract) -> Rgb:
    """The picture itself, if it is uint8 RGB (height, width, 3) of the contract's size; else `BackendError`."""
    wanted = (contract.height, contract.width, 3)
    if rgb.dtype != np.uint8 or rgb.shape != wanted:
        raise BackendError(f"the network takes uint8 RGB of {wanted}, received {rgb.dtype} {rgb.shape}")
    return rgb


def checked_probability(probability: Probability) -> Probability:
    """The map, brought into [0, 1], if all values are numbers there but for rounding; else `BackendError`."""
    low, high = float(probability.min()), float(probability.max())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):
        raise BackendError(
            f"the network returned values from {low} to {high} where probabilities belong; "
            "the model is damaged or its precision too low for it: try the fp32 model"
        )
    return probability if low >= 0 and high <= 1 else np.clip(probability, 0, 1)
