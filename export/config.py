"""What an export is asked to do, checked before the heavy tools are loaded."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

from polypstream.errors import ConfigError, ModelError

NOT_STATED = "not stated"


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

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ConfigError(f"the threshold is {self.threshold}; it must lie between 0 and 1")
        for side in (self.height, self.width):
            if side is not None and (side < 8 or side % 8):
                raise ConfigError(f"a side of the input is {side}; --height and --width must be multiples of 8")
        _check_is_keras_file(self.model)
        if self.output.suffix != ".onnx":
            raise ConfigError(f"the output is named {self.output.name}; give a name that ends in .onnx")


def _check_is_keras_file(path: Path) -> None:
    if not path.exists():
        raise ModelError(f"{path} does not exist; give the .keras file that polypstream train wrote")
    if not zipfile.is_zipfile(path):
        raise ModelError(f"{path} is not a .keras file; give the one that polypstream train wrote")
