"""Opens a model in an inference backend: the list of backends, and automatic selection."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError, ConfigError, MissingExtraError, ModelError, ProviderMissingError
from polypstream.models import default_model
from polypstream.realtime.inference.averaged import AveragedSegmenter
from polypstream.realtime.inference.base import reason_of
from polypstream.realtime.inference.fallback import Candidate, FallbackSegmenter, Notices

AUTO = "auto"
TRITON = "triton"
"""Backend on a server, which is opened by an address instead of a file."""
PATIENCE_S = 30.0
"""Time in seconds for which an inference is tried again while the server is away."""
TRIALS = 4
"""Number of images on which each candidate is timed; the first is a warm-up."""


class Segmenter(Protocol):
    """A model in a runtime. It must be entered and used in the same thread, which owns the GPU context."""

    contract: ModelContract

    @property
    def backend(self) -> str:
        """Name of the backend, a key of `BACKENDS` or `TRITON`."""
        ...

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the selection of this backend; may grow during inference."""
        ...

    @property
    def height(self) -> int:
        """Height of the network's input in pixels."""
        ...

    @property
    def width(self) -> int:
        """Width of the network's input in pixels."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3).

        Raises `BackendError` if the network returns values outside [0, 1] or NaN.
        """
        ...

    def in_parallel(self) -> Sequence["Segmenter"]:
        """Equal segmenters, one per thread, that together reach the highest throughput; often only this one."""
        ...


Opener = Callable[[Path, int | None], Segmenter]


def _onnxruntime(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, threads=threads)


def _onnxruntime_cuda(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, provider="CUDA", threads=threads)


