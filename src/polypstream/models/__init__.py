"""The trained models that come with the package: one network in several precisions."""

from importlib.resources import as_file, files
from pathlib import Path

from polypstream.errors import ModelError

PLAIN = "resunetpp-lite2.onnx"
INT8 = "resunetpp-lite2-int8.onnx"
FP16 = "resunetpp-lite2-fp16.onnx"
FILES = {
    "onnxruntime": INT8,
    "openvino": INT8,
    "openvino-bf16": PLAIN,
    "onnxruntime-cuda": FP16,
    "onnxruntime-tensorrt": FP16,
    "tensorrt": FP16,
}
"""Model files by backend."""


def default_model(backend: str = "onnxruntime") -> Path:
    """The default ONNX file of a backend; the float32 one for unknown backends."""
    return shipped_model(FILES.get(backend, PLAIN))


def shipped_model(name: str) -> Path:
    """Path of a model file by name. Raises `ModelError` if the package lacks it."""
    with as_file(files(__name__) / name) as path:
        if not path.is_file():
            raise ModelError(f"the package lacks its model {name}; reinstall it, or name one with --model")
        return path
