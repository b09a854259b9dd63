"""From a model file to something that segments: which backends there are, and which one `auto` takes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ConfigError, MissingExtraError, ProviderMissingError
from polypstream.realtime.frame import Probability, Rgb

AUTO = "auto"
TRIALS = 4
"""Pictures each candidate is timed on, the first of them not counted."""


class Segmenter(Protocol):
    """A model in some runtime. Built anywhere, entered and used in one thread: a GPU context belongs to it."""

    contract: ModelContract
    notices: tuple[str, ...]
    """Facts for the user about how this backend came to be used, one line each."""

    @property
    def height(self) -> int:
        """Rows of the picture the network takes."""
        ...

    @property
    def width(self) -> int:
        """Columns of the picture the network takes."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3).

        Raises `BackendError` where the network returns anything but numbers in [0, 1].
        """
        ...

    def in_parallel(self) -> Sequence["Segmenter"]:
        """Equal segmenters, for a thread each, that together do the most pictures a second; often this one alone."""
        ...


Opener = Callable[[Path, int | None], Segmenter]


def _onnxruntime(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.backends.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, threads=threads)


def _onnxruntime_cuda(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.backends.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, provider="CUDA", threads=threads)


def _onnxruntime_tensorrt(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.backends.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, provider="Tensorrt", threads=threads)


def _openvino(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.backends.openvino import OpenVinoSegmenter

    return OpenVinoSegmenter(path, threads=threads)


def _openvino_bf16(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.backends.openvino import OpenVinoSegmenter

    return OpenVinoSegmenter(path, precision="bf16", threads=threads)


def _tensorrt(path: Path, _: int | None) -> Segmenter:
    from polypstream.realtime.tensorrt.segmenter import TensorRtSegmenter

    return TensorRtSegmenter(path)


BACKENDS: Mapping[str, Opener] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "tensorrt": _tensorrt,
}
CANDIDATES = ("onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
"""What `auto` tries. Those that change the arithmetic of the model have to be asked for by name."""


ModelChoice = Callable[[str], Path]
"""Gives, for a backend, the file of one network that suits it best, as `polypstream.models.default_model` does."""


def segmenter_from_onnx(
    model: Path | str | ModelChoice, *, backend: str = AUTO, threads: int | None = None
) -> Segmenter:
    """Open a model, a file or a choice of files; `auto` times every backend that works here and takes the fastest.

    `threads` is how many CPU threads one inference may use; None means all cores. Raises `ModelError` where the file
    is not one of ours, `ConfigError` for an unknown backend, `BackendError` or `MissingExtraError` where the one named
    does not work here.
    """
    file_for = model if callable(model) else lambda _: Path(model)
    if backend == AUTO:
        return _fastest(file_for, threads, CANDIDATES)
    if backend not in BACKENDS:
        raise ConfigError(f"there is no backend '{backend}'; choose one of {', '.join((AUTO, *BACKENDS))}")
    return BACKENDS[backend](file_for(backend), threads)


def _fastest(file_for: ModelChoice, threads: int | None, candidates: Sequence[str]) -> Segmenter:
    opened, problems = _opened(file_for, threads, candidates)
    times: dict[str, float] = {}
    for name, segmenter in opened.items() if len(opened) > 1 else ():
        try:
            times[name] = time_per_picture_ms(segmenter)
        except BackendError as error:
            problems.append(f"backend {name} is passed over: {error}")
    names = sorted(times, key=lambda name: times[name]) if len(opened) > 1 else list(opened)
    if not names:
        raise BackendError("; ".join(problems) or "no backend works here; see: polypstream doctor")
    if len(times) > 1:
        measured = ", ".join(f"{name} {times[name]:.0f} ms" for name in names)
        problems.append(f"backend {names[0]}, the fastest here: {measured} a picture")
    chosen = opened[names[0]]
    chosen.notices = tuple(problems)
    return chosen


def _opened(file_for: ModelChoice, threads: int | None, names: Sequence[str]) -> tuple[dict[str, Segmenter], list[str]]:
    """Those backends that open the model, and a line for each that is installed and does not."""
    opened, problems = {}, []
    for name in names:
        try:
            opened[name] = BACKENDS[name](file_for(name), threads)
        except (MissingExtraError, ProviderMissingError):
            continue
        except BackendError as error:
            problems.append(f"backend {name} is passed over: {error}")
    return opened, problems


def time_per_picture_ms(segmenter: Segmenter) -> float:
    """Median milliseconds per picture over a few, on noise."""
    picture = np.random.default_rng(0).integers(0, 256, (segmenter.height, segmenter.width, 3), dtype=np.uint8)
    times = []
    with segmenter:
        for _ in range(TRIALS):
            began = perf_counter()
            segmenter.segment(picture)
            times.append((perf_counter() - began) * 1000)
    return median(times[1:])
