"""The steps of a stream on an NVIDIA GPU: NVDEC, the native module's kernels, TensorRT, NVENC."""

import importlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

from benchmarks.gpu.lanes import STYLE, Encoder, Lane, endless_frames
from benchmarks.gpu.progress import Unavailable
from benchmarks.gpu.timing import seconds_of
from polypstream.realtime import native
from polypstream.realtime.cuda import Device, core, find_device, imported, reported, select
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.inference.tensorrt.adapter import load_tensorrt
from polypstream.realtime.inference.tensorrt.builder import LARGEST_BATCH, BuildConfig
from polypstream.realtime.inference.tensorrt.segmenter import TensorRtSegmenter
from polypstream.realtime.outlines.drawing import CASING_RGB, marker_band
from polypstream.realtime.video.color import color_values
from polypstream.realtime.video.device import (
    FrameKernel,
    hardware_for,
    is_on_device,
    kernels,
    plane_rows,
)

COPIES = 8
"""Copies per measurement, so that waiting for the last one does not count much."""


class CudaPlatform:
    """The first GPU of this machine; see `Platform`.

    Raises `BackendError` or `MissingExtraError` if there is none, or no CUDA for Python.

    Args:
        engines: Folder in which engines are kept from one run to the next.
    """

    def __init__(self, engines: Path) -> None:
        self.device: Device = find_device()
        self._engines = engines

    def describe(self) -> dict[str, object]:
        """Name, memory, TensorRT and CUDA."""
        runtime = imported("cuda.bindings.runtime")
        return {
            "device": self.device.name,
            "compute_capability": self.device.compute_capability,
            "memory_gib": round(self.device.memory_bytes / 2**30, 1),
            "tensorrt": load_tensorrt().product,
            "cuda_runtime": runtime.cudaRuntimeGetVersion()[1],
            "cuda_driver": runtime.cudaDriverGetVersion()[1],
            "kernels": native.has_kernels(),
        }

    def copy_rates(self, size: int, *, repeats: int) -> dict[str, float]:
        """See `Platform`."""
        with ExitStack() as opened, reported("copying"):
            gpu = select(self.device)
            stream = gpu.create_stream()
            opened.callback(stream.close)
            host = core().LegacyPinnedMemoryResource().allocate(size)
            opened.callback(host.close, stream)
            first, second = (gpu.allocate(size, stream=stream) for _ in range(2))
            for each in (first, second):
                opened.callback(each.close, stream)

            def rate(source: Any, target: Any) -> float:  # noqa: ANN401 - cuda-core's own class
                def whole() -> None:
                    for _ in range(COPIES):
                        source.copy_to(target, stream=stream)
                    stream.sync()

                return COPIES * size / seconds_of(whole, repeats=repeats)

            return {
                "host_to_device": rate(host, first),
                "device_to_host": rate(first, host),
                "on_device": 2 * rate(first, second),
            }

    def matrix_rate(self, side: int, *, repeats: int) -> dict[str, object]:
        """In half precision, by cuBLAS through CuPy or PyTorch."""
        for name in ("cupy", "torch"):
            try:
                library: Any = importlib.import_module(name)
            except ImportError:
                continue
            if name == "torch":
                matrix, wait = library.rand((side, side), device="cuda").half(), library.cuda.synchronize
            else:
                matrix = library.random.random((side, side)).astype(library.float16)
                wait = library.cuda.get_current_stream().synchronize

            def whole(library: Any = library, matrix: Any = matrix, wait: Any = wait) -> None:  # noqa: ANN401
                library.matmul(matrix, matrix)
                wait()

            return {
                "flop_per_s": 2 * side**3 / seconds_of(whole, repeats=repeats),
                "library": f"{name} {library.__version__}, float16",
            }
        raise Unavailable("neither CuPy nor PyTorch is installed")

    def lane(self, model: Path, clip: Path, *, graph: bool = True) -> Lane:
        """A stream with its own decoder, execution context, CUDA stream and CUDA graph."""
        return CudaLane(model, clip, engines=self._engines, graph=graph)

    def segmenter(self, model: Path, *, batches: bool = False) -> Segmenter:
        """In TensorRT."""
        config = BuildConfig(batch=LARGEST_BATCH) if batches else None
        return TensorRtSegmenter(model, folder=self._engines, config=config)


