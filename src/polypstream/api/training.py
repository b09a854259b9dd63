"""Public functions that train, evaluate and export networks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from polypstream.api.models import PathLike

if TYPE_CHECKING:
    from polypstream.content import CropRule
    from polypstream.contract import OperatingPoint
    from polypstream.evaluation.evaluate import Evaluation, Predict
    from polypstream.evaluation.video import VideoEvaluation
    from polypstream.export.exporter import ExportReport
    from polypstream.realtime.inference.model import Model
    from polypstream.train.progress import Progress


def train(
    data: Sequence[PathLike],
    *,
    run: PathLike = "runs/run",
    splits: PathLike | None = None,
    network: str = "resunetpp",
    size: int | tuple[int, int] = 352,
    epochs: int = 100,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    crop: "CropRule" = "none",
    seed: int = 0,
    initial: PathLike | None = None,
    pretrained: bool = False,
    workers: int = 2,
    progress: "Progress | None" = None,
) -> Path:
    """Train a network, or resume the run in a folder (extra `[train]`). `polypstream train` offers more options.

    Args:
        data: Folders with `images/` and `masks/`, or `Original/` and `Ground Truth/`.
        run: Run folder; an existing run with the same settings is resumed.
        splits: CSV of dataset, image and `grouped` (train, val or test); None: 80% train, 10% validation, by a hash.
        network: `resunetpp`, `resunetpp-lite0` to `-lite2`, `resunetpp-r50`, `unet` or `resunet`.
        size: Side of the network's square input, or (width, height), in pixels; a multiple of 8.
        epochs: Passes over the training data.
        batch_size: Images per step.
        learning_rate: Peak learning rate.
        crop: Part of each image that the network receives: all (`none`), or the content area's box (`content`).
        seed: Random seed of the initial weights, the order and the augmentation.
        initial: Keras model of the same network to start from.
        pretrained: Whether the encoder of a `-lite` network starts from ImageNet weights (extra `[pretrained]`).
        workers: Threads that prepare batches.
        progress: Receives the progress of steps and epochs.

    Returns:
        Path of `best.keras`, the network of the best epoch.

    Raises:
        MissingExtraError: Keras is not installed.
        DatasetError: Data are missing, unreadable or inconsistent.
        TrainingError: The run cannot start or continue.
        ConfigError: A setting is out of range.
    """
    from polypstream.errors import MissingExtraError

    try:
        import keras  # noqa: F401 - imports its own backend
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"training (no module named {error.name!r})", "train") from error
    from polypstream.train.config import TrainConfig
    from polypstream.train.data import load_splits, pairs_from_folders
    from polypstream.train.fit import train as fit
    from polypstream.train.networks.registry import NETWORKS
    from polypstream.train.progress import NoProgress
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    width, height = (size, size) if isinstance(size, int) else size
    config = TrainConfig(
        model=network,
        height=height,
        width=width,
        widths=NETWORKS[network].widths if network in NETWORKS else TrainConfig().widths,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        crop=crop,
        seed=seed,
    )
    pairs = pairs_from_folders([Path(folder) for folder in data])
    parts = splits_by_hash(pairs) if splits is None else splits_from_csv(Path(splits), "grouped")
    wanted = {"training": split_pairs(pairs, parts, "train"), "validation": split_pairs(pairs, parts, "val")}
    samples = load_splits(wanted, height=height, width=width, crop=crop, workers=workers)
    return fit(
        config,
        training=samples["training"],
        validation=samples["validation"],
        run=Path(run),
        progress=progress or NoProgress(),
        workers=workers,
        initial=None if initial is None else Path(initial),
        pretrained=pretrained,
    )


def evaluate(
    model: "Model | PathLike | None",
    data: Sequence[PathLike],
    *,
    splits: PathLike | None = None,
    split: Literal["train", "val", "test"] | None = None,
    threshold: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "Evaluation":
    """Score a model on images with masks, in pixels of the images.

    Args:
        model: An ONNX or `.keras` file, a loaded model, or None for the network of the package.
        data: Folders with `images/` and `masks/`, or `Original/` and `Ground Truth/`.
        splits: CSV of dataset, image and `grouped` (train, val or test).
        split: The split to evaluate; None for `test` with `splits`, else all images.
        threshold: Probability from which a pixel is polyp, without a minimum peak; None for the model's settings.
        on_progress: Called with the number of images done and the total.

    Returns:
        Scores of every image, and means per data set with 95% bootstrap intervals (`datasets`).

    Raises:
        DatasetError: Data are missing, unreadable or inconsistent.
        ModelError: The model cannot be loaded.
        MissingExtraError: A `.keras` file needs Keras, which is not installed.
    """
    from polypstream.evaluation.evaluate import evaluate_pairs
    from polypstream.train.data import pairs_from_folders
    from polypstream.train.splits import split_pairs, splits_by_hash, splits_from_csv

    pairs = pairs_from_folders([Path(folder) for folder in data])
    if splits is not None:
        pairs = split_pairs(pairs, splits_from_csv(Path(splits), "grouped"), split or "test")
    elif split is not None:
        pairs = split_pairs(pairs, splits_by_hash(pairs), split)
    with _predicting(model, threshold) as (predict, limit, min_peak):
        return evaluate_pairs(predict, pairs, limit, min_peak=min_peak, advance=on_progress)


def evaluate_video(
    model: "Model | PathLike | None",
    video: PathLike,
    *,
    masks: PathLike | None = None,
    against: PathLike | None = None,
    labels: Sequence[str] = (),
    table: PathLike | None = None,
    threshold: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "VideoEvaluation":
    """Score a model on a labeled video, in its pixels; give `masks` or `against`.

    Args:
        model: An ONNX or `.keras` file, a loaded model, or None for the network of the package.
        video: The video.
        masks: Folder with a mask for every frame, `00000.png` for the first one.
        against: Labels of any number of frames: an export of CVAT (XML), COCO, YOLO, Label Studio, Pascal VOC, or a
            folder of masks; may be zipped.
        labels: Names of the labels that mean polyp; empty: detected automatically.
        table: The frame table that belongs to the export; None: `<video>_frames.csv` next to it, if present.
        threshold: Probability from which a pixel is polyp, without a minimum peak; None for the model's settings.
        on_progress: Called with the number of frames done and the total.

    Returns:
        Dice, IoU and sensitivity per frame (`frames`) and per polyp (`polyps`: also latency, persistence, flicker), and
        false alarms on clean frames by area and duration (`alarms`).

    Raises:
        ConfigError: Not exactly one of `masks` and `against` is given, or the threshold is out of range.
        SourceError: The video cannot be read.
        DatasetError: The labels cannot be read, or belong to another video.
        ModelError: The model cannot be loaded.
        MissingExtraError: A `.keras` file needs Keras, or a DICOM object pydicom, which is not installed.
    """
    from polypstream.errors import ConfigError
    from polypstream.evaluation.evaluate import evaluate_video as evaluate_clip
    from polypstream.evaluation.imports.read import LabelOptions

    truth = masks if masks is not None else against
    if truth is None or (masks is not None and against is not None):
        raise ConfigError("a video is evaluated with either masks or against; give one of them")
    options = LabelOptions(
        labels=tuple(labels), table=None if table is None else Path(table), are_complete=masks is not None
    )
    with _predicting(model, threshold) as (predict, limit, min_peak):
        return evaluate_clip(
            predict, Path(video), Path(truth), limit, min_peak=min_peak, options=options, advance=on_progress
        )


def evaluate_records(
    records: PathLike,
    against: PathLike,
    *,
    labels: Sequence[str] = (),
    table: PathLike | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> "VideoEvaluation":
    """Score the records of an annotated video against labels, such as their corrected export.

    Args:
        records: `<name>_polyps.jsonl`, with its summary next to it.
        against: See `evaluate_video`, as for the next three.
        labels: Names of the labels that mean polyp.
        table: The frame table that belongs to the export.
        on_progress: Called with the number of frames done and the total.

    Returns:
        See `evaluate_video`.

    Raises:
        DatasetError: Records or labels cannot be read, or belong to different videos.
    """
    from polypstream.evaluation.evaluate import evaluate_records as evaluate_recording
    from polypstream.evaluation.imports.read import LabelOptions

    options = LabelOptions(labels=tuple(labels), table=None if table is None else Path(table))
    return evaluate_recording(Path(records), Path(against), options=options, advance=on_progress)


@contextmanager
def _predicting(model: "Model | PathLike | None", threshold: float | None) -> "Iterator[tuple[Predict, float, float]]":
    """The function that a model is evaluated by, its threshold and `min_peak`; 0 with a threshold of the caller's."""
    from polypstream.evaluation.predictor import open_predictor
    from polypstream.realtime.inference.model import Model
    from polypstream.realtime.inference.model_input import probability_of_still

    if isinstance(model, Model):
        predict = partial(probability_of_still, model.segmenter, crop=model.contract.crop)
        yield (predict, model.threshold, model.contract.min_peak) if threshold is None else (predict, threshold, 0.0)
        return
    with open_predictor(None if model is None else Path(model)) as predictor:
        own = (predictor.predict, predictor.threshold, predictor.min_peak)
        yield own if threshold is None else (predictor.predict, threshold, 0.0)


