"""Stand-ins for a GPU: a CUDA runtime in host memory that counts allocations, and a TensorRT with one network.

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

from polypstream.realtime.inference.tensorrt.adapter import Log, TensorRt
from polypstream.realtime.inference.tensorrt.engine_file import (
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
    cudaErrorInsufficientDriver = 35  # noqa: N815
    cudaErrorNoDevice = 100  # noqa: N815
    cudaErrorSystemDriverMismatch = 803  # noqa: N815


OK = cudaError_t.cudaSuccess
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY: not enough memory"
ILLEGAL_ADDRESS = "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal address"


class CUDAError(Exception):
    """Named as cuda-core's own."""


class FakeCuda:
    """The part of `cuda.core` and `cuda.bindings.runtime` that the package uses; work is done at once, on the host."""

    def __init__(self, *, name: str = "Stand-in 4090", capability: tuple[int, int] = (8, 9), count: int = 1) -> None:
        self.name, self.capability, self.count = name, capability, count
        self.probe = OK
        """Answer to the question for GPUs."""
        self.fail: dict[str, str] = {}
        """Errors to raise, by method."""
        self.live: set[object] = set()
        """Resources not yet closed."""
        self.calls: list[str] = []
        self.recording: list[Callable[[], None]] | None = None
        self.core = SimpleNamespace(
            Device=lambda _index: FakeDevice(self),
            LegacyPinnedMemoryResource=lambda: FakePinned(self),
            Buffer=SimpleNamespace(from_handle=lambda handle, size, owner: FakeBuffer(self, handle, size)),
            Stream=SimpleNamespace(from_handle=lambda handle: self.stream(handle)),
            LEGACY_DEFAULT_STREAM=SimpleNamespace(sync=lambda: self.call("sync default")),
        )

    def module(self, name: str) -> Any:
        """In place of an import."""
        return {"cuda.core": self.core, "cuda.bindings.runtime": self}[name]

    def stream(self, handle: int) -> "FakeStream":
        """The open stream of this handle."""
        return next(each for each in self.live if isinstance(each, FakeStream) and each.handle == handle)

    def run(self, work: Callable[[], None]) -> None:
        """Run the work, or record it while a graph is captured."""
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def call(self, method: str) -> None:
        self.calls.append(method)
        if method in self.fail:
            raise CUDAError(self.fail[method])

    def cudaGetDeviceCount(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return self.probe, self.count

    def cudaGetDeviceProperties(self, index: int) -> tuple[cudaError_t, Any]:  # noqa: N802
        major, minor = self.capability
        found = SimpleNamespace(name=self.name.encode(), major=major, minor=minor, totalGlobalMem=24 << 30)
        return OK, found

    def cudaDriverGetVersion(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return OK, 0 if self.count == 0 else 12080

    def cudaRuntimeGetVersion(self) -> tuple[cudaError_t, int]:  # noqa: N802
        return OK, 13040

    def cudaMemGetInfo(self) -> tuple[cudaError_t, int, int]:  # noqa: N802
        return OK, 64 << 20, 24 << 30


class Closable:
    """A resource that is closed exactly once."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        cuda.live.add(self)

    def close(self) -> None:
        self.cuda.live.remove(self)


class FakeDevice:
    """`cuda.core.Device`."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def set_current(self) -> None:
        self.cuda.call("set_current")

    def create_stream(self) -> "FakeStream":
        self.cuda.call("create_stream")
        return FakeStream(self.cuda)

    def allocate(self, size: int, *, stream: "FakeStream") -> "FakeBuffer":
        self.cuda.call("allocate")
        assert stream in self.cuda.live
        return FakeMemory(self.cuda, size)


class FakePinned:
    """`cuda.core.LegacyPinnedMemoryResource`."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def allocate(self, size: int) -> "FakeBuffer":
        self.cuda.call("allocate_pinned")
        return FakeMemory(self.cuda, size)


class FakeBuffer:
    """`cuda.core.Buffer`: an address, in host memory whatever it stands for."""

    def __init__(self, cuda: FakeCuda, handle: int, size: int) -> None:
        self.cuda, self.handle, self.size = cuda, handle, size

    def copy_to(self, dst: "FakeBuffer", *, stream: "FakeStream") -> None:
        self.cuda.call("copy_to")
        assert dst.size == self.size
        assert stream in self.cuda.live
        self.cuda.run(lambda: _move(dst.handle, self.handle, self.size))


class FakeMemory(FakeBuffer):
    """A buffer with memory of its own."""

    def __init__(self, cuda: FakeCuda, size: int) -> None:
        self.memory = np.zeros(size, np.int8)
        super().__init__(cuda, self.memory.ctypes.data, size)
        cuda.live.add(self)

    def close(self, stream: "FakeStream") -> None:
        assert stream in self.cuda.live
        self.cuda.live.remove(self)

    def __dlpack__(self, **options: Any) -> Any:
        return self.memory.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.memory.__dlpack_device__()


class FakeStream(Closable):
    """`cuda.core.Stream`."""

    def __init__(self, cuda: FakeCuda) -> None:
        super().__init__(cuda)
        self.handle = id(self)

    def sync(self) -> None:
        self.cuda.call("sync")

    def wait(self, event_or_stream: object) -> None:
        assert event_or_stream is self.cuda.core.LEGACY_DEFAULT_STREAM
        self.cuda.call("wait")

    def create_graph_builder(self) -> "FakeGraphBuilder":
        return FakeGraphBuilder(self.cuda)


class FakeGraphBuilder(Closable):
    """`cuda.core.graph.GraphBuilder`."""

    def begin_building(self, mode: str) -> "FakeGraphBuilder":
        assert mode == "thread_local"
        self.cuda.recording = []
        self.cuda.call("begin_building")
        return self

    def end_building(self) -> "FakeGraphBuilder":
        self.work, self.cuda.recording = self.cuda.recording, None
        self.cuda.call("end_building")
        return self

    def complete(self) -> "FakeGraph":
        self.cuda.call("complete")
        return FakeGraph(self.cuda, self.work or [])

    def close(self) -> None:
        self.cuda.recording = None
        super().close()


class FakeGraph(Closable):
    """`cuda.core.graph.Graph`."""

    def __init__(self, cuda: FakeCuda, work: list[Callable[[], None]]) -> None:
        super().__init__(cuda)
        self.work = work

    def launch(self, stream: FakeStream) -> None:
        self.cuda.call("launch")
        for each in self.work:
            each()


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
    """The network's output for (..., height, width, 3), without the channel axis."""
    real = pictures.astype(np.float32)
    probability: NDArray[np.float32] = 1 / (1 + np.exp(-(0.2 * (real[..., 1] - real[..., 0]) - 8)))
    return probability


@dataclass
class FakeContext:
    """An execution context that detects calls from other threads."""

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
    return TensorRt(flavor="tensorrt", version=VERSION, module=module, logger=logger, log=log)


def write_fake_engine(
    folder: Path, *, target: Target | None = None, version: str = VERSION, largest: int = 8, onnx_sha256: str = "0" * 64
) -> EngineFile:
    """An engine file that the stand-in reads."""
    key = EngineKey(
        onnx_sha256=onnx_sha256,
        height=SIZE,
        width=SIZE,
        largest_batch=largest,
        precision="fp32",
        flavor="tensorrt",
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
