"""Settings of an export, checked before the heavy tools are loaded."""

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from polypstream.content import CropRule
from polypstream.contract import OperatingPoint
from polypstream.errors import ConfigError, ModelError

NOT_STATED = "not stated"

Precision = Literal["fp32", "fp16", "int8"]
Engine = Literal["onnxruntime", "tensorrt"]
Rewriting = Literal["optimized", "plain"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of one export; None means the value stored in the Keras file.

    Raises:
        ModelError: `model` does not exist or is not a Keras file.
        ConfigError: Another value is out of range, or the values do not fit together.
    """

    model: Path
    output: Path
    name: str | None = None
    """Name of the model; None: the network's own name."""
    version: str | None = None
    """Version of the weights; None: the first 12 digits of the Keras file's SHA-256."""
    threshold: float = 0.5
    min_peak: float = 0.0
    """Probability that a region must reach somewhere, for masks and recordings."""
    operating_points: tuple[OperatingPoint, ...] = ()
    """Operating points for live video; empty: a single one with `threshold`."""
    training_data: str = NOT_STATED
    license: str = NOT_STATED
    crop: CropRule = "none"
    """Part of each frame that the model was trained on."""
    temperature: float = 1.0
    """Divisor of the logits, so that a probability of 0.7 means 70%; 0.5 is unaffected."""
    height: int | None = None
    width: int | None = None
    precision: Precision = "fp32"
    engine: Engine = "onnxruntime"
    """Runtime that an int8 file is made for. OpenVINO runs the `tensorrt` style well, too."""
    rewriting: Rewriting = "optimized"
    """`plain` writes the unoptimized graph, as a baseline for measurements."""
    calibration: tuple[Path, ...] = ()
    """Folders of images, or data sets, used to calibrate fp16 and int8."""
    splits: Path | None = None
    """Splits file that names the training images of `calibration`; None: all are used."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; it must be between 0 and 1")
        if not 0 <= self.min_peak < 1:
            raise ConfigError(f"min_peak is {self.min_peak}; it must be from 0 to below 1")
        if not 0.1 <= self.temperature <= 10:
            raise ConfigError(f"the temperature is {self.temperature}; it must be between 0.1 and 10")
        for side in (self.height, self.width):
            if side is not None and (side < 8 or side % 8):
                raise ConfigError(f"the input has a side of {side} pixels; --height and --width must be multiples of 8")
        self._check_precision()
        _check_is_keras_file(self.model)
        if self.output.suffix != ".onnx":
            raise ConfigError(f"the output is named {self.output.name}; use a name that ends in .onnx")

    def _check_precision(self) -> None:
        for value, known in (
            (self.precision, Precision),
            (self.engine, Engine),
            (self.rewriting, Rewriting),
            (self.crop, CropRule),
        ):
            if value not in get_args(known):
                raise ConfigError(f"'{value}' is unknown; choose one of {', '.join(get_args(known))}")
        if self.precision == "fp32" and (self.calibration or self.splits):
            raise ConfigError("an fp32 export needs no images; omit --calibration, or choose another precision")
        if self.precision != "fp32" and not self.calibration:
            raise ConfigError(
                f"an {self.precision} export is calibrated on images; give a folder of images with --calibration"
            )
        if self.precision != "fp32" and self.rewriting == "plain":
            raise ConfigError(f"an {self.precision} export requires the optimized graph; --plain only works with fp32")


def _check_is_keras_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"{path} does not exist; give the .keras file written by polypstream train")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is not a .keras file; give the one written by polypstream train")


def operating_points_from_json(path: Path) -> tuple[OperatingPoint, ...]:
    """Read operating points from a file: a JSON list of objects with the fields of `OperatingPoint`.

    Args:
        path: The file; `name` and `threshold` are required in each object.

    Returns:
        The operating points, in the order of the file: the first is the default.

    Raises:
        ConfigError: The file cannot be read, or a field is missing, unknown or out of range.
    """
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}); check --operating-points") from error
    if not isinstance(listed, list) or not listed or not all(isinstance(point, dict) for point in listed):
        raise ConfigError(f'{path} must contain a list such as [{{"name": "sensitive", "threshold": 0.75}}]')
    try:
        return tuple(OperatingPoint(**point) for point in listed)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from None
