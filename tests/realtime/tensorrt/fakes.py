"""Stand-ins for a GPU: a CUDA runtime in host memory that counts what it gives out, and a TensorRT with one network.

The network is the green finder of `tests.models`, gain 0.2 and bias −8. Its arithmetic is a plain function, so that
the same stand-in for TensorRT also runs on a real GPU with a kernel in its place.
"""

import ctypes
import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.tensorrt.adapter import Log, TensorRt
from polypstream.realtime.tensorrt.engine_file import (
    BatchRange,
    EngineFile,
    EngineKey,
    Sidecar,
    Target,
    write_engine_file,
)
from tests.models import SIZE, contract

VERSION = "11.4.0.106"
ENGINE = b"an engine that only the stand-in can read"


class cudaError_t(IntEnum):  # noqa: N801 - CUDA's name
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorIllegalAddress = 700  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


OK = cudaError_t.cudaSuccess


class FakeCuda:
    """As much of `cuda.bindings.runtime` as the package uses."""

    cudaStreamNonBlocking = 1  # noqa: N815
    cudaHostAllocDefault = 0  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815

    def __init__(self, *, name: str = "Stand-in 4090", capability: tuple[int, int] = (8, 9), count: int = 1) -> None:
        self.name, self.capability, self.count = name, capability, count
        self.fail: dict[str, cudaError_t] = {}
        """By function: the error it returns from now on."""
        self.live: dict[int, object] = {}
        """By handle: all that was given out and not yet freed."""
        self.calls: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self._next = 1000
        self._lock = threading.Lock()

    def run(self, work: Callable[[], None]) -> None:
        """Do it, or record it while a graph is captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def _give(self, function: str, make: Callable[[], object]) -> tuple[cudaError_t, int | None]:
        self.calls.append(function)
        if function in self.fail:
            return self.fail[function], None
        with self._lock:
            made = make()
            self._next += 1
            handle = ctypes.addressof(made) if isinstance(made, ctypes.Array) else self._next
            self.live[handle] = made
        return OK, handle

    def _take(self, function: str, handle: int) -> tuple[cudaError_t]:
        self.calls.append(function)
        del self.live[int(handle)]
        return (self.fail.get(function, OK),)

    def _do(self, function: str, work: Callable[[], None] = lambda: None) -> tuple[cudaError_t]:
        self.calls.append(function)
        if function in self.fail:
            return (self.fail[function],)
        work()
        return (OK,)

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return self.fail.get("cudaGetDeviceCount", OK), self.count

    def cudaGetDeviceProperties(self, index: int) -> tuple[cudaError_t, Any]:  # noqa: N802
        major, minor = self.capability
        found = SimpleNamespace(name=self.name.encode(), major=major, minor=minor, totalGlobalMem=24 << 30)
        return OK, found

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return OK, 0 if self.count == 0 else 12080

    def cudaRuntimeGetVersion(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return OK, 13040

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[cudaError_t, bytes]:  # noqa: N802
        return OK, {2: b"out of memory", 700: b"an illegal memory access was encountered"}.get(error, b"an error")

    def cudaGetLastError(self) -> tuple[cudaError_t]:  # noqa: N802
        return (OK,)

    def cudaSetDevice(self, index: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._do("cudaSetDevice")

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:  # noqa: N802
        return OK, 64 << 20, 24 << 30

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[cudaError_t, int | None]:  # noqa: N802
        return self._give("cudaStreamCreateWithFlags", lambda: "stream")

    def cudaStreamDestroy(self, stream: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._take("cudaStreamDestroy", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._do("cudaStreamSynchronize")

    def cudaMalloc(self, size: int) -> tuple[cudaError_t, int | None]:  # noqa: N802
        return self._give("cudaMalloc", lambda: (ctypes.c_uint8 * size)())

    def cudaFree(self, address: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._take("cudaFree", address)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[cudaError_t, int | None]:  # noqa: N802
        return self._give("cudaHostAlloc", lambda: (ctypes.c_uint8 * size)())

    def cudaFreeHost(self, address: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._take("cudaFreeHost", address)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: int) -> tuple[cudaError_t]:  # noqa: N802
        assert kind in (1, 2)
        assert stream in self.live
        return self._do("cudaMemcpyAsync", lambda: self.run(lambda: _move(to, source, size)))

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[cudaError_t]:  # noqa: N802
        self.recording = []
        return self._do("cudaStreamBeginCapture")

    def cudaStreamEndCapture(self, stream: int) -> tuple[cudaError_t, int | None]:  # noqa: N802
        recorded, self.recording = self.recording, None
        return self._give("cudaStreamEndCapture", lambda: recorded)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[cudaError_t, int | None]:  # noqa: N802
        return self._give("cudaGraphInstantiate", lambda: self.live[graph])

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[cudaError_t]:  # noqa: N802
        recorded: Any = self.live[graph]
        return self._do("cudaGraphLaunch", lambda: _replay(recorded))

    def cudaGraphDestroy(self, graph: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._take("cudaGraphDestroy", graph)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[cudaError_t]:  # noqa: N802
        return self._take("cudaGraphExecDestroy", graph)


def _replay(recorded: list[Callable[[], None]]) -> None:
    for work in recorded:
        work()


def _move(to: int, source: int, size: int) -> None:
    ctypes.memmove(to, source, size)


Network = Callable[[int, int, tuple[int, ...], int], None]
"""Puts on a stream: read uint8 at one address, write float32 at another, of a shape (n, height, width, 3)."""


def green_finder(cuda: FakeCuda) -> Network:
    """The network in numpy, on the stand-in for CUDA."""

    def run(source: int, to: int, shape: tuple[int, ...], stream: int) -> None:
        cuda.run(lambda: _find_green(source, to, shape))

    return run


def _find_green(source: int, to: int, shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape))
    pictures = np.ctypeslib.as_array((ctypes.c_uint8 * count).from_address(source)).reshape(shape)
    out = np.ctypeslib.as_array((ctypes.c_float * (count // 3)).from_address(to)).reshape(shape[:3])
    out[:] = expected(pictures)


def expected(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network gives for (..., height, width, 3), without the channel axis."""
    real = pictures.astype(np.float32)
    probability: NDArray[np.float32] = 1 / (1 + np.exp(-(0.2 * (real[..., 1] - real[..., 0]) - 8)))
    return probability


