"""One training run: from loaded samples to a run folder that can be resumed, judged and exported."""

import math
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import TrainingError
from polypstream.metrics import mean_dice
from polypstream.train.averaging import averaged
from polypstream.train.batches import Batch, BatchSource, batches_ahead
from polypstream.train.checkpoint import assign_values, values_of
from polypstream.train.config import TrainConfig
from polypstream.train.data import Samples
from polypstream.train.encoder_weights import load_encoder
from polypstream.train.losses import bce_dice
from polypstream.train.networks import NETWORKS
from polypstream.train.pytorch import compile_training, fused
from polypstream.train.report import EpochReport, Progress
from polypstream.train.run_folder import RunFolder
from polypstream.train.schedule import one_cycle
from polypstream.train.supervision import loss_weights, with_auxiliary_heads

STATISTICS_BATCHES = 16
"""How many batches the averaged network's normalisations are measured on, after every epoch."""

ENCODER_PICTURES = 64
"""How many training pictures the normalisations of a published encoder are measured on, at the most."""

__all__ = ["EpochReport", "Progress", "TrainConfig", "dice_by_dataset", "train"]


def train(
    config: TrainConfig,
    *,
    training: Samples,
    validation: Samples,
    run: Path,
    progress: Progress,
    workers: int = 1,
    initial: Path | None = None,
    encoder: Path | None = None,
    compiled: bool = False,
) -> Path:
    """Train, or go on training where `run` was left, and return the path of `best.keras`, a float32 network.

    `initial` is a Keras model whose weights a new run starts from, at whatever input size it was trained; `encoder` is
    the ONNX file of a published ResNet, for the encoder of a network that can start from one. `compiled` has PyTorch
    compile the network first; it changes rounding, and no setting of the run. Raises `TrainingError` when the run
    folder belongs to another run or cannot be written, `initial` or `encoder` does not fit, or the loss is no longer a
    number; what is on disk stays as it was after the last whole epoch.
    """
    folder = RunFolder(run)
    folder.claim(config, training=training, validation=validation)
    keras.utils.set_random_seed(config.seed)
    source = BatchSource(
        samples=training,
        batch_size=config.batch_size,
        augmentation=config.augmentation,
        seed=config.seed,
        clean_share=config.clean_share,
    )
    trainer = _Trainer(config, source, validation, progress)
    trainer.start_from(initial, encoder)
    if compiled:
        compile_training(trainer.model)
    history = folder.resume(trainer.model)
    done = len(history)
    if done == config.epochs:
        return folder.best
    trainer.announce(epochs_done=done)
    best = max((report.mean_dice for report in history), default=-1.0)
    with closing(batches_ahead(source, first_epoch=done, epochs=config.epochs, workers=workers)) as batches:
        for epoch in range(done + 1, config.epochs + 1):
            report = trainer.epoch(epoch, batches)
            if report.mean_dice > best:
                best = report.mean_dice
                folder.save_best(trainer.network)
            history.append(report)
            folder.save_epoch(trainer.model, history)
            progress.epoch(report)
    return folder.best


