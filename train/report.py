"""What a training run tells of itself while it goes on."""

from dataclasses import dataclass
from statistics import fmean
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch came to: the mean training loss and the validation Dice of each data set."""

    epoch: int
    """Counted from 1."""
    epochs: int
    loss: float
    dice: dict[str, float]
    seconds: float
    seconds_left: float

    @property
    def mean_dice(self) -> float:
        """Mean over the data sets, each with the same weight: what the best epoch is chosen by."""
        return fmean(self.dice.values())


class Progress(Protocol):
    """Who is told how a run goes on."""

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        """Before the first step: what lies behind, what lies ahead, and how long it should take."""
        ...

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        """After a step, both counted from 1; `loss` is the mean of the epoch so far."""
        ...

    def epoch(self, report: EpochReport) -> None:
        """After an epoch, when everything of it is on disk."""
        ...
