"""The third-party tools of the export stage: loads them on TensorFlow and keeps their chatter off the terminal."""

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
    """Import the tools with Keras on TensorFlow, the one backend that tf2onnx can trace.

    Sets the environment variable KERAS_BACKEND of this process, and nothing else: Keras reads its backend from there.
    Raises `MissingExtraError` where a tool is not installed, `ConfigError` where Keras already runs on another backend.
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
            f"Keras runs on {backend} here, export needs it on tensorflow; export in a process of its own"
        )
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)


@contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Hold back what is written to standard error, which TensorFlow's C++ side uses whatever its log level.

    An error that was not raised on purpose brings the held-back text out again: it may say why.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held_back:
        terminal = os.dup(2)
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except PolypstreamError:
            raise
        except Exception:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
