"""The TensorRT backend: a segmenter that runs an engine, on images in host or GPU memory."""

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import get_ident
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract
from polypstream.errors import BackendError
from polypstream.realtime.cuda import find_device
from polypstream.realtime.inference.base import ContractSize, checked_image, checked_probability
from polypstream.realtime.inference.tensorrt.adapter import load_tensorrt
from polypstream.realtime.inference.tensorrt.builder import BuildConfig
from polypstream.realtime.inference.tensorrt.cache import engine_for, open_engine
from polypstream.realtime.inference.tensorrt.device_frame import device_frame
from polypstream.realtime.inference.tensorrt.engine_file import EngineFile
from polypstream.realtime.inference.tensorrt.progress import BuildProgress
from polypstream.realtime.inference.tensorrt.session import DeviceBuffers, Session


class TensorRtSegmenter(ContractSize):
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
        """Find or build the engine; the GPU is allocated only on entering.

        Args:
            path: An ONNX file or an `.engine` file.
            folder: Cache folder for engines built from ONNX files; None for the user's cache folder.
            config: Settings of the build.
            cuda_graph: Whether to replay inferences as CUDA graphs.
            on_progress: Called with the progress of a build.

        Raises:
            BackendError: There is no driver or GPU, or the engine does not fit.
            ModelError: A file is missing, damaged or not of this package.
            MissingExtraError: TensorRT, cuda-bindings or cuda-core is not installed.
        """
        config = config or BuildConfig()
        if config.targets:
            raise BackendError("an engine built ahead of time for other GPUs cannot be run here; omit the targets")
        self._device = find_device(config.device)
        path = Path(path)
        if path.suffix == ".engine":
            self.engine: EngineFile = open_engine(path, device=config.device)
        else:
            self.engine = engine_for(path, folder, config=config, on_progress=on_progress)
        self._trt = load_tensorrt(self.engine.sidecar.key.flavor)
        self.contract: ModelContract = self.engine.contract
        self._cuda_graph = cuda_graph
        self._session: Session | None = None
        self._graph_refusal: str | None = None
        self._thread = 0

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return "tensorrt"

    @property
    def largest_batch(self) -> int:
        """The largest batch that one call accepts."""
        return self.engine.sidecar.key.largest_batch

    @property
    def uses_graph(self) -> bool:
        """Whether the last inference came from a CUDA graph."""
        return self._session is not None and self._session.uses_graph

    @property
    def graph_refusal(self) -> str | None:
        """Why there is no CUDA graph although one was requested; None if there is no reason."""
        return self._graph_refusal if self._session is None else self._session.graph_refusal

    @property
    def buffers(self) -> DeviceBuffers:
        """Stream and memory on the GPU, for kernels that prepare the input or use the output there."""
        return self._opened().buffers

    def __enter__(self) -> Self:
        if self._session is not None:
            raise BackendError("this engine is already open; use one segmenter per thread")
        self._session = Session(self.engine, trt=self._trt, device=self._device, cuda_graph=self._cuda_graph)
        self._thread = get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._graph_refusal = session.graph_refusal
            session.close(error)

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3) in host memory."""
        probability: Probability = _checked(self._opened().run(checked_image(rgb, self.contract)[None]))[0]
        return probability

    def segment_batch(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width) of n uint8 RGB images (n, height, width, 3) in host memory.

        Raises `BackendError` if n is larger than `largest_batch`.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (self.height, self.width, 3):
            raise BackendError(
                f"the network takes uint8 RGB of (n, {self.height}, {self.width}, 3), "
                f"received {images.dtype} {images.shape}"
            )
        self._check_batch(len(images))
        return _checked(self._opened().run(images))

    def segment_device(self, frame: object) -> NDArray[np.float32]:
        """Probability, in host memory, of a frame in GPU memory, which is not copied.

        `frame` is uint8 RGB, contiguous, (height, width, 3) or (n, height, width, 3), with DLPack or
        `__cuda_array_interface__`: an array of PyTorch, CuPy, or PyCUDA (`import pycuda.autoprimaryctx`).
        Returns (height, width) for a single frame, else (n, height, width). The GPU is done with the frame on return.
        """
        session = self._opened()
        stream = session.buffers.stream
        taken = device_frame(frame, height=self.height, width=self.width, device=self._device, stream=stream)
        self._check_batch(taken.batch)
        probabilities = _checked(session.run_at(taken.address, taken.batch))
        return probabilities[0] if taken.is_single else probabilities

    def in_parallel(self) -> Sequence["TensorRtSegmenter"]:
        """Only this one: it uses the whole GPU."""
        return (self,)

    def _opened(self) -> Session:
        if self._session is None:
            raise BackendError("the TensorRT segmenter is not open; use it in a with block")
        if get_ident() != self._thread:
            raise BackendError(
                "the TensorRT segmenter was opened in another thread; open it in the thread that uses it, "
                "and give each thread its own"
            )
        return self._session

    def _check_batch(self, count: int) -> None:
        if count < 1:
            raise BackendError("there are no images to segment; give at least one")
        if count > self.largest_batch:
            raise BackendError(
                f"a batch of {count} is larger than the {self.largest_batch} this engine was built for; give fewer "
                f"images, or build one with: polypstream build {self.engine.sidecar.onnx_name} --batch {count}"
            )


def _checked(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    return checked_probability(probabilities[..., 0])