class _Trainer:
    """The networks of one run and what is done with them.

    `network` is what is kept: float32 and without auxiliary heads. `core` is the same at the run's precision, and
    `model` is `core` with auxiliary heads, compiled.
    """

    def __init__(self, config: TrainConfig, source: BatchSource, validation: Samples, progress: Progress) -> None:
        self._config, self._source, self._validation, self._progress = config, source, validation, progress
        architecture = NETWORKS[config.model]
        self.network = architecture.build(height=config.height, width=config.width, widths=config.widths)
        with _dtype_policy(config.precision):
            core = architecture.build(height=config.height, width=config.width, widths=config.widths)
            self.core = fused(core)
            self.model = with_auxiliary_heads(self.core, architecture.supervised_layers)
            self.model.compile(
                optimizer=_optimizer(config),
                loss=[bce_dice] * len(self.model.outputs),
                loss_weights=loss_weights(architecture.supervised_layers),
                jit_compile="auto" if keras.backend.backend() == "jax" else False,
            )

    def start_from(self, initial: Path | None, encoder: Path | None) -> None:
        """Replace the random weights by those of a file, where there is one."""
        if initial is not None and encoder is not None:
            raise TrainingError(f"{initial} holds an encoder already; give either --initial or --encoder")
        if initial is not None:
            _start_from(initial, self.network)
        if encoder is not None:
            name = NETWORKS[self._config.model].encoder
            if name is None:
                able = ", ".join(model for model, network in NETWORKS.items() if network.encoder)
                raise TrainingError(
                    f"{self._config.model} has no encoder that {encoder} could be for; with --encoder, train {able}"
                )
            rgb = self._source.samples.rgb
            load_encoder(self.network, encoder, rgb[:: math.ceil(len(rgb) / ENCODER_PICTURES)], encoder=name)
        self.core.set_weights(self.network.get_weights())

    def announce(self, *, epochs_done: int) -> None:
        """Estimate the time that the run will take from trial steps, tell it, and start the clock."""
        epochs, steps = self._config.epochs, self._source.steps
        self._first_step, self._steps_in_all = epochs_done * steps, epochs * steps
        forward_passes = len(self._validation) / self._config.batch_size + min(STATISTICS_BATCHES, steps)
        seconds_left = (epochs - epochs_done) * (steps + forward_passes / 3) * self._step_s()  # a third of a step each
        self._progress.begin(epochs_done=epochs_done, epochs=epochs, steps=steps, seconds_left=seconds_left)
        self._began = time.monotonic()

    def _step_s(self) -> float:
        """Seconds that a step takes, measured without leaving a trace."""
        before, batch = values_of(self.model), self._source.batch(0, 0)
        outputs = [np.zeros((len(batch[0]), *output.shape[1:]), np.float32) for output in self.model.outputs]
        self.model.compute_loss(y=self._truths(batch), y_pred=outputs)  # builds its metrics: the step is traced once
        self._step(batch, 0)
        times = []
        for _ in range(2):
            began = time.monotonic()
            self._step(batch, 0)
            times.append(time.monotonic() - began)
        assign_values(self.model, before)
        return min(times)

    def epoch(self, epoch: int, batches: Iterator[Batch]) -> EpochReport:
        """Train for one epoch, counted from 1, validate the averaged weights, and put them into `network`."""
        began = time.monotonic()
        loss = self._train(epoch, batches)
        measured_on = range(min(STATISTICS_BATCHES, self._source.steps))
        with averaged(self.model, self.core, (self._source.batch(epoch - 1, index)[0] for index in measured_on)):
            dice = dice_by_dataset(self.core, self._validation, batch_size=self._config.batch_size)
            self.network.set_weights(self.core.get_weights())
        return EpochReport(
            epoch=epoch,
            epochs=self._config.epochs,
            loss=loss,
            dice=dice,
            seconds=time.monotonic() - began,
            seconds_left=self._seconds_left(epoch * self._source.steps),
        )

    def _train(self, epoch: int, batches: Iterator[Batch]) -> float:
        summed = 0.0
        before = (epoch - 1) * self._source.steps
        for step in range(1, self._source.steps + 1):
            loss = self._step(next(batches), before + step - 1)
            if not math.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss} in step {step} of epoch {epoch}; "
                    "begin another --run with a lower --learning-rate or --precision float32"
                )
            summed += loss
            self._progress.step(
                epoch=epoch,
                step=step,
                loss=summed / step,
                seconds_left=self._seconds_left(before + step),
            )
        return summed / self._source.steps

    def _step(self, batch: Batch, step: int) -> float:
        self.model.optimizer.learning_rate = one_cycle(
            step,
            steps=self._config.epochs * self._source.steps,
            peak=self._config.learning_rate,
            warmup_share=self._config.warmup_share,
        )
        return float(self.model.train_on_batch(batch[0], self._truths(batch), return_dict=True)["loss"])

    def _truths(self, batch: Batch) -> list[NDArray[np.float32]]:
        return [batch[1]] * len(self.model.outputs)

    def _seconds_left(self, steps_done: int) -> float:
        pace_s = (time.monotonic() - self._began) / (steps_done - self._first_step)
        return pace_s * (self._steps_in_all - steps_done)


def _start_from(initial: Path, network: keras.Model) -> None:
    try:
        given = keras.saving.load_model(initial, compile=False)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise TrainingError(f"{initial} cannot be loaded as a Keras model ({reason}); check --initial") from error
    if [weight.shape for weight in given.weights] != [weight.shape for weight in network.weights]:
        raise TrainingError(
            f"{initial} holds {given.name} with {given.count_params():,} parameters, this run trains {network.name} "
            f"with {network.count_params():,}; give the --model that --initial was trained as, or another --initial"
        )
    network.set_weights(given.get_weights())


@contextmanager
def _dtype_policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(
        config.learning_rate,  # set before every step: as a Keras schedule it would be computed anew for every variable
        weight_decay=config.weight_decay,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=config.average_momentum,
        ema_overwrite_frequency=None,
    )


def dice_by_dataset(network: keras.Model, samples: Samples, *, batch_size: int) -> dict[str, float]:
    """Mean per-image Dice at 0.5, at the network's own size, of each data set among `samples`."""
    predicted = _masks(network, samples.rgb, batch_size)
    truth = samples.masks.astype(bool)
    names = np.array([pair.dataset for pair in samples.pairs])
    return {str(name): mean_dice(truth[names == name], predicted[names == name]) for name in np.unique(names)}


def _masks(network: keras.Model, rgb: NDArray[np.uint8], batch_size: int) -> NDArray[np.bool_]:
    """Predict in batches of one shape, so that nothing is compiled twice: the last one is filled from the beginning."""
    parts = []
    for start in range(0, len(rgb), batch_size):
        batch = rgb[np.arange(start, start + batch_size) % len(rgb)].astype(np.float32) / 255
        parts.append(network.predict_on_batch(batch)[..., 0] >= 0.5)
    return np.concatenate(parts)[: len(rgb)]
