"""Every TensorRT name this package uses, as types, and no other.

mypy holds the code to these classes; a test holds them to the lists of names of TensorRT 10.16 and 11.4 and to the
installed TensorRT-RTX. A class or attribute is named as TensorRT names it. Classes that begin with `Rtx` hold what
only TensorRT-RTX has, and are reached through `adapter.TensorRt.rtx` alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, SupportsInt


class ILogger(Protocol):
    """Takes what TensorRT has to say; subclassed."""

    WARNING: SupportsInt

    def log(self, severity: SupportsInt, message: str) -> None:
        """Take one message."""


class IProgressMonitor(Protocol):
    """Takes the progress of a build; subclassed."""

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """A phase begins."""

    def step_complete(self, phase_name: str, step: int) -> bool:
        """A step is done; False cancels the build."""
        ...

    def phase_finish(self, phase_name: str) -> None:
        """A phase ends."""


class IHostMemory(Protocol):
    """Bytes that TensorRT owns."""

    nbytes: int

    def __buffer__(self, flags: int, /) -> memoryview:
        """Python's buffer protocol."""
        ...


class DataType(Protocol):
    """Element types."""

    UINT8: object
    FLOAT: object


class TensorIOMode(Protocol):
    """Directions of a tensor."""

    INPUT: object
    OUTPUT: object


class MemoryPoolType(Protocol):
    """What a memory limit is for."""

    WORKSPACE: object


class BuilderFlag(Protocol):
    """Switches of a build."""

    TF32: object


class NetworkDefinitionCreationFlag(Protocol):
    """Switches of a network."""

    STRONGLY_TYPED: SupportsInt


class ITensor(Protocol):
    """A tensor of a network."""

    name: str


class INetworkDefinition(Protocol):
    """What the parser fills and the builder compiles."""

    def get_input(self, index: int) -> ITensor:
        """One input."""
        ...


class ParserError(Protocol):
    """What the parser objects to, and where."""

    def node_name(self) -> str:
        """Name of the ONNX node, or nothing."""
        ...

    def node_operator(self) -> str:
        """Its operator, or nothing."""
        ...

    def desc(self) -> str:
        """The reason."""
        ...


class OnnxParser(Protocol):
    """Reads ONNX into a network."""

    num_errors: int

    def parse(self, model: bytes) -> bool:
        """Read one file's bytes."""
        ...

    def get_error(self, index: int) -> ParserError:
        """One objection."""
        ...


class IOptimizationProfile(Protocol):
    """The range of shapes that an engine is built for."""

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        """The range of one input."""


class ITimingCache(Protocol):
    """Measurements that a later build need not take again."""

    def serialize(self) -> IHostMemory:
        """As bytes."""
        ...


class IBuilderConfig(Protocol):
    """How to build."""

    progress_monitor: IProgressMonitor

    def clear_flag(self, flag: object) -> None:
        """Switch off."""

    def set_memory_pool_limit(self, pool: object, pool_size: int) -> None:
        """Bytes."""

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        """The profile's index, or −1 where it is refused."""
        ...

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        """None where the bytes are of no use."""
        ...

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        """False where the cache is of another device or version."""
        ...

    def get_timing_cache(self) -> ITimingCache | None:
        """The one in use."""
        ...


class Builder(Protocol):
    """Compiles networks."""

    def create_network(self, flags: int) -> INetworkDefinition:
        """An empty network."""
        ...

    def create_builder_config(self) -> IBuilderConfig:
        """Settings to fill in."""
        ...

    def create_optimization_profile(self) -> IOptimizationProfile:
        """A profile to fill in."""
        ...

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        """The engine, or None where the log says why not."""
        ...


class IExecutionContext(Protocol):
    """What one thread needs to run an engine."""

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        """False where the shape is outside the profile."""
        ...

    def infer_shapes(self) -> Sequence[str]:
        """Names of the tensors whose shape is still open."""
        ...

    def set_tensor_address(self, name: str, memory: int) -> bool:
        """Where a tensor lies on the device."""
        ...

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Put one inference on the stream."""
        ...


class ICudaEngine(Protocol):
    """A loaded engine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str:
        """Name of one input or output."""
        ...

    def get_tensor_mode(self, name: str) -> object:
        """Whether it is an input."""
        ...

    def get_tensor_dtype(self, name: str) -> object:
        """Element type."""
        ...

    def get_tensor_shape(self, name: str) -> Sequence[int]:
        """Shape, −1 where it is open."""
        ...

    def create_execution_context(self) -> IExecutionContext | None:
        """None where memory does not suffice."""
        ...


class Runtime(Protocol):
    """Loads engines."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        """None where the log says why not."""
        ...


class Module(Protocol):
    """The module `tensorrt` or `tensorrt_rtx` itself."""

    __version__: str
    IProgressMonitor: type[IProgressMonitor]
    DataType: DataType
    TensorIOMode: TensorIOMode
    MemoryPoolType: MemoryPoolType
    BuilderFlag: BuilderFlag
    NetworkDefinitionCreationFlag: NetworkDefinitionCreationFlag
    Builder: Callable[[ILogger], Builder]
    OnnxParser: Callable[[INetworkDefinition, ILogger], OnnxParser]
    Runtime: Callable[[ILogger], Runtime]
    ILogger: type[ILogger]


class RtxEnumeration(Protocol):
    """An enumeration whose members are looked up by name."""

    __members__: Mapping[str, SupportsInt]


class RtxEngineValidity(Protocol):
    """Whether an engine fits this machine."""

    INVALID: object


class RtxBuilderConfig(Protocol):
    """Building for GPUs that are not here."""

    num_compute_capabilities: int

    def set_compute_capability(self, compute_capability: object, index: int) -> bool:
        """One target."""
        ...


class RtxRuntime(Protocol):
    """Asking before loading."""

    def get_engine_validity(self, buffer: bytes) -> tuple[object, SupportsInt]:
        """Whether an engine fits, and the reasons against it, one bit each."""
        ...


class RtxExecutionContext(Protocol):
    """Asking before capturing."""

    def is_stream_capturable(self, stream: int) -> bool:
        """Whether the next inference may go into a CUDA graph."""
        ...


class RtxModule(Protocol):
    """What the module `tensorrt_rtx` has besides."""

    ComputeCapability: RtxEnumeration
    EngineValidity: RtxEngineValidity
    EngineInvalidityDiagnostics: RtxEnumeration
