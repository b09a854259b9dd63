"""The one door to TensorRT: `tensorrt` 10 or 11 where it is installed, else `tensorrt_rtx`."""

import importlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from types import ModuleType
from typing import Any, Literal, SupportsInt, cast

from polypstream.errors import BackendError, MissingExtraError
from polypstream.realtime.tensorrt import api

Flavour = Literal["tensorrt", "rtx"]

MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""The module of each flavour, in the order of preference."""
_PRODUCTS: dict[Flavour, str] = {"tensorrt": "TensorRT", "rtx": "TensorRT-RTX"}


class Log:
    """What TensorRT warned of and failed at, newest last; written from any thread, never to standard error."""

    CAPACITY = 200
    """Messages kept."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._messages: deque[tuple[int, str]] = deque(maxlen=self.CAPACITY)
        self._count = 0

    def record(self, message: str) -> None:
        """Keep one message."""
        with self._lock:
            self._count += 1
            self._messages.append((self._count, " ".join(message.split())))

    @contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Collects what is said from here on."""
        with self._lock:
            watch = Watch(self, self._count)
        yield watch

    def since(self, count: int) -> list[str]:
        """The messages after the first `count` ever recorded."""
        with self._lock:
            return [message for number, message in self._messages if number > count]


@dataclass(frozen=True)
class Watch:
    """The messages since a moment."""

    log: Log
    count: int

    @property
    def messages(self) -> list[str]:
        """Oldest first."""
        return self.log.since(self.count)

    @property
    def reason(self) -> str:
        """The last message, shortened to fit an error's one line."""
        messages = self.messages
        return shortened(messages[-1]) if messages else "TensorRT gives no reason"


@dataclass(frozen=True, kw_only=True)
class TensorRt:
    """The installed TensorRT, with the one logger that all of its objects share."""

    flavour: Flavour
    version: str
    module: api.Module
    logger: api.ILogger
    log: Log

    @property
    def product(self) -> str:
        """TensorRT or TensorRT-RTX, with the version."""
        return f"{_PRODUCTS[self.flavour]} {self.version}"

    @property
    def rtx(self) -> api.RtxModule | None:
        """What only TensorRT-RTX has; None for the other."""
        return cast(api.RtxModule, self.module) if self.flavour == "rtx" else None


@cache
def load_tensorrt(flavour: Flavour | None = None) -> TensorRt:
    """Import TensorRT: the given flavour, or the first that is installed.

    Needs no GPU and no driver. Raises `MissingExtraError` where none is installed, `BackendError` where it is
    installed and cannot be loaded.
    """
    broken = []
    for candidate in (flavour,) if flavour else MODULES:
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
        return TensorRt(flavour=candidate, version=version, module=cast(api.Module, module), logger=logger, log=log)
    if broken:
        raise BackendError(f"{'; '.join(broken)}; install it again, or use --backend onnxruntime")
    if flavour == "rtx":
        raise MissingExtraError("TensorRT-RTX", "rtx")
    raise MissingExtraError("TensorRT", "tensorrt")


def shortened(message: str, limit: int = 300) -> str:
    """The message on one line, cut where it runs on."""
    line = " ".join(message.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _recorder(module: ModuleType, log: Log) -> api.ILogger:
    base: Any = module.ILogger
    worst_of_no_interest = int(module.ILogger.WARNING)

    class Recorder(base):  # type: ignore[misc]
        """Called from C++, where an exception would end the process."""

        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: SupportsInt, message: str) -> None:
            if int(severity) <= worst_of_no_interest:
                log.record(message)

    return cast(api.ILogger, Recorder())
