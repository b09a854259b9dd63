"""A training run of seconds, in this process or in one that kills itself: `python -m tests.train.small_run FOLDER`."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
from keras import layers

from polypstream.train import fit
from polypstream.train.config import TrainConfig
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.progress import EpochReport
from tests.discs import disc_samples

CONFIG = TrainConfig(
    height=32, width=32, widths=(8,) * 5, epochs=3, batch_size=4, precision="float32", learning_rate=0.01
)
KILLED_AT = (2, 3)
"""Epoch and step, counted from 1, of four."""


def small_network(*, height: int | None, width: int | None, widths: Sequence[int]) -> keras.Model:
    """A small replacement for ResUNet++ that compiles quickly; it has the layers to which auxiliary heads are
    attached."""
    image = keras.Input((height, width, 3))
    x = layers.Conv2D(widths[0], 3, strides=8, padding="same", name="bridge")(image)
    for name in ("decoder3", "decoder2", "decoder1"):
        x = layers.BatchNormalization()(layers.UpSampling2D(2)(x))
        x = layers.Conv2D(widths[0], 3, padding="same", activation="relu", name=name)(x)
    return keras.Model(image, layers.Conv2D(1, 1, activation="sigmoid", dtype="float32")(x))


SMALL = replace(NETWORKS["resunetpp"], build=small_network)


class Quiet:
    """Records the progress reports."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.losses: list[float] = []
        self.reports: list[EpochReport] = []

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        assert seconds_left > 0
        self.started.append(epochs_done)

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        self.losses.append(loss)

    def epoch(self, report: EpochReport) -> None:
        self.reports.append(report)


class Killing(Quiet):
    """Kills the process during an epoch, as if memory ran out."""

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        if (epoch, step) == KILLED_AT:
            os.kill(os.getpid(), signal.SIGKILL)


def small_run(
    folder: Path,
    progress: Quiet,
    config: TrainConfig = CONFIG,
    initial: Path | None = None,
    encoder: Path | None = None,
    pretrained: bool = False,
) -> Path:
    return fit.train(
        config,
        training=disc_samples(14),
        validation=disc_samples(4, first=100),
        run=folder,
        progress=progress,
        initial=initial,
        encoder=encoder,
        pretrained=pretrained,
    )


if __name__ == "__main__":
    NETWORKS["resunetpp"] = SMALL
    small_run(Path(sys.argv[1]), Killing())
