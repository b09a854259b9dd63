"""One training run: from loaded samples to a run folder that can be resumed, evaluated and exported."""

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
from polypstream.train.averaging import averaged_weights
from polypstream.train.batches import Batch, BatchSource, batches_ahead
from polypstream.train.config import TrainConfig
from polypstream.train.data import Samples
from polypstream.train.encoder_weights import load_encoder
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.pretrained import load_pretrained
from polypstream.train.progress import EpochReport, Progress
from polypstream.train.pytorch import with_fast_layers
from polypstream.train.recipe import LOSSES, loss_weights, one_cycle, with_auxiliary_heads
from polypstream.train.run_folder import RunFolder, assign_values, values_of

STATISTICS_BATCHES = 16
"""Batches from which the batch normalization statistics of the averaged weights are computed after every epoch."""

ENCODER_IMAGES = 64
"""Maximum number of training images from which batch normalization statistics of a pretrained encoder are computed."""

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
    pretrained: bool = False,
) -> Path:
    """Train a network, or resume the run in `run` after its last complete epoch.

    Args:
        config: Settings of the run.
        training: Training data, at the size of `config`.
        validation: Validation data; the epoch with the best mean Dice is kept.
        run: Run folder; an existing run must have the same settings and data.
        progress: Receives the progress.
        workers: Threads that prepare batches; the result does not depend on it.
        initial: Keras file of the same network whose weights a new run starts from; its input size may differ.
        encoder: ONNX file of a pretrained ResNet, for a network with an encoder that can start from one.
        pretrained: Start the encoder from the ImageNet weights of an installed package.

    Returns:
        Path of `best.keras`, a float32 network.

    Raises:
        TrainingError: The run folder belongs to another run, `initial` or `encoder` does not fit, or the loss is no
            longer finite. The files then hold the state after the last complete epoch.
        MissingExtraError: The package with ImageNet weights is missing.
        OutputError: The run folder cannot be written.
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
    trainer.start_from(initial, encoder, pretrained=pretrained)
    history = folder.resume(trainer.model)
    done = len(history)
    trainer.spent_s = sum(report.seconds for report in history)
    if done == config.epochs or (config.minutes is not None and history and history[-1].seconds_left <= 0):
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
            if config.minutes is not None and report.seconds_left <= 0:
                break
    return folder.best


class _Trainer:
    """The networks of one run and their training.

    `network` is the one that is saved: float32, without auxiliary heads. `core` is the same at the run's precision, and
    `model` is `core` with auxiliary heads, compiled.
    """

    def __init__(self, config: TrainConfig, source: BatchSource, validation: Samples, progress: Progress) -> None:
        self._config, self._source, self._validation, self._progress = config, source, validation, progress
        self._began: float | None = None
        self.spent_s = 0.0
        """Duration in seconds of the epochs before this resume."""
        architecture = NETWORKS[config.model]
        self.network = architecture.build(height=config.height, width=config.width, widths=config.widths)
        with _dtype_policy(config.precision):
            core = architecture.build(height=config.height, width=config.width, widths=config.widths)
            self.core = with_fast_layers(core)
            _freeze(self.core, architecture.encoder, config.frozen_stages)
            self.model = with_auxiliary_heads(self.core, architecture.supervised_layers)
            self.model.compile(
                optimizer=_optimizer(config),
                loss=[LOSSES[config.loss]] * len(self.model.outputs),
                loss_weights=loss_weights(architecture.supervised_layers),
                jit_compile="auto" if keras.backend.backend() == "jax" else False,
            )

    def start_from(self, initial: Path | None, encoder: Path | None, *, pretrained: bool) -> None:
        """Replace the random weights by those of a file or package, if one is given."""
        if (initial is not None) + (encoder is not None) + pretrained > 1:
            raise TrainingError("these options exclude each other; give one of --initial, --encoder and --pretrained")
        if initial is not None:
            _start_from(initial, self.network)
        if encoder is not None:
            name = NETWORKS[self._config.model].encoder
            if name is None or NETWORKS[self._config.model].pretrained is not None:
                able = ", ".join(
                    model for model, network in NETWORKS.items() if network.encoder and not network.pretrained
                )
                raise TrainingError(
                    f"{self._config.model} has no encoder for the weights in {encoder}; with --encoder, train {able}"
                )
            rgb = self._source.samples.rgb
            load_encoder(self.network, encoder, rgb[:: math.ceil(len(rgb) / ENCODER_IMAGES)], encoder=name)
        if pretrained:
            architecture = NETWORKS[self._config.model]
            if architecture.encoder is None or architecture.pretrained is None:
                able = ", ".join(model for model, network in NETWORKS.items() if network.pretrained)
                raise TrainingError(f"no ImageNet weights fit {self._config.model}; with --pretrained, train {able}")
            load_pretrained(self.network, architecture.pretrained, encoder=architecture.encoder)
        self.core.set_weights(self.network.get_weights())

    def announce(self, *, epochs_done: int) -> None:
        """Estimate the duration of the run from trial steps, report it, and start the clock."""
        epochs, steps = self._config.epochs, self._source.steps
        self._first_step, self._steps_in_all = epochs_done * steps, epochs * steps
        forward_passes = len(self._validation) / self._config.batch_size + min(STATISTICS_BATCHES, steps)
        seconds_left = (epochs - epochs_done) * (steps + forward_passes / 3) * self._step_s()  # a third of a step each
        self._progress.begin(epochs_done=epochs_done, epochs=epochs, steps=steps, seconds_left=seconds_left)
        self._began = time.monotonic()

    def _step_s(self) -> float:
        """Duration of a step in seconds; the weights are restored afterwards."""
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
        sampled = range(min(STATISTICS_BATCHES, self._source.steps))
        with averaged_weights(self.model, self.core, (self._source.batch(epoch - 1, index)[0] for index in sampled)):
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
                    "start another --run with a lower --learning-rate or --precision float32"
                )
            summed += loss
            taken = step
            self._progress.step(
                epoch=epoch,
                step=step,
                loss=summed / step,
                seconds_left=self._seconds_left(before + step),
            )
            if self.share_done(before + step) >= 1:
                break
        return summed / taken

    def share_done(self, steps: int) -> float:
        """Fraction of the run that is done after `steps` steps."""
        if self._config.minutes is None:
            return steps / (self._config.epochs * self._source.steps)
        running_s = 0.0 if self._began is None else time.monotonic() - self._began
        return (self.spent_s + running_s) / (60 * self._config.minutes)

    def _step(self, batch: Batch, step: int) -> float:
        self.model.optimizer.learning_rate = one_cycle(
            self.share_done(step),
            peak=self._config.learning_rate,
            warmup_share=self._config.warmup_share,
        )
        return float(self.model.train_on_batch(batch[0], self._truths(batch), return_dict=True)["loss"])

    def _truths(self, batch: Batch) -> list[NDArray[np.float32]]:
        return [batch[1]] * len(self.model.outputs)

    def _seconds_left(self, steps_done: int) -> float:
        assert self._began is not None
        if self._config.minutes is not None:
            return max(0.0, 1 - self.share_done(steps_done)) * 60 * self._config.minutes
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


def _freeze(network: keras.Model, encoder: str | None, stages: int) -> None:
    """Freeze the stem and the first stages of an encoder; nothing if `stages` is 0."""
    fixed = (f"{encoder}_", *(f"{encoder}{stage}_" for stage in range(1, stages + 1))) if stages else ()
    for layer in network.layers:
        if layer.name.startswith(fixed):
            layer.trainable = False


def _optimizer(config: TrainConfig) -> keras.optimizers.Optimizer:
    return keras.optimizers.AdamW(
        config.learning_rate,  # set before every step: a Keras schedule would be evaluated once per variable
        weight_decay=config.weight_decay,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=config.average_momentum,
        ema_overwrite_frequency=None,
    )


def dice_by_dataset(network: keras.Model, samples: Samples, *, batch_size: int) -> dict[str, float]:
    """Mean per-image Dice at 0.5, at the network's input size, for each data set in `samples`."""
    predicted = _masks(network, samples.rgb, batch_size)
    truth = samples.masks.astype(bool)
    names = np.array([pair.dataset for pair in samples.pairs])
    return {str(name): mean_dice(truth[names == name], predicted[names == name]) for name in np.unique(names)}


def _masks(network: keras.Model, rgb: NDArray[np.uint8], batch_size: int) -> NDArray[np.bool_]:
    """Predict in batches of one shape, so that nothing is compiled twice; the first images fill up the last batch."""
    parts = []
    for start in range(0, len(rgb), batch_size):
        batch = rgb[np.arange(start, start + batch_size) % len(rgb)].astype(np.float32) / 255
        parts.append(network.predict_on_batch(batch)[..., 0] >= 0.5)
    return np.concatenate(parts)[: len(rgb)]
