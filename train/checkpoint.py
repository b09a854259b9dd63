"""The state of a training run on disk: every variable of model and optimiser and the history, in one file."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import TrainingError
from polypstream.train.report import EpochReport

Values = list[NDArray[np.generic]]


def values_of(model: keras.Model) -> Values:
    """A copy of every weight and of the optimiser's state (moments, averages, step count)."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in _variables(model)]


def assign_values(model: keras.Model, values: Values) -> None:
    """Put back what `values_of` copied."""
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def write_checkpoint(path: Path, model: keras.Model, history: Sequence[EpochReport]) -> None:
    """Write the state after the last epoch of `history`."""
    arrays = {f"{index:04d}": value for index, value in enumerate(values_of(model))}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, history=json.dumps([asdict(report) for report in history]), **arrays)


def load_checkpoint(path: Path, model: keras.Model) -> list[EpochReport]:
    """Restore what `write_checkpoint` wrote into a compiled model of the same shape; returns the history.

    Raises `TrainingError` where the file is damaged or of another model.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            history = [EpochReport(**report) for report in json.loads(str(stored["history"]))]
            values = [stored[f"{index:04d}"] for index in range(len(stored.files) - 1)]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged ({error}); remove it to begin again") from error
    if [value.shape for value in values] != [tuple(variable.shape) for variable in _variables(model)]:
        raise TrainingError(f"{path} holds another network or optimiser; give another run folder, or remove it")
    assign_values(model, values)
    return history


def _variables(model: keras.Model) -> list[keras.Variable]:
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.weights, *model.optimizer.variables]
