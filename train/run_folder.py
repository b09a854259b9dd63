"""The folder of one training run: what it holds, and how each file in it is replaced in one piece.

`config.json` (the settings and a fingerprint of the data), `last.npz` (everything needed to go on), `history.jsonl` and
`curves.png` (a line per epoch, and a picture: copies of what the checkpoint holds) and `best.keras` (the averaged
weights that did best on the validation data). After an epoch `best.keras` is written first, then the checkpoint, then
the copies: a kill between two of them loses nothing, since the epoch whose checkpoint is missing is done again, to the
same end.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras

from polypstream.errors import TrainingError
from polypstream.train.checkpoint import load_checkpoint, write_checkpoint
from polypstream.train.config import TrainConfig
from polypstream.train.curves import curves_png
from polypstream.train.data import Samples
from polypstream.train.report import EpochReport


class RunFolder:
    """One run's files. Raises `TrainingError` where they cannot be written or belong to another run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path / "best.keras"
        self.last = path / "last.npz"
        self.history = path / "history.jsonl"
        self.curves = path / "curves.png"
        self.config = path / "config.json"

    def claim(self, config: TrainConfig, *, training: Samples, validation: Samples) -> None:
        """Make the folder, or make sure that it was begun with the same settings and data.

        It was begun when it has a history, if only an empty one.
        """
        data = {"training": _fingerprint(training), "validation": _fingerprint(validation)}
        wanted = json.loads(json.dumps({**asdict(config), "data": data}))
        if self.last.exists() or self.history.exists():
            self._compare(wanted)
            return
        with _in_one_piece(self.config) as partial:
            partial.write_text(json.dumps(wanted, indent=2), encoding="utf-8")

    def _compare(self, wanted: dict[str, Any]) -> None:
        try:
            begun = json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{self.config} cannot be read ({error}); give another --run folder") from None
        changed = [
            f"{name} was {begun.get(name)}, now {wanted.get(name)}"
            for name in dict.fromkeys([*begun, *wanted])
            if begun.get(name) != wanted.get(name)
        ]
        if changed:
            raise TrainingError(f"{self.path} was begun otherwise ({'; '.join(changed)}); give another --run folder")

    def resume(self, model: keras.Model) -> list[EpochReport]:
        """Restore the last checkpoint into a compiled model, if there is one; returns the epochs done."""
        history = load_checkpoint(self.last, model) if self.last.exists() else []
        self._write_history(history)
        return history

    def save_best(self, network: keras.Model) -> None:
        """Replace `best.keras`."""
        with _in_one_piece(self.best) as partial:
            network.save(partial)

    def save_epoch(self, model: keras.Model, history: Sequence[EpochReport]) -> None:
        """Replace the checkpoint, then the history and its curves."""
        with _in_one_piece(self.last) as partial:
            write_checkpoint(partial, model, history)
        self._write_history(history)

    def _write_history(self, history: Sequence[EpochReport]) -> None:
        lines = [json.dumps({**asdict(report), "mean_dice": report.mean_dice}) for report in history]
        with _in_one_piece(self.history) as partial:
            partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        if history:
            with _in_one_piece(self.curves) as partial:
                partial.write_bytes(curves_png(history))


@contextmanager
def _in_one_piece(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` once all is on disk."""
    partial = path.with_name(f"{path.stem}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written ({error.strerror or error}); give another --run folder"
        ) from error
    finally:
        if partial.exists():
            partial.unlink()


def _fingerprint(samples: Samples) -> str:
    """How many pairs, and a digest of their names in order, on which the order of training depends."""
    names = "\n".join("/".join(pair.key) for pair in samples.pairs)
    return f"{len(samples)} images, {hashlib.sha256(names.encode()).hexdigest()[:16]}"
