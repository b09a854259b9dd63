"""`polypstream train`: trains a network on data folders and reports its progress."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from polypstream.cli.options import MaskValuesOption
from polypstream.errors import MissingExtraError

if TYPE_CHECKING:
    from polypstream.train.config import TrainConfig
    from polypstream.train.data import Samples
    from polypstream.train.image_files import MaskValues
    from polypstream.train.progress import EpochReport


def register(app: typer.Typer) -> None:
    """Add the subcommand."""
    app.command("train")(train)


def train(
    data: Annotated[
        list[Path],
        typer.Argument(metavar="DATA", help="Folders with images/ and masks/, or Original/ and Ground Truth/."),
    ],
    run: Annotated[Path, typer.Option(help="Run folder; an existing run is resumed.")] = Path("runs/run"),
    splits: Annotated[
        Path | None, typer.Option(help="CSV of dataset,image,<column>.", show_default="80/10/10 by a hash of the name")
    ] = None,
    split_column: Annotated[
        Literal["grouped", "random"], typer.Option(help="Column of the splits file that names each image's split.")
    ] = "grouped",
    mask_values: MaskValuesOption = "",
    model: Annotated[
        Literal[
            "unet", "resunet", "resunetpp", "resunetpp-r50", "resunetpp-lite0", "resunetpp-lite1", "resunetpp-lite2"
        ],
        typer.Option(help="Network to train."),
    ] = "resunetpp",
    size: Annotated[
        str,
        typer.Option(help="Input size in pixels, a side or WxH; multiples of 8 (unet, resunet: 16; -r50, -lite: 32)."),
    ] = "352",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training data.")] = 100,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    warmup_share: Annotated[
        float, typer.Option(help="Fraction of the steps during which the learning rate rises; it then falls to zero.")
    ] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of the AdamW optimizer.")] = 1e-4,
    average_momentum: Annotated[
        float,
        typer.Option(help="Momentum of the running average of the weights that is saved; lower it for short runs."),
    ] = 0.998,
    augmentation: Annotated[
        Literal["light", "strong", "hospitals"],
        typer.Option(help="Strength of changes of geometry, color and image quality; hospitals: also of image style."),
    ] = "strong",
    crop: Annotated[
        Literal["none", "content"],
        typer.Option(help="Part of each image that the network receives: all, or its content area."),
    ] = "none",
    loss: Annotated[
        Literal["bce-dice", "structure"],
        typer.Option(help="Training loss: cross-entropy and Dice; or cross-entropy and IoU weighted towards outlines."),
    ] = "bce-dice",
    clean_share: Annotated[
        float,
        typer.Option(help="Fraction of an epoch for images without a polyp, which are repeated as needed."),
    ] = 0.0,
    rendered: Annotated[
        int, typer.Option(min=0, help="Number of frames of the synthetic colonoscopy to add to the training images.")
    ] = 0,
    frozen_stages: Annotated[
        int, typer.Option(min=0, help="Number of encoder stages, stem included, to freeze, which saves time.")
    ] = 0,
    minutes: Annotated[
        float | None,
        typer.Option(help="Minutes to train; the learning rate then follows elapsed time.", show_default="all epochs"),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Random seed of the initial weights, the order and the augmentation.")
    ] = 0,
    initial: Annotated[
        Path | None, typer.Option(help="Keras model of the same network to start from, of any input size.")
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(help="ONNX file of a pretrained ResNet-50 of half width, for the encoder of resunetpp-r50."),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="Start a -lite encoder from ImageNet weights (extra pretrained)."),
    ] = False,
    precision: Annotated[
        Literal["float32", "mixed_bfloat16", "mixed_float16"],
        typer.Option(help="Precision of the arithmetic; weights are float32."),
    ] = "mixed_bfloat16",
    workers: Annotated[int, typer.Option(min=1, help="Threads that prepare batches.")] = 2,
) -> None:
    """Train ResUNet++, or one of its baselines, on DATA.

    Interrupt it at any time: the same command resumes after the last complete epoch. RUN receives best.keras,
    curves.png, history.jsonl, config.json and last.npz. Keras runs on TensorFlow unless its own environment variable
    KERAS_BACKEND names another backend.
    """
    _need_keras()
    from polypstream.train.augment import PRESETS
    from polypstream.train.config import TrainConfig
    from polypstream.train.fit import train as fit
    from polypstream.train.image_files import MaskValues
    from polypstream.train.networks.registry import NETWORKS

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
        rendered=rendered,
        seed=seed,
        precision=precision,
        crop=crop,
        loss=loss,
        frozen_stages=frozen_stages,
        minutes=minutes,
    )
    console = Console(highlight=False, soft_wrap=True)
    values = MaskValues.parse(mask_values) or None
    training, validation = _samples(data, splits, split_column, values, config, console, workers)
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
                pretrained=pretrained,
            )
    except KeyboardInterrupt:
        kept = f"{progress.epochs_done} of {epochs} epochs are saved in {escape(str(run))}"
        console.print(f"stopped; {kept}: run the same command again to resume")
        raise typer.Exit(130) from None
    console.print(f"the best network is {escape(str(best))}; next: polypstream export {escape(str(best))}")


def _need_keras() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's messages would break the progress bar
    try:
        import keras  # noqa: F401 - also imports the backend
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training (no module named {error.name!r})", "train") from error


def _size(text: str) -> tuple[int, int]:
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise typer.BadParameter(
            f"'{text}' is not a size; give a side such as 352, or WxH such as 480x352", param_hint="--size"
        )
    return int(sides[0]), int(sides[-1])


def _samples(
    folders: list[Path],
    splits_file: Path | None,
    column: Literal["grouped", "random"],
    mask_values: "MaskValues | None",
    config: "TrainConfig",
    console: Console,
    workers: int,
) -> "tuple[Samples, Samples]":
    from polypstream.train.data import load_splits, pairs_from_folders
    from polypstream.train.rendered import with_rendered
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    pairs = pairs_from_folders(folders, mask_values=mask_values)
    if splits_file is None:
        splits = splits_by_hash(pairs)
        console.print("no splits file: 80% of the images for training, 10% for validation, by a hash of their names")
    else:
        splits = splits_from_csv(splits_file, column)
    wanted = {"training": split_pairs(pairs, splits, "train"), "validation": split_pairs(pairs, splits, "val")}
    loaded = load_splits(wanted, height=config.height, width=config.width, crop=config.crop, workers=workers)
    if config.rendered:
        loaded["training"] = with_rendered(loaded["training"], config.rendered, crop=config.crop)
    counts = " and ".join(f"{_count(samples)} for {name}" for name, samples in loaded.items())
    console.print(f"{counts}, scaled to {config.width}x{config.height}")
    return loaded["training"], loaded["validation"]


def _count(samples: "Samples") -> str:
    clean = len(samples) - int(samples.masks.any(axis=(1, 2)).sum())
    return f"{len(samples)} images ({clean} without a polyp)" if clean else f"{len(samples)} images"


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
        self._task: TaskID = self._bar.add_task("preparing", total=None, state="")
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
