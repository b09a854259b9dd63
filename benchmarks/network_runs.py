"""Training runs of the networks that a benchmark compares, each in its run folder. Needs Keras, but no runtime."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polypstream.train.config import TrainConfig
from polypstream.train.data import Samples
from polypstream.train.fit import train
from polypstream.train.progress import EpochReport
from polypstream.train.run_folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training run: its settings and its folder."""

    config: TrainConfig
    folder: RunFolder
    encoder: Path | None = None
    """ONNX file of a pretrained ResNet for the encoder."""
    pretrained: bool = False
    """Whether the encoder starts from the ImageNet weights of an installed package."""

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """Completed epochs, from `history.jsonl`."""
        if not self.folder.history.exists():
            return []
        return [json.loads(line) for line in self.folder.history.read_text(encoding="utf-8").splitlines()]

    @property
    def is_finished(self) -> bool:
        """Whether training is complete; the checkpoint may already be deleted."""
        return len(self.epochs) == self.config.epochs and self.folder.best.exists()


class Lines:
    """Prints a line at the start and one per epoch."""

    def __init__(self, name: str) -> None:
        self._name = name

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        """Print the remaining epochs."""
        left = f"{epochs - epochs_done} of {epochs} epochs of {steps} steps"
        print(f"{self._name}: {left}, about {seconds_left / 60:.0f} min", flush=True)

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        """Do nothing."""

    def epoch(self, report: EpochReport) -> None:
        """Print the results of the epoch."""
        print(
            f"{self._name}: epoch {report.epoch}/{report.epochs}, loss {report.loss:.4f}, "
            f"Dice {report.mean_dice:.4f}, {report.seconds_left / 60:.0f} min left",
            flush=True,
        )


def train_all(runs: Sequence[Run], *, training: Samples, validation: Samples, workers: int) -> None:
    """Train what is not complete; raises `TrainingError` if a folder was started with other settings or data."""
    for run in runs:
        run.folder.claim(run.config, training=training, validation=validation)
    for run in runs:
        if not run.is_finished:
            train(
                run.config,
                training=training,
                validation=validation,
                run=run.folder.path,
                progress=Lines(run.folder.path.name),
                workers=workers,
                encoder=run.encoder,
                pretrained=run.pretrained,
            )
