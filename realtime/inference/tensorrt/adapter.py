"""Imports TensorRT (`tensorrt` 10 or 11, else `tensorrt_rtx`) and collects its log messages."""

import importlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, SupportsInt, cast

from polypstream.errors import BackendError, MissingExtraError

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt import api

Flavor = Literal["tensorrt", "rtx"]

MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""The module of each flavor, in order of preference."""
_PRODUCTS: dict[Flavor, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}


class Watch:
    """The messages that TensorRT logged within a `with` block, newest last."""

    CAPACITY = 200
    """Number of messages kept."""

    def __init__(self) -> None:
        self.messages: deque[str] = deque(maxlen=self.CAPACITY)

    @property
    def reason(self) -> str:
        """The last message, shortened to one line of an error."""
        return shortened(self.messages[-1]) if self.messages else "TensorRT gives no reason"


class Log:
    """Warnings and errors of TensorRT, written from any thread, never to standard error."""

    def __init__(self) -> None:
        self._watches: list[Watch] = []

    def record(self, message: str) -> None:
        """Give a message, on one line, to all who watch."""
        for watch in tuple(self._watches):
            watch.messages.append(" ".join(message.split()))

    @contextmanager
    def watching(self) -> Iterator[Watch]:
        """Collect the messages logged within the block."""
        watch = Watch()
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)


@dataclass(frozen=True, kw_only=True)
class TensorRt:
    """The installed TensorRT, with the one logger that all of its objects share."""

    flavor: Flavor
    version: str
    module: "api.Module"
    logger: "api.ILogger"
    log: Log

    @property
    def product(self) -> str:
        """TensorRT or TensorRT-RTX, with the version."""
        return f"{_PRODUCTS[self.flavor]} {self.version}"

    @property
    def rtx(self) -> "api.RtxModule | None":
        """The part of the module that only TensorRT-RTX has; None for TensorRT."""
        return cast("api.RtxModule", self.module) if self.flavor == "rtx" else None


@cache
def load_tensorrt(flavor: Flavor | None = None) -> TensorRt:
    """Import TensorRT: the given flavor, or the first that is installed.

    Needs no GPU and no driver.

    Raises:
        MissingExtraError: It is not installed.
        BackendError: It is installed but cannot be loaded.
    """
    broken = []
    for candidate in (flavor,) if flavor else MODULES:
        try:
            module = importlib.import_module(MODULES[candidate])
            version = str(module.__version__)
        except ModuleNotFoundError:
            continue
        except Exception as error:  # noqa: BLE001 - its import loads libraries and fails in many ways
            broken.append(f"{MODULES[candidate]} is installed but cannot be loaded ({shortened(str(error))})")
            continue
        log = Log()
        logger = _recorder(module, log)
        return TensorRt(flavor=candidate, version=version, module=cast("api.Module", module), logger=logger, log=log)
    if broken:
        raise BackendError(f"{'; '.join(broken)}; reinstall it, or use the onnxruntime backend")
    if flavor == "rtx":
        raise MissingExtraError("TensorRT-RTX", "rtx")
    raise MissingExtraError("TensorRT", "tensorrt")


def shortened(message: str, limit: int = 300) -> str:
    """The message on one line, truncated to `limit` characters."""
    line = " ".join(message.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _recorder(module: ModuleType, log: Log) -> "api.ILogger":
    base: Any = module.ILogger
    least_severe = int(module.ILogger.WARNING)

    class Recorder(base):  # type: ignore[misc]
        """Called from C++, where an exception would end the process."""

        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: SupportsInt, message: str) -> None:
            if int(severity) <= least_severe:
                log.record(message)

    return cast("api.ILogger", Recorder())
