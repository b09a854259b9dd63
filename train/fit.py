"""One training run: from data folders to a run folder that can be resumed, judged and exported.

The run folder holds `config.json`, `history.jsonl` (a line per epoch), `last.npz` (everything needed to go on) and
`best.keras` (the averaged weights that did best on the validation data).
"""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError, TrainingError
from polypstream.metrics import mean_dice
from polypstream.train.augment import Augmentation
from polypstream.train.batches import TrainingBatches
from polypstream.train.checkpoint import load_checkpoint, save_checkpoint
from polypstream.train.data import Samples
from polypstream.train.losses import bce_dice
from polypstream.train.resunetpp import SUPERVISED_LAYERS, WIDTHS, resunetpp
from polypstream.train.supervision import loss_weights, with_auxiliary_heads
from polypstream.train.torch_kernels import fused


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides the outcome of a run, besides the data."""

    height: int = 352
    width: int = 352
    widths: tuple[int, ...] = WIDTHS
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup_share: float = 0.1
    """Share of all steps over which the learning rate rises, before it falls along a cosine to zero."""
    weight_decay: float = 1e-4
    average_momentum: float = 0.998
    """Momentum of the running average of the weights, which is what is validated and kept."""
    precision: str = "mixed_bfloat16"
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1:
            raise ConfigError(f"epochs is {self.epochs} and batch size {self.batch_size}; both must be at least 1")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"the learning rate is {self.learning_rate}; it must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """What one epoch came to: the mean training loss and the validation Dice of each data set."""

    epoch: int
    epochs: int
    loss: float
    dice: dict[str, float]
    seconds: float
    seconds_left: float

    @property
    def mean_dice(self) -> float:
        return float(np.mean(list(self.dice.values())))


class Progress(Protocol):
    """Who is told how a run goes on."""

    def step(self, *, epoch: int, epochs: int, step: int, steps: int, loss: float, seconds_left: float) -> None: ...
    def epoch(self, report: EpochReport) -> None: ...


def train(
    config: TrainConfig,
    *,
    training: Samples,
    validation: Samples,
    run: Path,
    progress: Progress,
    workers: int = 1,
    initial: Path | None = None,
) -> Path:
    """Train, or go on training where `run` was left, and return the path of `best.keras`.

    `initial` is a Keras model whose weights the run starts from, at whatever input size it was trained.
    """
    keras.config.set_dtype_policy(config.precision)
    keras.utils.set_random_seed(config.seed)
    _claim_run_folder(run, config)
    network = resunetpp(height=config.height, width=config.width, widths=config.widths)
    if initial is not None:
        network.set_weights(keras.saving.load_model(initial, compile=False).get_weights())
    core = fused(network)
    model = with_auxiliary_heads(core, SUPERVISED_LAYERS)
    steps = math.ceil(len(training) / config.batch_size)
    model.compile(
        optimizer=_optimizer(config, steps_per_epoch=steps),
        loss=[bce_dice] * len(model.outputs),
        loss_weights=loss_weights(SUPERVISED_LAYERS),
        jit_compile="auto" if keras.backend.backend() == "jax" else False,
    )
    batches = TrainingBatches(
        training,
        batch_size=config.batch_size,
        outputs=len(model.outputs),
        augmentation=config.augmentation,
        seed=config.seed,
        workers=workers,
    )
    keeper = _EpochKeeper(config, core, network, batches, validation, run, progress, steps)
    if (run / "last.npz").exists():
        keeper.epochs_done = load_checkpoint(run / "last.npz", model)
    model.fit(
        batches,
        epochs=config.epochs,
        initial_epoch=keeper.epochs_done,
        shuffle=False,
        verbose=0,
        callbacks=[keeper],
    )
    return run / "best.keras"


def _claim_run_folder(run: Path, config: TrainConfig) -> None:
    run.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(config), indent=2)
    path = run / "config.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainingError(f"{run} was begun with other settings (see {path.name}); give another --run folder")
    path.write_text(text, encoding="utf-8")


def _optimizer(config: TrainConfig, *, steps_per_epoch: int) -> keras.optimizers.Optimizer:
    total = config.epochs * steps_per_epoch
    warmup = max(1, round(config.warmup_share * total))
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=config.learning_rate / 25,
        decay_steps=max(1, total - warmup),
        warmup_target=config.learning_rate,
        warmup_steps=warmup,
        alpha=0.001,
    )
    return keras.optimizers.AdamW(
        schedule,
        weight_decay=config.weight_decay,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=config.average_momentum,
        ema_overwrite_frequency=None,
    )


class _EpochKeeper(keras.callbacks.Callback):
    """After each epoch: validate the averaged weights, keep the best, checkpoint, report."""

    def __init__(
        self,
        config: TrainConfig,
        core: keras.Model,
        network: keras.Model,
        batches: TrainingBatches,
        validation: Samples,
        run: Path,
        progress: Progress,
        steps: int,
    ) -> None:
        super().__init__()
        self._config, self._core, self._network, self._batches = config, core, network, batches
        self._validation, self._run, self._progress, self._steps = validation, run, progress, steps
        self.epochs_done = 0

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self._began, self._steps_at_start = time.monotonic(), self.epochs_done * self._steps
        history = self._run / "history.jsonl"
        lines = history.read_text(encoding="utf-8").splitlines()[: self.epochs_done] if history.exists() else []
        history.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        self._best = max((json.loads(line)["mean_dice"] for line in lines), default=-1.0)

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._batches.start_epoch(epoch)
        self._epoch, self._epoch_began = epoch, time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._progress.step(
            epoch=self._epoch,
            epochs=self._config.epochs,
            step=batch + 1,
            steps=self._steps,
            loss=float((logs or {})["loss"]),
            seconds_left=self._seconds_left(self._epoch * self._steps + batch + 1),
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        model, loss = self.model, float((logs or {})["loss"])
        if not math.isfinite(loss):
            raise TrainingError(f"the loss became {loss} in epoch {epoch + 1}; resume with a lower --learning-rate")
        current = [v.numpy() for v in model.trainable_variables]
        model.optimizer.finalize_variable_values(model.trainable_variables)
        dice = dice_by_dataset(self._core, self._validation, batch_size=self._config.batch_size)
        report = EpochReport(
            epoch=epoch + 1,
            epochs=self._config.epochs,
            loss=loss,
            dice=dice,
            seconds=time.monotonic() - self._epoch_began,
            seconds_left=self._seconds_left((epoch + 1) * self._steps),
        )
        if report.mean_dice > self._best:
            self._best = report.mean_dice
            self._network.set_weights(self._core.get_weights())
            self._network.save(self._run / "best.partial.keras")
            (self._run / "best.partial.keras").replace(self._run / "best.keras")
        for variable, value in zip(model.trainable_variables, current, strict=True):
            variable.assign(value)
        self.epochs_done = epoch + 1
        with (self._run / "history.jsonl").open("a", encoding="utf-8") as history:
            history.write(json.dumps({**asdict(report), "mean_dice": report.mean_dice}) + "\n")
        save_checkpoint(self._run / "last.npz", model, epochs_done=self.epochs_done)
        self._progress.epoch(report)

    def _seconds_left(self, steps_done: int) -> float:
        pace = (time.monotonic() - self._began) / max(1, steps_done - self._steps_at_start)
        return pace * (self._config.epochs * self._steps - steps_done)


def dice_by_dataset(network: keras.Model, samples: Samples, *, batch_size: int) -> dict[str, float]:
    """Mean per-image Dice at 0.5, at the network's own size, of each data set among `samples`."""
    predicted = _probabilities(network, samples.rgb, batch_size) >= 0.5
    truth = samples.masks.astype(bool)
    names = np.array([pair.dataset for pair in samples.pairs])
    return {str(name): mean_dice(truth[names == name], predicted[names == name]) for name in np.unique(names)}


def _probabilities(network: keras.Model, rgb: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    starts: Sequence[int] = range(0, len(rgb), batch_size)
    parts = [network.predict_on_batch(rgb[s : s + batch_size].astype(np.float32) / 255)[..., 0] for s in starts]
    return np.concatenate(parts)
