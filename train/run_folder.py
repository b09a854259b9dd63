"""The run folder: its files, written atomically, and the checkpoint that makes resuming bit-exact."""

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import TrainingError
from polypstream.files import atomic_path, write_atomically
from polypstream.train.config import TrainConfig
from polypstream.train.data import Samples
from polypstream.train.progress import EpochReport, curves_png

_OTHERWISE = "give another --run folder"


class RunFolder:
    """The files of one run.

    Methods raise `OutputError` if a file cannot be written, and `TrainingError` if the folder belongs to another run.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.keras"
        self.last = path / "last.npz"
        self.history = path / "history.jsonl"
        self.curves = path / "curves.png"
        self.config = path / "config.json"

    def claim(self, config: TrainConfig, *, training: Samples, validation: Samples) -> None:
        """Create the folder, or check that its run has the same settings and data.

        Args:
            config: Settings of the run.
            training: Training data.
            validation: Validation data.

        Raises:
            TrainingError: The folder holds a run with other settings or data; the message names each difference.
            OutputError: The folder cannot be written.
        """
        data = {"training": _fingerprint(training), "validation": _fingerprint(validation)}
        wanted = json.loads(json.dumps({**asdict(config), "data": data}))
        if self.last.exists() or self.history.exists():
            self._compare(wanted)
            return
        write_atomically(self.config, json.dumps(wanted, indent=2), otherwise=_OTHERWISE)

    def _compare(self, wanted: dict[str, Any]) -> None:
        try:
            saved = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.config} cannot be read ({error}); give another --run folder") from None
        changed = [
            f"{name} was {saved.get(name)}, now {wanted.get(name)}"
            for name in dict.fromkeys([*saved, *wanted])
            if saved.get(name) != wanted.get(name)
        ]
        if changed:
            raise TrainingError(
                f"{self.path} holds a run that was started with other settings ({'; '.join(changed)}); "
                "give another --run folder"
            )

    def resume(self, model: keras.Model) -> list[EpochReport]:
        """Restore the last checkpoint, if there is one, into a compiled model; returns the reports of its epochs."""
        history = load_checkpoint(self.last, model) if self.last.exists() else []
        self._write_history(history)
        return history

    def save_best(self, network: keras.Model) -> None:
        """Replace `best.keras`."""
        with atomic_path(self.best, otherwise=_OTHERWISE) as partial:
            network.save(partial)

    def save_epoch(self, model: keras.Model, history: Sequence[EpochReport]) -> None:
        """Replace the checkpoint, then the history and its curves."""
        with atomic_path(self.last, otherwise=_OTHERWISE) as partial:
            write_checkpoint(partial, model, history)
        self._write_history(history)

    def _write_history(self, history: Sequence[EpochReport]) -> None:
        lines = [json.dumps({**asdict(report), "mean_dice": report.mean_dice}) for report in history]
        write_atomically(self.history, "".join(f"{line}\n" for line in lines), otherwise=_OTHERWISE)
        if history:
            self._write_curves(history)

    def _write_curves(self, history: Sequence[EpochReport]) -> None:
        """Draw the curves, if Matplotlib is installed."""
        try:
            png = curves_png(history)
        except ModuleNotFoundError:
            return
        write_atomically(self.curves, png, otherwise=_OTHERWISE)


def _fingerprint(samples: Samples) -> str:
    """Number of pairs, a digest of their names in training order, and the mask values."""
    names = "\n".join("/".join(pair.key) for pair in samples.pairs)
    stated = sorted({str(pair.mask_values) for pair in samples.pairs if pair.mask_values})
    values = f", mask values {'; '.join(stated)}" if stated else ""
    return f"{len(samples)} images, {hashlib.sha256(names.encode()).hexdigest()[:16]}{values}"


Values = list[NDArray[np.generic]]


def values_of(model: keras.Model) -> Values:
    """A copy of every weight and of the optimizer's state (moments, averages, step count)."""
    return [np.array(keras.ops.convert_to_numpy(variable.value)) for variable in _variables(model)]


def assign_values(model: keras.Model, values: Values) -> None:
    """Restore what `values_of` copied."""
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def write_checkpoint(path: Path, model: keras.Model, history: Sequence[EpochReport]) -> None:
    """Write the state after the last epoch of `history`."""
    arrays = {f"{index:04d}": value for index, value in enumerate(values_of(model))}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, history=json.dumps([asdict(report) for report in history]), **arrays)


def load_checkpoint(path: Path, model: keras.Model) -> list[EpochReport]:
    """Restore what `write_checkpoint` wrote into a compiled model of the same shape; returns the history.

    Raises `TrainingError` if the file is damaged or belongs to another model.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            history = [EpochReport(**report) for report in json.loads(str(stored["history"]))]
            values = [stored[f"{index:04d}"] for index in range(len(stored.files) - 1)]
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise TrainingError(f"{path} is damaged ({error}); remove it to start again") from error
    if [value.shape for value in values] != [tuple(variable.shape) for variable in _variables(model)]:
        raise TrainingError(f"{path} holds another network or optimizer; give another run folder, or remove it")
    assign_values(model, values)
    return history


def _variables(model: keras.Model) -> list[keras.Variable]:
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return [*model.weights, *model.optimizer.variables]
