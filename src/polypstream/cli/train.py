"""`polypstream train`: data folders in, a run folder with a trained network out."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from polypstream.errors import MissingExtraError

if TYPE_CHECKING:
    from polypstream.train.config import TrainConfig
    from polypstream.train.data import Samples
    from polypstream.train.report import EpochReport


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("train")(train)


def train(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA...", help="Folders with images/ and masks/, or Original/ and Ground Truth/."),
    ],
    run: Annotated[Path, typer.Option(help="Folder of the run; one that holds a run is gone on with.")] = Path(
        "runs/run"
    ),
    splits: Annotated[
        Path | None, typer.Option(help="CSV of dataset,image,<column>.  (default: 80/10/10 by a hash of the name)")
    ] = None,
    split_column: Annotated[Literal["grouped", "random"], typer.Option(help="Column of the splits file.")] = "grouped",
    model: Annotated[
        Literal["unet", "resunet", "resunetpp", "resunetpp-r50"], typer.Option(help="Network to train.")
    ] = "resunetpp",
    size: Annotated[
        str,
        typer.Option(help="Side, or WxH, in pixels; multiples of 8; for unet and resunet of 16, resunetpp-r50 of 32."),
    ] = "352",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Its peak.")] = 2e-3,
    warmup_share: Annotated[
        float, typer.Option(help="Share of the steps over which the learning rate rises, before it falls to zero.")
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Of the optimiser, AdamW.")] = 1e-4,
    average_momentum: Annotated[
        float,
        typer.Option(help="Of the running average of the weights, which is what is kept; lower it for short runs."),
    ] = 0.998,
    augmentation: Annotated[
        Literal["light", "strong"], typer.Option(help="How far geometry, colour and defects are varied.")
    ] = "strong",
    clean_share: Annotated[
        float,
        typer.Option(help="Pictures without a polyp are repeated until they make up this share of an epoch."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the initial weights, the order and the augmentation.")] = 0,
    initial: Annotated[
        Path | None, typer.Option(help="Keras model of the same network to start from, whatever its input size.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="For resunetpp-r50: ONNX file of a published half-width ResNet-50 for its encoder."),
    ] = None,
    precision: Annotated[
        Literal["float32", "mixed_bfloat16", "mixed_float16"],
        typer.Option(help="Of the arithmetic; weights are float32."),
    ] = "mixed_bfloat16",
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="On PyTorch: take minutes to compile, then a third less time for each step."),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that prepare batches.")] = 2,
) -> None:
    """Train ResUNet++, or one of its baselines, on DATA.

    Stop it at any time: the same command goes on after the last whole epoch. RUN receives best.keras, curves.png,
    history.jsonl, config.json and last.npz. Keras runs on TensorFlow unless its own variable KERAS_BACKEND names
    another backend.
    """
    _need_keras()
    from polypstream.train.augment import PRESETS
    from polypstream.train.config import TrainConfig
    from polypstream.train.fit import train as fit
    from polypstream.train.networks import NETWORKS

    width, height = _size(size)
    config = TrainConfig(
        model=model,
        height=height,
        width=width,
        widths=NETWORKS[model].widths,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup_share=warmup_share,
        weight_decay=weight_decay,
        average_momentum=average_momentum,
        augmentation=PRESETS[augmentation],
        clean_share=clean_share,
        seed=seed,
        precision=precision,
    )
    console = Console(highlight=False, soft_wrap=True)
    training, validation = _samples(data, splits, split_column, config, console, workers)
    progress = _Progress(console)
    try:
        with progress:
            best = fit(
                config,
                training=training,
                validation=validation,
                run=run,
                progress=progress,
                workers=workers,
                initial=initial,
                encoder=encoder,
                compiled=compiled,
            )
    except KeyboardInterrupt:
        kept = f"{progress.epochs_done} of {epochs} epochs are kept in {escape(str(run))}"
        console.print(f"stopped; {kept}: run the same command again to go on")
        raise typer.Exit(130) from None
    console.print(f"the best network is {escape(str(best))}; next: polypstream export {escape(str(best))}")


def _need_keras() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's notes on the machine would break the progress bar
    try:
        import keras  # noqa: F401 - imports its backend too
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training (no module named {error.name!r})", "train") from error


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise typer.BadParameter(
            f"'{text}' is no size; give a side such as 352, or WxH such as 480x352", param_hint="--size"
        )
    return int(sides[0]), int(sides[-1])


def _samples(
    folders: list[Path],
    splits_file: Path | None,
    column: Literal["grouped", "random"],
    config: "TrainConfig",
    console: Console,
    workers: int,
) -> "tuple[Samples, Samples]":
    from polypstream.train.data import load_splits, pairs_from_folders
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    pairs = pairs_from_folders(folders)
    if splits_file is None:
        splits = splits_by_hash(pairs)
        console.print("no splits file: training on 80%, validating on 10%, by a hash of each image's name")
    else:
        splits = splits_from_csv(splits_file, column)
    wanted = {"training": split_pairs(pairs, splits, "train"), "validation": split_pairs(pairs, splits, "val")}
    loaded = load_splits(wanted, height=config.height, width=config.width, workers=workers)
    counts = f"{len(wanted['training'])} images to train on, {len(wanted['validation'])} to validate on"
    console.print(f"{counts}, at {config.width}x{config.height}")
    return loaded["training"], loaded["validation"]


class _Progress:
    """A bar with the time left on a terminal, and one line per epoch everywhere."""

    def __init__(self, console: Console) -> None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
        )
        self._bar = Bar(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._console = console
        self.epochs_done = 0

    def __enter__(self) -> "_Progress":
        self._bar.start()
        self._task: TaskID = self._bar.add_task("getting ready", total=None, state="")
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, *, epochs_done: int, epochs: int, steps: int, seconds_left: float) -> None:
        self.epochs_done, self._epochs = epochs_done, epochs
        since = f" after epoch {epochs_done}" if epochs_done else ""
        self._console.print(f"{epochs - epochs_done} epochs of {steps} steps{since}: about {_duration(seconds_left)}")
        self._bar.update(self._task, total=steps)

    def step(self, *, epoch: int, step: int, loss: float, seconds_left: float) -> None:
        state = f"loss {loss:.4f}, {_duration(seconds_left)} left"
        self._bar.update(self._task, completed=step, description=f"epoch {epoch}/{self._epochs}", state=state)

    def epoch(self, report: "EpochReport") -> None:
        self.epochs_done = report.epoch
        dice = ", ".join(f"{escape(dataset)} {value:.4f}" for dataset, value in report.dice.items())
        times = f"{_duration(report.seconds)}, {_duration(report.seconds_left)} left"
        self._console.print(f"epoch {report.epoch}/{report.epochs}: loss {report.loss:.4f}, Dice {dice}; {times}")


def _duration(seconds: float) -> str:
    """To the second below a minute, to the minute above."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"
