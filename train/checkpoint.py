"""The state of a training run on disk: every variable of model and optimiser, in one file, replaced at once."""

import json
import os
from pathlib import Path

import keras
import numpy as np

from polypstream.errors import TrainingError


def save_checkpoint(path: Path, model: keras.Model, *, epochs_done: int) -> None:
    """Write all weights and the optimiser's state; a kill at any moment leaves the old file or the new one."""
    values = {f"{index:04d}": np.asarray(keras.ops.convert_to_numpy(v.value)) for index, v in enumerate(_variables(model))}
    names = [v.path for v in _variables(model)]
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, state=json.dumps({"epochs_done": epochs_done, "names": names}), **values)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path, model: keras.Model) -> int:
    """Restore what `save_checkpoint` wrote into a compiled model of the same shape; returns the epochs done."""
    model.optimizer.build(model.trainable_variables)
    variables = _variables(model)
    with np.load(path, allow_pickle=False) as stored:
        state = json.loads(str(stored["state"]))
        shapes = [stored[f"{index:04d}"].shape for index in range(len(state["names"]))]
        if shapes != [tuple(v.shape) for v in variables]:
            raise TrainingError(f"{path} holds another network or optimiser; give another run folder, or remove it")
        for index, variable in enumerate(variables):
            variable.assign(stored[f"{index:04d}"])
    return int(state["epochs_done"])


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
