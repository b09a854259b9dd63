"""CUDA through cuda-bindings: finding the GPU, memory, streams and graphs; every call checked, everything freed."""

import ctypes
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from polypstream.errors import BackendError, ConfigError, MissingExtraError, ProviderMissingError

_ON_CPU = "or use --backend onnxruntime"
_MENDS = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: close other programs that use it, or take a smaller batch "
    f"or a model of lower precision, {_ON_CPU}",
    "cudaErrorDevicesUnavailable": f"another program holds the GPU alone: close it, {_ON_CPU}",
    "cudaErrorSystemDriverMismatch": "the driver was updated while the machine ran: restart the machine",
}
_MEND = f"start the program again; if it stays, update the NVIDIA driver, {_ON_CPU}"


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU of this machine."""

    index: int
    name: str
    compute_capability: str
    """As `sm89`."""
    memory_bytes: int


def find_device(index: int = 0) -> Device:
    """Describe a GPU; the first thing to call, since it alone does no harm where there is no driver.

    Raises `MissingExtraError` where cuda-bindings is not installed, `ProviderMissingError` where there is no driver,
    `BackendError` where it is too old or sees no GPU, and `ConfigError` where there are GPUs but none of that index.
    """
    rt = _runtime()
    error, count = rt.cudaGetDeviceCount()
    if error.name == "cudaErrorInsufficientDriver":
        raise _driver_complaint(rt)
    if error.name == "cudaErrorNoDevice" or (not int(error) and not count):
        raise BackendError(
            f"there is an NVIDIA driver but no GPU to be seen; check CUDA_VISIBLE_DEVICES and nvidia-smi, {_ON_CPU}"
        )
    _check(rt, "looking for a GPU", error)
    if not 0 <= index < count:
        raise ConfigError(f"there is no GPU {index}; this machine has {count}, counted from 0")
    error, found = rt.cudaGetDeviceProperties(index)
    _check(rt, "describing the GPU", error)
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Device(
        index=index,
        name=name,
        compute_capability=f"sm{found.major}{found.minor}",
        memory_bytes=int(found.totalGlobalMem),
    )


class Resource:
    """Something CUDA handed out, with its handle; freed exactly once, on leaving the `with` block or by `close`."""

    def __init__(self, handle: Any, free: Callable[[Any], object]) -> None:  # noqa: ANN401 - CUDA's own types
        self.handle = handle
        self._free: Callable[[Any], object] | None = free

    def close(self) -> None:
        """Free it; does nothing the second time. Raises `BackendError` where CUDA objects."""
        free, self._free = self._free, None
        if free is not None:
            free(self.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except BackendError:
            if error is None:  # else the first error is the one to tell of
                raise

    def __int__(self) -> int:
        return int(self.handle)


class PinnedArray(Resource):
    """Page-locked host memory as a numpy array, which must not be used after it was freed."""

    def __init__(self, handle: int, free: Callable[[Any], object], shape: tuple[int, ...], dtype: DTypeLike) -> None:
        super().__init__(handle, free)
        raw = (ctypes.c_uint8 * _size_bytes(shape, dtype)).from_address(handle)
        self.array: NDArray[Any] = np.frombuffer(memoryview(raw), np.dtype(dtype)).reshape(shape)


class Cuda:
    """CUDA on one device, for the thread that makes it. Each method raises `BackendError` where CUDA objects."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._rt = _runtime()
        self._done("choosing the GPU", self._rt.cudaSetDevice(device.index))

    def stream(self) -> Resource:
        """A stream of its own, which waits for no other."""
        made = self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking)
        return Resource(self._got("making a stream", made), self._freeing(self._rt.cudaStreamDestroy))

    def device_buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> Resource:
        """GPU memory for an array; its handle is the address."""
        size = _size_bytes(shape, dtype)
        made = self._rt.cudaMalloc(size)
        return Resource(self._got(f"taking {size:,} bytes of GPU memory", made), self._freeing(self._rt.cudaFree))

    def pinned_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> PinnedArray:
        """Host memory that the GPU copies from and to by itself."""
        size = _size_bytes(shape, dtype)
        made = self._rt.cudaHostAlloc(size, self._rt.cudaHostAllocDefault)
        handle = int(self._got(f"pinning {size:,} bytes of memory", made))
        return PinnedArray(handle, self._freeing(self._rt.cudaFreeHost), shape, dtype)

    def copy_to_device(self, source: NDArray[Any], destination: Resource, stream: Resource) -> None:
        """Put a copy of a pinned array's beginning on the stream."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyHostToDevice
        copied = self._rt.cudaMemcpyAsync(int(destination), source.ctypes.data, source.nbytes, kind, stream.handle)
        self._done("copying to the GPU", copied)

    def copy_to_host(self, source: Resource, destination: NDArray[Any], stream: Resource) -> None:
        """Put a copy into a pinned array's beginning on the stream."""
        kind = self._rt.cudaMemcpyKind.cudaMemcpyDeviceToHost
        copied = self._rt.cudaMemcpyAsync(destination.ctypes.data, int(source), destination.nbytes, kind, stream.handle)
        self._done("copying from the GPU", copied)

    def synchronize(self, stream: Resource) -> None:
        """Wait until everything on the stream is done; errors of what ran on it come up here."""
        self._done("waiting for the GPU", self._rt.cudaStreamSynchronize(stream.handle))

    def capture(self, stream: Resource, work: Callable[[], None]) -> Resource:
        """A graph of what `work` puts on the stream, ready to be launched; `work` itself does not run.

        Calls of other threads do not disturb the capture.
        """
        mode = self._rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._done("capturing a CUDA graph", self._rt.cudaStreamBeginCapture(stream.handle, mode))
        try:
            work()
        except BackendError:
            self._rt.cudaStreamEndCapture(stream.handle)
            self._rt.cudaGetLastError()
            raise
        recorded = self._got("capturing a CUDA graph", self._rt.cudaStreamEndCapture(stream.handle))
        with Resource(recorded, self._freeing(self._rt.cudaGraphDestroy)):
            made = self._rt.cudaGraphInstantiate(recorded, 0)
            return Resource(self._got("making a CUDA graph", made), self._freeing(self._rt.cudaGraphExecDestroy))

    def launch(self, graph: Resource, stream: Resource) -> None:
        """Put a captured graph on the stream."""
        self._done("launching a CUDA graph", self._rt.cudaGraphLaunch(graph.handle, stream.handle))

    def free_bytes(self) -> int:
        """GPU memory that no program holds."""
        error, free, _total = self._rt.cudaMemGetInfo()
        _check(self._rt, "asking for free GPU memory", error)
        return int(free)

    def _got(self, doing: str, returned: tuple[Any, Any]) -> Any:  # noqa: ANN401 - CUDA's own types
        error, value = returned
        _check(self._rt, doing, error)
        return value

    def _done(self, doing: str, returned: tuple[Any]) -> None:
        _check(self._rt, doing, returned[0])

    def _freeing(self, function: Callable[[Any], tuple[Any]]) -> Callable[[Any], None]:
        return lambda handle: self._done("freeing what the GPU held", function(handle))


def _runtime() -> Any:  # noqa: ANN401 - an extension module without types
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise MissingExtraError("running on an NVIDIA GPU", "rtx") from error


def _check(rt: Any, doing: str, error: Any) -> None:  # noqa: ANN401
    if int(error) == 0:
        return
    rt.cudaGetLastError()  # or TensorRT would meet this error again as its own
    _, text = rt.cudaGetErrorString(error)
    said = text.decode() if isinstance(text, bytes) else str(text)
    raise BackendError(f"{doing} failed: {said} ({error.name}); {_MENDS.get(error.name, _MEND)}")


def _driver_complaint(rt: Any) -> BackendError:  # noqa: ANN401
    _, driver = rt.cudaDriverGetVersion()
    _, wanted = rt.cudaRuntimeGetVersion()
    if not driver:
        return ProviderMissingError(f"there is no NVIDIA driver on this machine; install it, {_ON_CPU}")
    return BackendError(
        f"the NVIDIA driver knows CUDA {_version(driver)}, and CUDA {_version(wanted)} is installed; "
        f"update the driver, {_ON_CPU}"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _size_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    return math.prod(shape) * np.dtype(dtype).itemsize
