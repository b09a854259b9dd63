"""A picture that already lies on the GPU, whoever made it: PyTorch, CuPy, PyCUDA, or anything with their protocols."""

import importlib
from dataclasses import dataclass
from typing import Any

from polypstream.errors import BackendError, MissingExtraError
from polypstream.realtime.tensorrt.cuda import Device

_HOST = "it lies in the computer's memory; hand host arrays to segment() or segment_batch()"


@dataclass(frozen=True, kw_only=True)
class DeviceFrame:
    """uint8 RGB on the GPU, (batch, height, width, 3), without gaps."""

    address: int
    batch: int
    is_single: bool
    """Whether it came without the batch axis."""
    owner: object
    """Keeps the memory alive while this lives."""


def device_frame(frame: object, *, height: int, width: int, device: Device, stream: int) -> DeviceFrame:
    """Take a frame through DLPack or `__cuda_array_interface__`, without a copy.

    `frame` is uint8 RGB of (height, width, 3) or (n, height, width, 3). What its maker still computes on it is waited
    for by `stream`. PyCUDA must share the device's primary context (`import pycuda.autoprimaryctx`).
    Raises `BackendError` where it is on the host, on another GPU, or of another shape, type or layout.
    """
    if not (hasattr(frame, "__dlpack__") or hasattr(frame, "__cuda_array_interface__")):
        raise BackendError(
            f"a {type(frame).__name__} is no GPU array: it has neither __dlpack__ nor __cuda_array_interface__; "
            "give a PyTorch, CuPy or PyCUDA array"
        )
    if not _is_on_device(frame):
        raise BackendError(f"this {type(frame).__name__} cannot be taken as it is: {_HOST}")
    view = _view(frame, stream)
    if not view.is_device_accessible:
        raise BackendError(f"this {type(frame).__name__} cannot be taken as it is: {_HOST}")
    shape = tuple(view.shape)
    picture = (height, width, 3)
    if str(view.dtype) != "uint8" or shape[-3:] != picture or len(shape) not in (3, 4) or 0 in shape:
        raise BackendError(
            f"the network takes uint8 RGB of {picture} or (n, {height}, {width}, 3), received {view.dtype} {shape}"
        )
    if not _has_no_gaps(shape, view.strides):
        raise BackendError(
            f"the frame's rows or pixels do not lie one after the other (strides {tuple(view.strides)}); "
            "make it contiguous first: .contiguous() in PyTorch, ascontiguousarray in CuPy"
        )
    if view.device_id != device.index:
        raise BackendError(
            f"the frame lies on GPU {view.device_id}, the network on GPU {device.index}; bring both to one"
        )
    is_single = len(shape) == 3
    batch = 1 if is_single else shape[0]
    return DeviceFrame(address=int(view.ptr), batch=batch, is_single=is_single, owner=(view, frame))


def _is_on_device(frame: object) -> bool:
    """Whether DLPack places it on the GPU, before a stream is offered to it, which host arrays refuse."""
    where = getattr(frame, "__dlpack_device__", None)
    return where is None or int(where()[0]) in _DLPACK_CUDA


_DLPACK_CUDA = (2, 3, 13)
"""kDLCUDA, kDLCUDAHost and kDLCUDAManaged of dlpack.h."""


def _view(frame: object, stream: int) -> Any:  # noqa: ANN401 - a Cython class
    try:
        views = importlib.import_module("cuda.core.utils")
    except ImportError as error:
        raise MissingExtraError("taking frames from the GPU", "rtx") from error
    try:
        return views.StridedMemoryView.from_any_interface(frame, stream_ptr=stream)
    except (RuntimeError, TypeError, ValueError, AttributeError, BufferError) as error:
        raise BackendError(
            f"this {type(frame).__name__} cannot be taken as a GPU array ({error}); "
            "copy it to the host and use segment()"
        ) from error


def _has_no_gaps(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether elements follow each other in C order; strides in elements, None meaning just that."""
    if strides is None:
        return True
    expected = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side > 1 and stride != expected:
            return False
        expected *= side
    return True
