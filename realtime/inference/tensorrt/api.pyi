# Types of the TensorRT names that this package uses, and no others, with TensorRT's names.
#
# mypy checks the code against these classes; a test checks them against the names of TensorRT 10.16 and 11.4 and of the
# installed TensorRT-RTX. Classes that begin with `Rtx` describe what only TensorRT-RTX has, and are accessed through
# `adapter.TensorRt.rtx` alone.
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, SupportsInt

class ILogger(Protocol):
    WARNING: SupportsInt
    def log(self, severity: SupportsInt, message: str) -> None: ...

class IProgressMonitor(Protocol):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool: ...  # False cancels
    def phase_finish(self, phase_name: str) -> None: ...

class IHostMemory(Protocol):
    nbytes: int
    def __buffer__(self, flags: int, /) -> memoryview: ...

class DataType(Protocol):
    UINT8: object
    FLOAT: object

class TensorIOMode(Protocol):
    INPUT: object
    OUTPUT: object

class MemoryPoolType(Protocol):
    WORKSPACE: object

class BuilderFlag(Protocol):
    TF32: object

class NetworkDefinitionCreationFlag(Protocol):
    STRONGLY_TYPED: SupportsInt

class ITensor(Protocol):
    name: str

class INetworkDefinition(Protocol):
    def get_input(self, index: int) -> ITensor: ...

class ParserError(Protocol):
    def node_name(self) -> str: ...
    def node_operator(self) -> str: ...
    def desc(self) -> str: ...

class OnnxParser(Protocol):
    num_errors: int
    def parse(self, model: bytes) -> bool: ...
    def get_error(self, index: int) -> ParserError: ...

class IOptimizationProfile(Protocol):
    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None: ...

class ITimingCache(Protocol):
    def serialize(self) -> IHostMemory: ...

class IBuilderConfig(Protocol):
    progress_monitor: IProgressMonitor
    def clear_flag(self, flag: object) -> None: ...
    def set_memory_pool_limit(self, pool: object, pool_size: int) -> None: ...
    def add_optimization_profile(self, profile: IOptimizationProfile) -> int: ...  # -1 if it is rejected
    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None: ...
    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> ITimingCache | None: ...

class Builder(Protocol):
    def create_network(self, flags: int) -> INetworkDefinition: ...
    def create_builder_config(self) -> IBuilderConfig: ...
    def create_optimization_profile(self) -> IOptimizationProfile: ...
    # None on failure; the log says why
    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None: ...

class IExecutionContext(Protocol):
    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool: ...  # False if the shape is outside the profile
    def infer_shapes(self) -> Sequence[str]: ...
    def set_tensor_address(self, name: str, memory: int) -> bool: ...
    def execute_async_v3(self, stream_handle: int) -> bool: ...

class ICudaEngine(Protocol):
    num_io_tensors: int
    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_mode(self, name: str) -> object: ...
    def get_tensor_dtype(self, name: str) -> object: ...
    def get_tensor_shape(self, name: str) -> Sequence[int]: ...  # Shape; −1 for dynamic dimensions
    def create_execution_context(self) -> IExecutionContext | None: ...  # None if memory does not suffice

class Runtime(Protocol):
    def deserialize_cuda_engine(
        self, serialized_engine: bytes
    ) -> ICudaEngine | None: ...  # None on failure; the log says why

class Module(Protocol):
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
    __members__: Mapping[str, SupportsInt]

class RtxEngineValidity(Protocol):
    INVALID: object

class RtxBuilderConfig(Protocol):
    num_compute_capabilities: int
    def set_compute_capability(self, compute_capability: object, index: int) -> bool: ...

class RtxRuntime(Protocol):
    def get_engine_validity(
        self, buffer: bytes
    ) -> tuple[object, SupportsInt]: ...  # Whether an engine fits, and the reasons against it, one bit each

class RtxExecutionContext(Protocol):
    def is_stream_capturable(self, stream: int) -> bool: ...

class RtxModule(Protocol):
    ComputeCapability: RtxEnumeration
    EngineValidity: RtxEngineValidity
    EngineInvalidityDiagnostics: RtxEnumeration
