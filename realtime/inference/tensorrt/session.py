"""An engine opened in one thread: execution context, stream, buffers and CUDA graph, all freed on closing."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import BackendError, ModelError
from polypstream.realtime.cuda import Device, core, free_bytes, reported, select
from polypstream.realtime.inference.tensorrt.adapter import TensorRt
from polypstream.realtime.inference.tensorrt.engine_file import EngineFile

if TYPE_CHECKING:
    from polypstream.realtime.inference.tensorrt import api

_MEMORY = (
    "close other programs that use the GPU, use a smaller batch or a model of lower precision, "
    "or use the onnxruntime backend"
)


@dataclass(frozen=True, kw_only=True)
class DeviceBuffers:
    """Where an open session works, for kernels of others: addresses in GPU memory, valid until it is closed."""

    stream: int
    """The CUDA stream of every inference."""
    input: int
    """uint8 RGB (largest batch, height, width, 3); free to write between inferences."""
    output: int
    """Probabilities of the last inference, float32 (largest batch, height, width, 1)."""


class Session:
    """Runs an engine, from creation to `close`, in the thread that created it.

    The first inference with a shape and input address runs directly; the second is captured as a CUDA graph, which
    later ones replay. Another shape or address discards the graph.
    """

    def __init__(self, file: EngineFile, *, trt: TensorRt, device: Device, cuda_graph: bool) -> None:
        self._file, self._trt, self._device = file, trt, device
        self._key, self._wants_graph = file.sidecar.key, cuda_graph
        self.graph_refusal: str | None = None
        """Why there is no CUDA graph although one was requested; None if there is no reason."""
        self._graph: Any = None
        self._runs = 0
        """Inferences since the last change of shape or address."""
        self._bound: tuple[int, int] | None = None
        with ExitStack() as opening:
            self._allocate(opening)
            self._load()
            _at_the_end(opening, "waiting for the GPU", self._release)
            self._opened = opening.pop_all()

    @property
    def uses_graph(self) -> bool:
        """Whether the last inference came from a CUDA graph."""
        return self._graph is not None

    @property
    def buffers(self) -> DeviceBuffers:
        """Stream and memory on the GPU."""
        return DeviceBuffers(
            stream=int(self._stream.handle),
            input=int(self._device_input.handle),
            output=int(self._device_output.handle),
        )

    def close(self, error: BaseException | None = None) -> None:
        """Wait for the GPU and free everything; `error` is the one being handled, which is not replaced."""
        self._opened.__exit__(type(error) if error else None, error, None)

    def run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width, 1) of host images (n, height, width, 3); n up to the largest batch."""
        np.copyto(self._host_images[: len(images)], images)
        with reported("copying to the GPU"):
            source, target = (_first(each, images.nbytes) for each in (self._host_input, self._device_input))
            source.copy_to(target, stream=self._stream)
        return self.run_at(int(self._device_input.handle), len(images))

    def run_at(self, address: int, count: int) -> NDArray[np.float32]:
        """The same for images in GPU memory; waits for the GPU."""
        self._bind(count, address)
        if self._graph is None and self._runs and self._wants_graph and self._is_capturable():
            self._capture()
        if self._graph is None:
            self._enqueue()
        else:
            with reported("launching a CUDA graph"):
                self._graph.launch(self._stream)
        output = self._host_probabilities[:count]
        with reported("copying from the GPU"):
            source, target = (_first(each, output.nbytes) for each in (self._device_output, self._host_output))
            source.copy_to(target, stream=self._stream)
        with reported("waiting for the GPU"):
            self._stream.sync()
        self._runs += 1
        copied: NDArray[np.float32] = output.copy()
        return copied

    def _allocate(self, opening: ExitStack) -> None:
        count, height, width = self._key.largest_batch, self._key.height, self._key.width
        images, probabilities = (count, height, width, 3), (count, height, width, 1)
        in_bytes, out_bytes = (int(np.prod(shape)) * size for shape, size in ((images, 1), (probabilities, 4)))
        gpu = select(self._device)
        with reported("creating a stream"):
            self._stream = gpu.create_stream()
        _at_the_end(opening, "freeing a stream", self._stream.close)

        def opened(buffer: Any) -> Any:  # noqa: ANN401 - cuda-core's own class
            _at_the_end(opening, "freeing memory of the GPU", lambda: buffer.close(self._stream))
            return buffer

        with reported(f"allocating {in_bytes + out_bytes:,} bytes of GPU memory"):
            self._device_input = opened(gpu.allocate(in_bytes, stream=self._stream))
            self._device_output = opened(gpu.allocate(out_bytes, stream=self._stream))
        with reported(f"pinning {in_bytes + out_bytes:,} bytes of memory"):
            pinned = core().LegacyPinnedMemoryResource()
            self._host_input, self._host_output = opened(pinned.allocate(in_bytes)), opened(pinned.allocate(out_bytes))
        self._host_images = np.from_dlpack(self._host_input).view(np.uint8).reshape(images)
        self._host_probabilities = np.from_dlpack(self._host_output).view(np.float32).reshape(probabilities)

    def _load(self) -> None:
        file, product, name = self._file, self._trt.product, self._device.name
        data = file.read()
        with self._trt.log.watching() as watch:
            self._runtime = self._trt.module.Runtime(self._trt.logger)
            engine = self._runtime.deserialize_cuda_engine(data)
            if engine is None:
                raise BackendError(
                    f"{product} cannot load {file.path} on {name} ({watch.reason}); build it again "
                    f"with: polypstream build {file.sidecar.onnx_name}; if the GPU's memory is full, {_MEMORY}"
                )
            self._engine = engine
            self._check_tensors()
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(
                    f"{product} cannot open {file.path} on {name}, which has {free_bytes() >> 20} MiB free "
                    f"({watch.reason}); {_MEMORY}"
                )
        self._context = context
        if not context.set_tensor_address(file.sidecar.output_name, int(self._device_output.handle)):
            raise BackendError(f"{product} rejects the output buffer of {file.path}; build the engine again")

    def _check_tensors(self) -> None:
        module, engine, sidecar = self._trt.module, self._engine, self._file.sidecar
        found = {
            name: (
                engine.get_tensor_mode(name),
                engine.get_tensor_dtype(name),
                tuple(engine.get_tensor_shape(name))[1:],
            )
            for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors))
        }
        size = (self._key.height, self._key.width)
        wanted = {
            sidecar.input_name: (module.TensorIOMode.INPUT, module.DataType.UINT8, (*size, 3)),
            sidecar.output_name: (module.TensorIOMode.OUTPUT, module.DataType.FLOAT, (*size, 1)),
        }
        if found != wanted:
            raise ModelError(
                f"{self._file.path} takes and returns {found}, which is not an engine of polypstream; build it again"
            )

    def _bind(self, count: int, address: int) -> None:
        """Set shape and input address, unless they are those of the last inference."""
        if self._bound == (count, address):
            return
        self._drop_graph()
        self._bound, self._runs = None, 0
        name, shape = self._file.sidecar.input_name, (count, self._key.height, self._key.width, 3)
        with self._trt.log.watching() as watch:
            fits = self._context.set_input_shape(name, shape) and not self._context.infer_shapes()
            if not (fits and self._context.set_tensor_address(name, address)):
                raise BackendError(
                    f"{self._trt.product} rejects a batch of {count} ({watch.reason}); "
                    "use a smaller batch, or build the engine again"
                )
        self._bound = (count, address)

    def _enqueue(self) -> None:
        with self._trt.log.watching() as watch:
            if not self._context.execute_async_v3(int(self._stream.handle)):
                raise BackendError(f"{self._trt.product} could not run the network ({watch.reason}); {_MEMORY}")

    def _is_capturable(self) -> bool:
        """Whether the next inference can be captured; TensorRT-RTX may still be compiling a better kernel."""
        if self._trt.rtx is None:
            return True
        return cast("api.RtxExecutionContext", self._context).is_stream_capturable(int(self._stream.handle))

    def _capture(self) -> None:
        """Capture an inference as a graph, without executing it; CUDA calls of other threads do not disturb it."""
        try:
            with reported("capturing a CUDA graph"):
                builder = self._stream.create_graph_builder()
                try:
                    builder.begin_building("thread_local")
                    self._enqueue()
                    self._graph = builder.end_building().complete()
                finally:
                    builder.close()  # ends the capture, too
        except BackendError as error:
            self._wants_graph, self.graph_refusal = False, str(error)

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            graph.close()

    def _release(self) -> None:
        """Release TensorRT's objects, the context first, before buffers and stream are freed."""
        try:
            self._stream.sync()
            self._drop_graph()
        finally:
            del self._context, self._engine, self._runtime


def _at_the_end(opening: ExitStack, doing: str, work: Callable[[], object]) -> None:
    """Do the work when the stack is left; its error counts only if there is no earlier one."""

    def leave(_kind: object, earlier: BaseException | None, _trace: object) -> None:
        try:
            with reported(doing):
                work()
        except BackendError:
            if earlier is None:
                raise

    opening.push(leave)


def _first(buffer: Any, size: int) -> Any:  # noqa: ANN401
    """The first `size` bytes of a buffer."""
    return buffer if size == buffer.size else core().Buffer.from_handle(int(buffer.handle), size, owner=buffer)
