"""The trained models that come with the package."""

from importlib.resources import as_file, files
from pathlib import Path

from polypstream.errors import ModelError

DEFAULT = "resunetpp.onnx"


def default_model(backend: str = "onnxruntime") -> Path:
    """The ONNX file that a backend uses where none is named."""
    del backend  # one file serves them all
    with as_file(files(__name__) / DEFAULT) as path:
        if not path.is_file():
            raise ModelError(f"the package comes without its model {DEFAULT}; reinstall it, or name one with --model")
        return path
