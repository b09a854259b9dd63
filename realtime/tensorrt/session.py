"""An engine opened in one thread: its execution context, stream, buffers and CUDA graph, all freed on leaving."""

from contextlib import AbstractContextManager, ExitStack
from threading import get_ident
from types import TracebackType
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray

from polypstream.errors import BackendError, ModelError
from polypstream.realtime.tensorrt import api
from polypstream.realtime.tensorrt.adapter import TensorRt
from polypstream.realtime.tensorrt.cuda import Cuda, Device, PinnedArray, Resource
from polypstream.realtime.tensorrt.device_frame import device_frame
from polypstream.realtime.tensorrt.engine_file import EngineFile

_MEMORY = (
    "close other programs that use the GPU, take a smaller batch or a model of lower precision, "
    "or use --backend onnxruntime"
)


class Session(AbstractContextManager["Session"]):
    """Runs an engine. Belongs to the thread that enters it; may be entered again after it was left.

    The first inference of a shape or an input address runs plainly; the second is captured as a CUDA graph, and those
    after it replay the graph. Another shape or address drops the graph.
    """

    def __init__(self, engine: EngineFile, *, trt: TensorRt, device: Device, cuda_graph: bool = True) -> None:
        self._file, self._trt, self._device = engine, trt, device
        self._wants_graph = cuda_graph
        self.graph_refusal: str | None = None
        """Why there is no CUDA graph although one was wanted."""
        self._open: _Open | None = None
        self._thread = 0

    @property
    def uses_graph(self) -> bool:
        """Whether the last inference came from a CUDA graph."""
        return self._open is not None and self._open.graph is not None

    def __enter__(self) -> Self:
        if self._open is not None:
            raise BackendError("this engine is open already; give each thread a segmenter of its own")
        with ExitStack() as opening:
            self._open = _Open(self._file, self._trt, self._device, opening)
            opening.push(self._open.forget)
            self._resources = opening.pop_all()
        self._thread = get_ident()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open = None
        self._resources.__exit__(kind, error, trace)

    def run(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities (n, height, width, 1) of host pictures (n, height, width, 3); n up to the largest batch."""
        opened = self._opened()
        count = len(pictures)
        staged = opened.host_input.array[:count]
        np.copyto(staged, pictures)
        opened.cuda.copy_to_device(staged, opened.device_input, opened.stream)
        return self._run(opened, count, int(opened.device_input))

    def run_on_device(self, frame: object) -> NDArray[np.float32]:
        """The same of what `device_frame` takes, with no batch axis where it had none; the GPU is done with it then."""
        opened = self._opened()
        key = self._file.sidecar.key
        taken = device_frame(frame, height=key.height, width=key.width, device=self._device, stream=int(opened.stream))
        self.check_batch(taken.batch)
        probabilities = self._run(opened, taken.batch, taken.address)
        return probabilities.squeeze(0) if taken.is_single else probabilities

    def check_batch(self, count: int) -> None:
        """Raise `BackendError` where the engine takes fewer pictures at once, or none are given."""
        largest = self._file.sidecar.key.batch.largest
        if count < 1:
            raise BackendError("there are no pictures to segment; give at least one")
        if count > largest:
            raise BackendError(
                f"{count} pictures at once are more than the {largest} this engine was built for; give fewer, or build "
                f"one with: polypstream build {self._file.sidecar.onnx_name} --batch {count}, "
                "from a model whose batch is open"
            )

    def _opened(self) -> "_Open":
        if self._open is None:
            raise BackendError("the TensorRT segmenter is not open; use it in a with block")
        if get_ident() != self._thread:
            raise BackendError(
                "the TensorRT segmenter was opened in another thread; open it in the thread that uses it, "
                "and give each thread its own"
            )
        return self._open

    def _run(self, opened: "_Open", count: int, address: int) -> NDArray[np.float32]:
        opened.bind(count, address)
        if opened.graph is None and opened.runs and self._wants_graph:
            self._capture(opened)
        if opened.graph is not None:
            opened.cuda.launch(opened.graph, opened.stream)
        else:
            opened.enqueue()
        given = opened.host_output.array[:count]
        opened.cuda.copy_to_host(opened.device_output, given, opened.stream)
        opened.cuda.synchronize(opened.stream)
        opened.runs += 1
        copied: NDArray[np.float32] = given.copy()
        return copied

    def _capture(self, opened: "_Open") -> None:
        if not opened.is_capturable():
            return
        try:
            opened.graph = opened.cuda.capture(opened.stream, opened.enqueue)
        except BackendError as error:
            self._wants_graph, self.graph_refusal = False, str(error)


class _Open:
    """What is there between entering and leaving; each part is freed by the stack it was opened on."""

    def __init__(self, file: EngineFile, trt: TensorRt, device: Device, opening: ExitStack) -> None:
        self._trt, self._key = trt, file.sidecar.key
        self.cuda = Cuda(device)
        count, height, width = self._key.batch.largest, self._key.height, self._key.width
        self.stream: Resource = opening.enter_context(self.cuda.stream())
        self.device_input = opening.enter_context(self.cuda.device_buffer((count, height, width, 3), np.uint8))
        self.device_output = opening.enter_context(self.cuda.device_buffer((count, height, width, 1), np.float32))
        self.host_input: PinnedArray = opening.enter_context(
            self.cuda.pinned_array((count, height, width, 3), np.uint8)
        )
        self.host_output: PinnedArray = opening.enter_context(
            self.cuda.pinned_array((count, height, width, 1), np.float32)
        )
        self._engine = self._loaded(file, device)
        self._input, self._output = self._tensors(file)
        self._context = self._new_context(file, device)
        if not self._context.set_tensor_address(self._output, int(self.device_output)):
            raise BackendError(f"{trt.product} refuses the output buffer of {file.path}; build the engine again")
        self.graph: Resource | None = None
        self.runs = 0
        """Inferences since the last change of shape or address."""
        self._bound: tuple[int, int] | None = None

    def _loaded(self, file: EngineFile, device: Device) -> api.ICudaEngine:
        data = file.read()
        with self._trt.log.watching() as watch:
            self._runtime = self._trt.module.Runtime(self._trt.logger)
            engine = self._runtime.deserialize_cuda_engine(data)
            if engine is None:
                raise BackendError(
                    f"{self._trt.product} cannot load {file.path} on {device.name} ({watch.reason}); build it again "
                    f"with: polypstream build {file.sidecar.onnx_name}; if the GPU's memory is full, {_MEMORY}"
                )
        return engine

    def _tensors(self, file: EngineFile) -> tuple[str, str]:
        module, engine = self._trt.module, self._engine
        found = {}
        for name in (engine.get_tensor_name(index) for index in range(engine.num_io_tensors)):
            shape = tuple(engine.get_tensor_shape(name))
            found[name] = (engine.get_tensor_mode(name), engine.get_tensor_dtype(name), shape[1:])
        height, width = self._key.height, self._key.width
        names = file.sidecar.input_name, file.sidecar.output_name
        wanted = {
            names[0]: (module.TensorIOMode.INPUT, module.DataType.UINT8, (height, width, 3)),
            names[1]: (module.TensorIOMode.OUTPUT, module.DataType.FLOAT, (height, width, 1)),
        }
        if found != wanted:
            raise ModelError(f"{file.path} takes and gives {found}, which is no engine of ours; build it again")
        return names

    def _new_context(self, file: EngineFile, device: Device) -> api.IExecutionContext:
        with self._trt.log.watching() as watch:
            context = self._engine.create_execution_context()
            if context is None:
                free_mib = self.cuda.free_bytes() >> 20
                raise BackendError(
                    f"{self._trt.product} cannot open {file.path} on {device.name}, which has {free_mib} MiB free "
                    f"({watch.reason}); {_MEMORY}"
                )
        return context

    def bind(self, count: int, address: int) -> None:
        """Set shape and input address where they are not those of the last inference."""
        if self._bound == (count, address):
            return
        self._drop_graph()
        self._bound, self.runs = None, 0
        shape = (count, self._key.height, self._key.width, 3)
        with self._trt.log.watching() as watch:
            fits = self._context.set_input_shape(self._input, shape) and not self._context.infer_shapes()
            if not (fits and self._context.set_tensor_address(self._input, address)):
                raise BackendError(
                    f"{self._trt.product} refuses a batch of {count} ({watch.reason}); "
                    "give fewer pictures at once, or build the engine again"
                )
        self._bound = (count, address)

    def enqueue(self) -> None:
        """Put one inference on the stream."""
        with self._trt.log.watching() as watch:
            if not self._context.execute_async_v3(int(self.stream)):
                raise BackendError(f"{self._trt.product} could not run the network ({watch.reason}); {_MEMORY}")

    def is_capturable(self) -> bool:
        """Whether the next inference may go into a graph; TensorRT-RTX may still be compiling a better kernel."""
        if self._trt.rtx is None:
            return True
        return cast(api.RtxExecutionContext, self._context).is_stream_capturable(int(self.stream))

    def forget(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of TensorRT's objects, the context first; runs on leaving, before buffers and stream are freed."""
        try:
            self.cuda.synchronize(self.stream)
            self._drop_graph()
        except BackendError:
            if error is None:  # else the first error is the one to tell of
                raise
        finally:
            self._bound = None
            del self._context, self._engine, self._runtime

    def _drop_graph(self) -> None:
        graph, self.graph = self.graph, None
        if graph is not None:
            graph.close()