def _onnxruntime_tensorrt(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter

    return OnnxRuntimeSegmenter(path, provider="Tensorrt", threads=threads)


def _openvino(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.inference.openvino import OpenVinoSegmenter

    return OpenVinoSegmenter(path, threads=threads)


def _openvino_bf16(path: Path, threads: int | None) -> Segmenter:
    from polypstream.realtime.inference.openvino import OpenVinoSegmenter

    return OpenVinoSegmenter(path, precision="bf16", threads=threads)


def _tensorrt(path: Path, _: int | None, *, batches: bool = False) -> Segmenter:
    from polypstream.realtime.inference.tensorrt.builder import LARGEST_BATCH, BuildConfig
    from polypstream.realtime.inference.tensorrt.segmenter import TensorRtSegmenter

    return TensorRtSegmenter(path, config=BuildConfig(batch=LARGEST_BATCH) if batches else None)


BACKENDS: Mapping[str, Opener] = {
    "onnxruntime": _onnxruntime,
    "onnxruntime-cuda": _onnxruntime_cuda,
    "onnxruntime-tensorrt": _onnxruntime_tensorrt,
    "openvino": _openvino,
    "openvino-bf16": _openvino_bf16,
    "tensorrt": _tensorrt,
}
CANDIDATES = ("onnxruntime", "openvino", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt")
"""Backends that `auto` tries. Those that change the precision of the model must be named."""


ModelChoice = Callable[[str], Path]
"""Returns the most suitable model file for a backend, as `polypstream.models.default_model` does."""


def segmenter_from_onnx(
    model: Path | str | ModelChoice | None,
    *,
    backend: str = AUTO,
    threads: int | None = None,
    accurate: bool = False,
    url: str | None = None,
    patience_s: float = PATIENCE_S,
    batches: bool = False,
) -> Segmenter:
    """Open a model in an inference backend.

    Args:
        model: An ONNX file, a function that selects one by backend, or None for `default_model`.
        backend: A key of `BACKENDS`; or `auto`, which times every backend that works here, uses the fastest, and
            changes to the next one if it fails while running; or `TRITON`, which uses `url` and no `model`.
        threads: CPU threads that one inference may use; None for all cores.
        accurate: Average several views of each image, see `AveragedSegmenter`.
        url: Address of a model on a Triton server, see `TritonSegmenter`.
        patience_s: Time in seconds for which an inference is tried again while the server is away.
        batches: Whether to build engines that take several images per inference, for a `SharedSegmenter`; only the
            backend `tensorrt` builds engines.

    Raises:
        ModelError: The file is missing, damaged or has no contract.
        ConfigError: The backend is unknown.
        BackendError: The named backend does not work here; with `auto`, none does.
        MissingExtraError: The named backend is not installed.
    """
    if backend not in (AUTO, TRITON, *BACKENDS):
        raise ConfigError(f"there is no backend '{backend}'; choose one of {', '.join((AUTO, *BACKENDS, TRITON))}")
    if url is not None and backend != TRITON:
        raise ConfigError(f"the address {url} needs the backend {TRITON}; it is {backend}")
    if backend == TRITON:
        segmenter = _on_server(url, model, patience_s=patience_s)
    elif backend == AUTO:
        segmenter = _fastest(_file_choice(model), threads, CANDIDATES, batches=batches)
    else:
        segmenter = _opener(backend, batches=batches)(_file_choice(model)(backend), threads)
    return AveragedSegmenter(segmenter) if accurate else segmenter


def _opener(name: str, *, batches: bool) -> Opener:
    return partial(_tensorrt, batches=True) if batches and name == "tensorrt" else BACKENDS[name]


def _file_choice(model: Path | str | ModelChoice | None) -> ModelChoice:
    if model is None:
        return default_model
    return model if callable(model) else lambda _: Path(model)


def _on_server(url: str | None, model: Path | str | ModelChoice | None, *, patience_s: float) -> Segmenter:
    from polypstream.realtime.inference.triton import TritonSegmenter

    if url is None:
        raise ConfigError("the triton backend needs the server's address; give --url HOST:PORT/MODEL")
    if model is not None:
        raise ConfigError("the triton backend uses the model of the server; name it in --url HOST:PORT/MODEL")
    return TritonSegmenter(url, patience_s=patience_s)


def _fastest(file_for: ModelChoice, threads: int | None, names: Sequence[str], *, batches: bool) -> Segmenter:
    openers = {name: _opener(name, batches=batches) for name in names}
    opened, problems = _opened(file_for, threads, openers)
    notices, times = Notices(lines=[]), dict[str, float]()
    for name, segmenter in opened.items() if len(opened) > 1 else ():
        try:
            times[name] = time_per_image_ms(segmenter)
        except Exception as error:  # noqa: BLE001 - a runtime fails with exceptions of any class
            problems[name] = error
    ranking = sorted(times, key=lambda name: times[name]) if len(opened) > 1 else list(opened)
    for name, problem in problems.items():
        notices.add(f"backend {name} is not used: {reason_of(problem)}")
    if not ranking:
        damaged = [problem for problem in problems.values() if isinstance(problem, ModelError)]
        raise (
            damaged[0]
            if damaged
            else BackendError("; ".join(notices.lines) or "no backend works here; see: polypstream doctor")
        )
    if len(times) > 1:
        measured = ", ".join(f"{name} {times[name]:.0f} ms" for name in ranking)
        notices.add(f"backend {ranking[0]}, the fastest here: {measured} per image")
    rest = [Candidate(name=name, open=partial(openers[name], file_for(name))) for name in ranking[1:]]
    return FallbackSegmenter(opened[ranking[0]], rest, notices=notices, threads=threads)


def _opened(
    file_for: ModelChoice, threads: int | None, openers: Mapping[str, Opener]
) -> tuple[dict[str, Segmenter], dict[str, Exception]]:
    """Open the model in each backend; returns those that work, and notices about installed ones that do not."""
    opened, problems = dict[str, Segmenter](), dict[str, Exception]()
    for name, opener in openers.items():
        try:
            opened[name] = opener(file_for(name), threads)
        except (MissingExtraError, ProviderMissingError):
            continue
        except Exception as error:  # noqa: BLE001 - a runtime fails with exceptions of any class
            problems[name] = error
    return opened, problems


def time_per_image_ms(segmenter: Segmenter) -> float:
    """Median milliseconds per image over a few images of noise."""
    image = np.random.default_rng(0).integers(0, 256, (segmenter.height, segmenter.width, 3), dtype=np.uint8)
    times = []
    with segmenter:
        for _ in range(TRIALS):
            began = perf_counter()
            segmenter.segment(image)
            times.append((perf_counter() - began) * 1000)
    return median(times[1:])
