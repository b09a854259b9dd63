"""What an export is asked to do, checked before the heavy tools are loaded."""

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from polypstream.errors import ConfigError, ModelError

NOT_STATED = "not stated"

Precision = Literal["fp32", "fp16", "int8"]
Engine = Literal["onnxruntime", "tensorrt"]
Rewriting = Literal["optimised", "plain"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What goes into the file besides the network: where None stands, the Keras file answers.

    Raises `ModelError` where the model is no Keras file, `ConfigError` where another value makes no sense.
    """

    model: Path
    output: Path
    name: str | None = None
    """None: the network's own name."""
    version: str | None = None
    """Version of the weights; None: the first 12 digits of the Keras file's SHA-256."""
    threshold: float = 0.5
    training_data: str = NOT_STATED
    licence: str = NOT_STATED
    height: int | None = None
    width: int | None = None
    precision: Precision = "fp32"
    engine: Engine = "onnxruntime"
    """What an int8 file is for: ONNX Runtime on a CPU; or TensorRT, whose style OpenVINO likes as well."""
    rewriting: Rewriting = "optimised"
    """Plain: the graph as Keras has it, to measure the optimised one against."""
    calibration: tuple[Path, ...] = ()
    """Folders of images, or data sets, that fp16 and int8 are fitted to."""
    splits: Path | None = None
    """Splits file that tells the training images of `calibration`; None: all of them are."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; it must lie between 0 and 1")
        for side in (self.height, self.width):
            if side is not None and (side < 8 or side % 8):
                raise ConfigError(f"a side of the input is {side}; --height and --width must be multiples of 8")
        self._check_precision()
        _check_is_keras_file(self.model)
        if self.output.suffix != ".onnx":
            raise ConfigError(f"the output is named {self.output.name}; give a name that ends in .onnx")

    def _check_precision(self) -> None:
        for value, known in ((self.precision, Precision), (self.engine, Engine), (self.rewriting, Rewriting)):
            if value not in get_args(known):
                raise ConfigError(f"'{value}' is unknown; choose one of {', '.join(get_args(known))}")
        if self.precision == "fp32" and (self.calibration or self.splits):
            raise ConfigError("an fp32 export needs no pictures; leave --calibration out, or ask for another precision")
        if self.precision != "fp32" and not self.calibration:
            raise ConfigError(
                f"an {self.precision} export is fitted to pictures; give a folder of images with --calibration"
            )
        if self.precision != "fp32" and self.rewriting == "plain":
            raise ConfigError(f"an {self.precision} export is made of the optimised graph; --plain goes with fp32")


def _check_is_keras_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"{path} does not exist; give the .keras file that polypstream train wrote")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is not a .keras file; give the one that polypstream train wrote")
