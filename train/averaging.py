"""The moving average of the weights, in a form that can be validated and saved."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
from numpy.typing import NDArray


@contextmanager
def averaged_weights(model: keras.Model, core: keras.Model, images: Iterable[NDArray[np.float32]]) -> Iterator[None]:
    """Let the model hold its optimizer's moving average of the weights within the `with` block.

    Batch normalization statistics belong to the latest weights rather than to their average, so they are recomputed.

    Args:
        model: The compiled model, with auxiliary heads.
        core: The same layers and weights without auxiliary heads.
        images: Batches of float32 RGB in [0, 1], (n, H, W, 3), from which the statistics are computed.
    """
    before = [_copied(variable) for variable in model.weights]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        for variable in model.trainable_variables:
            variable.assign(_copied(variable))  # on JAX it shares memory with the average, which prediction donates
        measure_statistics(core, images)
        yield
    finally:
        for variable, value in zip(model.weights, before, strict=True):
            variable.assign(value)


def measure_statistics(network: keras.Model, images: Iterable[NDArray[np.float32]]) -> None:
    """Set every moving mean and variance to its mean over the given batches.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
    """
    normalizations = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalizations]
    try:
        for count, batch in enumerate(images):
            for layer in normalizations:
                layer.momentum = count / (count + 1)
            network(batch, training=True)
    finally:
        for layer, momentum in zip(normalizations, momenta, strict=True):
            layer.momentum = momentum


def _copied(variable: keras.Variable) -> NDArray[np.generic]:
    return np.array(keras.ops.convert_to_numpy(variable.value))