class _NetworkInput:
    """The network's own input buffer, as an array on the GPU."""

    def __init__(self, address: int, shape: tuple[int, ...]) -> None:
        self.__cuda_array_interface__ = {
            "version": 3, "shape": shape, "typestr": "|u1", "data": (address, False), "strides": None, "stream": None
        }  # fmt: skip


class CudaLane:
    """The steps on a GPU; see `Lane`. Everything but decoding is on the stream of the TensorRT session."""

    def __init__(self, model: Path, clip: Path, *, engines: Path, graph: bool) -> None:
        self._segmenter = TensorRtSegmenter(model, folder=engines, cuda_graph=graph)
        self._clip = clip
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._frame: av.VideoFrame | None = None
        self._kernel = FrameKernel()
        self._encoder: Encoder | None = None

    def __enter__(self) -> Self:
        self._segmenter.__enter__()
        height, width = self._segmenter.height, self._segmenter.width
        self._buffers = self._segmenter.buffers
        self._input = _NetworkInput(self._buffers.input, (height, width, 3))
        self._host_input = np.zeros((height, width, 3), np.uint8)
        hardware, _ = hardware_for("cuda", backend="tensorrt")
        self._frames = endless_frames(self._clip, hardware)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frame, self._frames, self._kernel, self._encoder = None, iter(()), FrameKernel(), None
        self._segmenter.__exit__(kind, error, trace)

    @property
    def frame(self) -> av.VideoFrame:
        """The last decoded frame, NV12 in GPU memory."""
        assert self._frame is not None, "decode first"
        return self._frame

    def decode(self) -> None:
        """By NVDEC."""
        frame = next(self._frames)
        if not is_on_device(frame):
            raise Unavailable(f"the GPU did not decode: frames are {frame.format.name}, in host memory")
        with reported("waiting for the decoder"):
            core().LEGACY_DEFAULT_STREAM.sync()
        self._frame = frame

    def preprocess(self) -> None:
        """By the native module's kernel."""
        size = (self._segmenter.width, self._segmenter.height)
        if not self._kernel.enqueue(self.frame, size, out=self._buffers.input, stream=self._buffers.stream):
            raise Unavailable("the kernel does not know this kind of frame")
        self._wait()

    def infer(self) -> None:
        """By TensorRT, from its own input buffer."""
        self._segmenter.segment_device(self._input)

    def infer_from_host(self) -> None:
        """By TensorRT, from host memory."""
        self._segmenter.segment(self._host_input)

    def enqueued(self) -> str:
        """By a CUDA graph, or why not."""
        if self._segmenter.uses_graph:
            return "CUDA graph"
        return f"without a CUDA graph ({self._segmenter.graph_refusal or 'none was wanted'})"

    def mark(self) -> None:
        """By the native module's kernel."""
        frame = self.frame
        (luma, luma_pitch), (chroma, chroma_pitch) = plane_rows(frame)
        colors = av.VideoFrame(16, 16, "nv12")
        lines, casings = color_values(colors, STYLE.rgb), color_values(colors, CASING_RGB)
        kernels().mark_on_device(
            [
                (luma, luma_pitch, 1, 1, 1, 1, 0, lines[0], casings[0]),
                (chroma, chroma_pitch, 2, 2, 2, 1, 0, lines[1], casings[1]),
                (chroma + 1, chroma_pitch, 2, 2, 2, 1, 0, lines[2], casings[2]),
            ],
            (frame.width, frame.height),
            self._buffers.output,
            (self._segmenter.width, self._segmenter.height),
            (0.0, 0.0, float(frame.width), float(frame.height)),
            self._segmenter.contract.threshold,
            marker_band(STYLE, height=frame.height),
            self._buffers.stream,
        )
        self._wait()

    def encode(self) -> None:
        """By NVENC, which data-center cards lack."""
        frame = self.frame
        if self._encoder is None:
            options = {"preset": "p1", "tune": "ull", "delay": "0"}
            try:
                self._encoder = Encoder(
                    codec="h264_nvenc", width=frame.width, height=frame.height, pixel_format="cuda", options=options
                )
            except (av.FFmpegError, ValueError) as error:
                raise Unavailable(f"no NVENC: {error}") from error
        try:
            self._encoder.encode(frame)
        except (av.FFmpegError, ValueError) as error:
            raise Unavailable(f"no NVENC for this frame: {error}") from error

    def _wait(self) -> None:
        with reported("waiting for the GPU"):
            core().Stream.from_handle(self._buffers.stream).sync()
