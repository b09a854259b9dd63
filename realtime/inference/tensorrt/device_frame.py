"""Frames in GPU memory, taken without a copy: from PyTorch, CuPy, PyCUDA, or anything with their protocols."""

import importlib
from dataclasses import dataclass
from typing import Any

from polypstream.errors import BackendError, MissingExtraError
from polypstream.realtime.cuda import Device

_DLPACK_CUDA = (2, 3, 13)
"""kDLCUDA, kDLCUDAHost and kDLCUDAManaged of dlpack.h."""


@dataclass(frozen=True, kw_only=True)
class DeviceFrame:
    """uint8 RGB on the GPU, (batch, height, width, 3), contiguous."""

    address: int
    batch: int
    is_single: bool
    """Whether it came without the batch axis."""
    owner: object
    """Keeps the memory alive as long as this object."""


def device_frame(frame: object, *, height: int, width: int, device: Device, stream: int) -> DeviceFrame:
    """Take a frame through DLPack or `__cuda_array_interface__`, without a copy.

    Args:
        frame: uint8 RGB of (height, width, 3) or (n, height, width, 3). PyCUDA must use the device's primary context
            (`import pycuda.autoprimaryctx`).
        height: Rows that the network takes.
        width: Columns that the network takes.
        device: The GPU of the network.
        stream: CUDA stream that waits for the frame's pending work.

    Raises:
        BackendError: The frame is on the host, on another GPU, or of another shape, type or layout.
    """
    kind = type(frame).__name__
    if not (hasattr(frame, "__dlpack__") or hasattr(frame, "__cuda_array_interface__")):
        raise BackendError(
            f"a {kind} is not a GPU array: it has neither __dlpack__ nor __cuda_array_interface__; "
            "give a PyTorch, CuPy or PyCUDA array"
        )
    where = getattr(frame, "__dlpack_device__", None)  # asked first, as host arrays reject being given a stream
    view = _view(frame, stream) if where is None or int(where()[0]) in _DLPACK_CUDA else None
    if view is None or not view.is_device_accessible:
        raise BackendError(
            f"this {kind} cannot be used: it is in host memory; pass host arrays to segment() or segment_batch()"
        )
    shape, size = tuple(view.shape), (height, width, 3)
    if str(view.dtype) != "uint8" or shape[-3:] != size or len(shape) not in (3, 4) or 0 in shape:
        raise BackendError(
            f"the network takes uint8 RGB of {size} or (n, {height}, {width}, 3), received {view.dtype} {shape}"
        )
    if not int(view.ptr):
        raise BackendError(f"the memory of this {kind} has the address 0; give a frame that still exists")
    if not _is_contiguous(shape, view.strides):
        raise BackendError(
            f"the frame is not contiguous (strides {tuple(view.strides)}); "
            "copy it first: .contiguous() in PyTorch, ascontiguousarray in CuPy"
        )
    if view.device_id != device.index:
        raise BackendError(
            f"the frame is on GPU {view.device_id}, the network on GPU {device.index}; use one GPU for both"
        )
    is_single = len(shape) == 3
    batch = 1 if is_single else shape[0]
    return DeviceFrame(address=int(view.ptr), batch=batch, is_single=is_single, owner=(view, frame))


def _view(frame: object, stream: int) -> Any:  # noqa: ANN401 - a Cython class
    try:
        views = importlib.import_module("cuda.core.utils")
    except ImportError as error:
        raise MissingExtraError("taking frames from the GPU", "rtx") from error
    try:
        return views.StridedMemoryView.from_any_interface(frame, stream_ptr=stream)
    except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, BufferError, AssertionError) as error:
        raise BackendError(
            f"this {type(frame).__name__} cannot be used as a GPU array "
            f"({str(error) or 'its description is not valid'}); copy it to the host and use segment()"
        ) from error


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether elements are contiguous in C order; strides are in elements, None means contiguous."""
    expected = 1
    for side, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if side > 1 and stride != expected:
            return False
        expected *= side
    return True
