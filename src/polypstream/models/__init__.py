"""The trained models that come with the package: one network, in the precision that each runtime is fastest with."""

from importlib.resources import as_file, files
from pathlib import Path

from polypstream.errors import ModelError

PLAIN = "resunetpp-r50.onnx"
INT8 = "resunetpp-r50-int8.onnx"
FP16 = "resunetpp-r50-fp16.onnx"
FILES = {
    "onnxruntime": INT8,
    "openvino": INT8,
    "openvino-bf16": PLAIN,
    "onnxruntime-cuda": FP16,
    "onnxruntime-tensorrt": FP16,
    "tensorrt": FP16,
}
"""By backend."""


def default_model(backend: str = "onnxruntime") -> Path:
    """The ONNX file that a backend uses where none is named; the float32 one for a backend not known here."""
    return shipped_model(FILES.get(backend, PLAIN))


def shipped_model(name: str) -> Path:
    """One of the package's files by its name. Raises `ModelError` where the package came without it."""
    with as_file(files(__name__) / name) as path:
        if not path.is_file():
            raise ModelError(f"the package comes without its model {name}; reinstall it, or name one with --model")
        return path
