"""The running average of the weights, in a form that can be judged and kept."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
from numpy.typing import NDArray


@contextmanager
def averaged(model: keras.Model, core: keras.Model, pictures: Iterable[NDArray[np.float32]]) -> Iterator[None]:
    """Within the block the model holds its optimiser's average of the weights; afterwards all is as it was before.

    The moving statistics of the batch normalisations belong to the weights of the last steps, not to their average:
    they are measured anew on `pictures`, batches of float32 RGB in [0, 1], through `core`.
    """
    before = [_copied(variable) for variable in model.weights]
    try:
        model.optimizer.finalize_variable_values(model.trainable_variables)
        for variable in model.trainable_variables:
            variable.assign(_copied(variable))  # on JAX it shares the average's memory, which prediction gives away
        measure_statistics(core, pictures)
        yield
    finally:
        for variable, value in zip(model.weights, before, strict=True):
            variable.assign(value)


def measure_statistics(network: keras.Model, pictures: Iterable[NDArray[np.float32]]) -> None:
    """Set every moving mean and variance to its mean over the given batches.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, section 3.2.
    """
    normalisations = [layer for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [layer.momentum for layer in normalisations]
    try:
        for count, batch in enumerate(pictures):
            for layer in normalisations:
                layer.momentum = count / (count + 1)
            network(batch, training=True)
    finally:
        for layer, momentum in zip(normalisations, momenta, strict=True):
            layer.momentum = momentum


def _copied(variable: keras.Variable) -> NDArray[np.generic]:
    return np.array(keras.ops.convert_to_numpy(variable.value))