def export(
    model: PathLike,
    output: PathLike | None = None,
    *,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    calibration: Sequence[PathLike] = (),
    engine: Literal["onnxruntime", "tensorrt"] = "onnxruntime",
    name: str | None = None,
    version: str | None = None,
    threshold: float = 0.5,
    min_peak: float = 0.0,
    operating_points: "Sequence[OperatingPoint]" = (),
    training_data: str = "not stated",
    license: str = "not stated",
    crop: "CropRule" = "none",
) -> "ExportReport":
    """Export a Keras model to an ONNX file that is verified against Keras (extra `[export]`).

    Args:
        model: A `.keras` file written by `polypstream.train`.
        output: ONNX file to write; None for the model's name with the ending `.onnx`.
        precision: Precision of the arithmetic; `fp16` and `int8` need `calibration`.
        calibration: Folders of images, or data sets, to calibrate a reduced precision.
        engine: Target of an int8 file: ONNX Runtime on a CPU, or TensorRT and OpenVINO.
        name: Name of the model; None for the network's.
        version: Version of the weights; None for the first digits of the file's SHA-256.
        threshold: Probability from which a pixel is polyp.
        min_peak: Probability that a region must reach somewhere, for masks and recordings.
        operating_points: Operating points for live feeds, the default first; empty for one with `threshold`.
        training_data: What the model was trained on.
        license: License of the weights.
        crop: Part of each image that the network was trained on.

    Returns:
        Sizes, timing, and differences from Keras.

    Raises:
        MissingExtraError: The export tools are not installed.
        ModelError: The file is not a network of this package, or the export differs from Keras by more than 1e-5.
        ConfigError: Options contradict each other.
        OutputError: The file cannot be written.
    """
    from polypstream.export.config import ExportConfig
    from polypstream.export.toolchain import load_toolchain, quiet_native_logs

    config = ExportConfig(
        model=Path(model),
        output=Path(model).with_suffix(".onnx") if output is None else Path(output),
        name=name,
        version=version,
        threshold=threshold,
        min_peak=min_peak,
        operating_points=tuple(operating_points),
        training_data=training_data,
        license=license,
        crop=crop,
        precision=precision,
        engine=engine,
        calibration=tuple(Path(folder) for folder in calibration),
    )
    load_toolchain()
    from polypstream.export.exporter import export_model

    with quiet_native_logs():
        return export_model(config)
