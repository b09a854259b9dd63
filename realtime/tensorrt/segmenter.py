"""The TensorRT backend: a segmenter that runs an engine, for pictures on the host and on the GPU."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polypstream.contract import ModelContract
from polypstream.errors import BackendError
from polypstream.realtime.backends.base import OfContract
from polypstream.realtime.backends.checks import checked_picture, checked_probability
from polypstream.realtime.frame import Probability, Rgb
from polypstream.realtime.tensorrt.adapter import load_tensorrt
from polypstream.realtime.tensorrt.builder import BuildConfig
from polypstream.realtime.tensorrt.cache import engine_for, open_engine
from polypstream.realtime.tensorrt.cuda import find_device
from polypstream.realtime.tensorrt.engine_file import EngineFile
from polypstream.realtime.tensorrt.progress import BuildProgress
from polypstream.realtime.tensorrt.session import Session


class TensorRtSegmenter(OfContract):
    """Runs a model in TensorRT or TensorRT-RTX on an NVIDIA GPU.

    A context manager: the GPU's resources are opened in the thread that enters it, belong to that thread, and are freed
    on leaving; it may be entered again. Two threads need two segmenters.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        folder: Path | None = None,
        config: BuildConfig | None = None,
        cuda_graph: bool = True,
        on_progress: Callable[[BuildProgress], None] | None = None,
    ) -> None:
        """Find or build the engine, without holding the GPU yet.

        `path` is an ONNX file, whose engine is kept in `folder` (the user's cache folder if None), or an `.engine`
        file. Raises `BackendError` where there is no driver, no GPU, or the engine does not fit; `ModelError` where
        a file is missing, damaged or not ours; `MissingExtraError` where TensorRT or cuda-bindings is not installed.
        """
        config = config or BuildConfig()
        if config.targets:
            raise BackendError("an engine built ahead of time for other GPUs cannot be run; leave the targets out")
        self._device = find_device(config.device)
        path = Path(path)
        if path.suffix == ".engine":
            self.engine: EngineFile = open_engine(path, device=config.device)
        else:
            self.engine = engine_for(path, folder, config=config, on_progress=on_progress)
        trt = load_tensorrt(self.engine.sidecar.key.flavour)
        self.contract: ModelContract = self.engine.contract
        self.notices: tuple[str, ...] = ()
        self._session = Session(self.engine, trt=trt, device=self._device, cuda_graph=cuda_graph)

    @property
    def largest_batch(self) -> int:
        """Pictures that one call may hold."""
        return self.engine.sidecar.key.batch.largest

    @property
    def uses_graph(self) -> bool:
        """Whether the last inference came from a CUDA graph."""
        return self._session.uses_graph

    @property
    def graph_refusal(self) -> str | None:
        """Why there is no CUDA graph although one was wanted; None while nothing speaks against it."""
        return self._session.graph_refusal

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB picture (height, width, 3) on the host."""
        probability: Probability = _checked(self._session.run(checked_picture(rgb, self.contract)[None]))[0]
        return probability

    def segment_batch(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width) of n uint8 RGB pictures (n, height, width, 3) on the host.

        Raises `BackendError` where n is more than `largest_batch`.
        """
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[1:] != (self.height, self.width, 3):
            raise BackendError(
                f"the network takes uint8 RGB of (n, {self.height}, {self.width}, 3), "
                f"received {pictures.dtype} {pictures.shape}"
            )
        self._session.check_batch(len(pictures))
        return _checked(self._session.run(pictures))

    def segment_device(self, frame: object) -> NDArray[np.float32]:
        """Probability, on the host, of a frame that lies on the GPU and is not copied.

        `frame` is uint8 RGB, contiguous, (height, width, 3) or (n, height, width, 3), with DLPack or
        `__cuda_array_interface__`: an array of PyTorch, CuPy, or PyCUDA (`import pycuda.autoprimaryctx`).
        Returns (height, width) for one picture, else (n, height, width). The GPU is done with the frame on return.
        """
        return _checked(self._session.run_on_device(frame))

    def in_parallel(self) -> Sequence["TensorRtSegmenter"]:
        """This one alone: it has the GPU to itself."""
        return (self,)


def _checked(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return checked_probability(probabilities[..., 0])
