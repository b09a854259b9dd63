"""Third-party export tools: loads them with Keras on TensorFlow and silences their log output."""

import importlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from polypstream.errors import ConfigError, MissingExtraError, PolypstreamError

TOOLS = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxslim")


def load_toolchain() -> None:
    """Import the tools with Keras on TensorFlow, the only backend that tf2onnx can trace.

    Sets the environment variable KERAS_BACKEND of this process, from which Keras reads its backend.

    Raises:
        MissingExtraError: A tool is not installed.
        ConfigError: Keras is already running on another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "tensorflow"
    with quiet_native_logs():
        try:
            for tool in TOOLS:
                importlib.import_module(tool)
        except ImportError as error:
            raise MissingExtraError("polypstream export", "export") from error
    backend = importlib.import_module("keras").backend.backend()
    if backend != "tensorflow":
        raise ConfigError(
            f"Keras runs on {backend} in this process, but export needs tensorflow; run the export in a new process"
        )
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)


@contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Capture standard error, to which TensorFlow's C++ code writes regardless of its log level.

    The captured text is printed if an unexpected exception occurs, as it may contain the reason.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        terminal = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except PolypstreamError:
            raise
        except Exception:  # of any tool; raised again after the captured text
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
