"""Progress of a training run: the report of each epoch, and the plot of loss and Dice."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from statistics import fmean
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """Result of one epoch: the mean training loss and the validation Dice of each data set."""

    epoch: int
    """Counted from 1."""
    epochs: int
    loss: float
    dice: dict[str, float]
    seconds: float
    seconds_left: float

    @property
    def mean_dice(self) -> float:
        """Unweighted mean over the data sets; the epoch where it is highest is the best."""
        return fmean(self.dice.values())


class Progress(Protocol):
    """Receives the progress of a run."""

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        """Called before the first step, with the epochs already done, the steps of each epoch, and an estimate."""
        ...

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        """Called after a step; steps and epochs are counted from 1, and `loss` is the mean of the epoch so far."""
        ...

    def epoch(self, report: EpochReport) -> None:
        """Called after an epoch, once its checkpoint is on disk."""
        ...


class NoProgress:
    """Discards the progress."""

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        """Do nothing."""

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        """Do nothing."""

    def epoch(self, report: EpochReport) -> None:
        """Do nothing."""


def curves_png(history: Sequence[EpochReport]) -> bytes:
    """Draw the curves of a run.

    Args:
        history: The epochs so far, at least one.

    Returns:
        A PNG of 960×640 pixels: training loss above, validation Dice of each data set and their mean below.

    Raises:
        ModuleNotFoundError: Matplotlib is not installed; it comes with `polypstream[train]`.
    """
    if not history:
        raise ValueError("there are no epochs to draw; give a history of at least one")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    epochs = [report.epoch for report in history]
    mean = [report.mean_dice for report in history]
    best = max(range(len(history)), key=mean.__getitem__)
    figure = Figure(figsize=(9.6, 6.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, sharex=True)
    upper.plot(epochs, [report.loss for report in history], color="black", marker=".")
    upper.set(title="training loss", ylim=(0, None))
    lower.plot(epochs, mean, color="black", marker=".", linewidth=2, label=f"mean {mean[-1]:.3f}")
    for name in history[0].dice:
        values = [report.dice[name] for report in history]
        lower.plot(epochs, values, linewidth=1, label=f"{name} {values[-1]:.3f}")
    lower.set(title=f"validation Dice; best mean {mean[best]:.4f} in epoch {best + 1}", xlabel="epoch", ylim=(0, 1))
    lower.set_xlim(1, max(2, history[0].epochs))
    lower.legend(loc="lower right")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    png = BytesIO()
    figure.savefig(png, format="png")
    return png.getvalue()
