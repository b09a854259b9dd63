"""The GPU: looked up through cuda-bindings, used through cuda-core, with errors that say what to do."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from polypstream.errors import (
    BackendError,
    ConfigError,
    MissingExtraError,
    PolypstreamError,
    ProviderMissingError,
)

_ON_CPU = "or use the onnxruntime backend"
_FIXES = {
    "outofmemory": "the GPU's memory is full: close other programs that use it, or use a smaller batch "
    f"or a model of lower precision, {_ON_CPU}",
    "unavailable": f"another program uses the GPU exclusively: close it, {_ON_CPU}",
    "drivermismatch": "the driver was updated while the machine was running: restart it",
}
"""By a part of the error's name, which the driver and the runtime spell differently."""
_FIX = f"start the program again; if that does not help, update the NVIDIA driver, {_ON_CPU}"


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU of this machine."""

    index: int
    name: str
    compute_capability: str
    """Such as `sm89`."""
    memory_bytes: int


def find_device(index: int = 0) -> Device:
    """Describe a GPU. Call this first: it is the only call that is safe without a driver.

    Raises:
        MissingExtraError: cuda-bindings is not installed.
        ProviderMissingError: There is no driver.
        BackendError: The driver is too old or sees no GPU.
        ConfigError: There are GPUs, but none with this index.
    """
    rt = imported("cuda.bindings.runtime")
    error, count = rt.cudaGetDeviceCount()
    if error.name == "cudaErrorInsufficientDriver":
        raise _driver_error(rt)
    if error.name == "cudaErrorNoDevice" or (not int(error) and not count):
        raise BackendError(f"the NVIDIA driver sees no GPU; check CUDA_VISIBLE_DEVICES and nvidia-smi, {_ON_CPU}")
    if int(error):
        raise _failed("finding a GPU", error.name)
    if not 0 <= index < count:
        raise ConfigError(f"there is no GPU {index}; this machine has {count}, counted from 0")
    error, found = rt.cudaGetDeviceProperties(index)
    if int(error):
        raise _failed("describing the GPU", error.name)
    return Device(
        index=index,
        name=found.name.decode() if isinstance(found.name, bytes) else str(found.name),
        compute_capability=f"sm{found.major}{found.minor}",
        memory_bytes=int(found.totalGlobalMem),
    )


def select(device: Device) -> Any:  # noqa: ANN401 - cuda-core's own class
    """Make a GPU the current one of this thread, for TensorRT, too; returns its `cuda.core.Device`."""
    with reported("selecting the GPU"):
        selected = core().Device(device.index)
        selected.set_current()
    return selected


def core() -> Any:  # noqa: ANN401 - a module without types
    """The module `cuda.core`, whose calls crash nothing once `find_device` has found a GPU."""
    return imported("cuda.core")


def free_bytes() -> int:
    """Free memory of the current GPU in bytes; 0 if CUDA does not tell."""
    error, free, _ = imported("cuda.bindings.runtime").cudaMemGetInfo()
    return 0 if int(error) else int(free)


Rows = tuple[int, int]
"""Where rows of bytes are: the address of the first one, and bytes from row to row."""


def copy_rows(*, host: Rows, device: Rows, size: tuple[int, int], to_device: bool) -> None:
    """Copy a rectangle between host memory and the current GPU, after the work on the default stream.

    A copy to the host is complete on return, one to the GPU after the default stream has been waited for.

    Args:
        host: The rectangle in host memory.
        device: The rectangle in GPU memory.
        size: Its bytes per row, and rows.
        to_device: Whether to copy to the GPU rather than from it.

    Raises:
        BackendError: The driver refuses.
    """
    driver = imported("cuda.bindings.driver")
    copy, kinds = driver.CUDA_MEMCPY2D(), driver.CUmemorytype
    if to_device:
        copy.srcMemoryType, (copy.srcHost, copy.srcPitch) = kinds.CU_MEMORYTYPE_HOST, host
        copy.dstMemoryType, (copy.dstDevice, copy.dstPitch) = kinds.CU_MEMORYTYPE_DEVICE, device
    else:
        copy.srcMemoryType, (copy.srcDevice, copy.srcPitch) = kinds.CU_MEMORYTYPE_DEVICE, device
        copy.dstMemoryType, (copy.dstHost, copy.dstPitch) = kinds.CU_MEMORYTYPE_HOST, host
    copy.WidthInBytes, copy.Height = size
    (error,) = driver.cuMemcpy2D(copy)
    if int(error):
        raise _failed("copying a part of a frame", error.name)


@contextmanager
def reported(doing: str) -> Iterator[None]:
    """Turn cuda-core's errors within the block into `BackendError` with a fix."""
    try:
        yield
    except PolypstreamError:
        raise
    except Exception as error:
        if not isinstance(error, RuntimeError) and type(error).__name__ != "CUDAError":  # which is private to cuda-core
            raise
        raise _failed(doing, " ".join(str(error).split())) from error


def imported(name: str) -> Any:  # noqa: ANN401
    """A module of cuda-bindings or cuda-core; raises `MissingExtraError` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingExtraError("running on an NVIDIA GPU", "rtx") from error


def _failed(doing: str, reason: str) -> BackendError:
    name_of_error = reason.partition(":")[0].replace("_", "").lower()
    fix = next((fix for part, fix in _FIXES.items() if part in name_of_error), _FIX)
    return BackendError(f"{doing} failed: {reason}; {fix}")


def _driver_error(rt: Any) -> BackendError:  # noqa: ANN401
    (_, driver), (_, wanted) = rt.cudaDriverGetVersion(), rt.cudaRuntimeGetVersion()
    if not driver:
        return ProviderMissingError(f"there is no NVIDIA driver on this machine; install it, {_ON_CPU}")
    supported, installed = (f"{number // 1000}.{number % 1000 // 10}" for number in (driver, wanted))
    return BackendError(
        f"the NVIDIA driver supports CUDA {supported}, and CUDA {installed} is installed; update the driver, {_ON_CPU}"
    )