@dataclass
class FakeContext:
    """An execution context, which notices when another thread calls it."""

    network: Network
    refuse: set[str]
    largest: int
    thread: int = field(default_factory=threading.get_ident)
    shape: tuple[int, ...] = ()
    addresses: dict[str, int] = field(default_factory=dict)

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        assert name == "image"
        self.shape = tuple(shape)
        return shape[0] <= self.largest

    def infer_shapes(self) -> list[str]:
        return [] if self.shape else ["image"]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert self.thread == threading.get_ident(), "a context belongs to one thread"
        if "execute_async_v3" in self.refuse:
            return False
        self.network(self.addresses["image"], self.addresses["probability"], self.shape, stream_handle)
        return True


class FakeEngine:
    """A loaded engine of the green finder."""

    num_io_tensors = 2

    def __init__(self, network: Network, refuse: set[str], largest: int) -> None:
        self.network, self.refuse, self.largest = network, refuse, largest

    def get_tensor_name(self, index: int) -> str:
        return ("image", "probability")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if name == "image" else "output"

    def get_tensor_dtype(self, name: str) -> str:
        return "uint8" if name == "image" else "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, SIZE, SIZE, 3 if name == "image" else 1)

    def create_execution_context(self) -> FakeContext | None:
        return (
            None if "create_execution_context" in self.refuse else FakeContext(self.network, self.refuse, self.largest)
        )


def fake_tensorrt(network: Network, *, refuse: set[str] | None = None, largest: int = 8) -> TensorRt:
    """A TensorRT 11 with one network; `refuse` names the calls that fail, as a set that may change later."""
    refused = set() if refuse is None else refuse
    log = Log()

    class Runtime:
        def __init__(self, logger: object) -> None:
            pass

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> FakeEngine | None:
            if "deserialize_cuda_engine" in refused or serialized_engine != ENGINE:
                log.record("the stand-in cannot read this")
                return None
            return FakeEngine(network, refused, largest)

    module: Any = SimpleNamespace(
        __version__=VERSION,
        Runtime=Runtime,
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        DataType=SimpleNamespace(UINT8="uint8", FLOAT="float"),
    )
    logger: Any = SimpleNamespace()
    return TensorRt(flavour="tensorrt", version=VERSION, module=module, logger=logger, log=log)


def write_fake_engine(
    folder: Path, *, target: Target | None = None, version: str = VERSION, largest: int = 8, onnx_sha256: str = "0" * 64
) -> EngineFile:
    """An engine file that the stand-in reads."""
    key = EngineKey(
        onnx_sha256=onnx_sha256,
        height=SIZE,
        width=SIZE,
        batch=BatchRange(largest=largest),
        precision="fp32",
        flavour="tensorrt",
        tensorrt_version=version,
        target=target or Target(compute_capabilities=("sm89",), device_name="Stand-in 4090"),
    )
    sidecar = Sidecar(
        key=key,
        contract=contract(),
        onnx_name="tiny.onnx",
        onnx_bytes=1,
        input_name="image",
        output_name="probability",
        engine_sha256=hashlib.sha256(ENGINE).hexdigest(),
        engine_bytes=len(ENGINE),
        build_seconds=0.0,
        package_version="0",
        built_at="2026-01-01T00:00:00+00:00",
    )
    return write_engine_file(folder / "tiny-0.engine", ENGINE, sidecar, reason="for a test")
