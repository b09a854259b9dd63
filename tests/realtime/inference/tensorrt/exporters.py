"""Arrays of other libraries as they describe themselves: DLPack capsules, old and new, and array interfaces."""

import ctypes
from dataclasses import dataclass, field
from typing import Any

_py = ctypes.pythonapi
_py.PyCapsule_New.restype = ctypes.py_object
_py.PyCapsule_New.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)

_NOTHING = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p).value
"""A C function without effect, as the one that frees an array."""

CUDA, HOST = 2, 1
UNSIGNED, FLOAT = 1, 2
READ_ONLY = 1


class _Tensor(ctypes.Structure):
    """`DLTensor` of dlpack.h."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    """`DLManagedTensor`."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _Versioned(ctypes.Structure):
    """`DLManagedTensorVersioned`."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


@dataclass(kw_only=True)
class DLPackArray:
    """Exports an address that is never read. Strides are in elements; None: contiguous."""

    shape: tuple[int, ...]
    strides: tuple[int, ...] | None = None
    address: int = 4096
    byte_offset: int = 0
    device: tuple[int, int] = (CUDA, 0)
    dtype: tuple[int, int] = (UNSIGNED, 8)
    is_versioned: bool = True
    flags: int = 0
    streams: list[object] = field(default_factory=list)
    """Streams that had to wait for the array, one per export."""
    alive: list[object] = field(default_factory=list)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, *, stream: object = None, max_version: tuple[int, int] | None = None, **_: Any) -> object:
        self.streams.append(stream)
        count = len(self.shape)
        shape = (ctypes.c_int64 * count)(*self.shape)
        strides = None if self.strides is None else (ctypes.c_int64 * count)(*self.strides)
        pointer = ctypes.POINTER(ctypes.c_int64)
        tensor = _Tensor(
            self.address, *self.device, count, *self.dtype, 1, ctypes.cast(shape, pointer),
            ctypes.cast(strides, pointer) if strides else None, self.byte_offset,
        )  # fmt: skip
        managed: ctypes.Structure
        if self.is_versioned and max_version is not None:
            managed, name = _Versioned(1, 0, None, _NOTHING, self.flags, tensor), b"dltensor_versioned"
        else:
            managed, name = _Managed(tensor, None, _NOTHING), b"dltensor"
        self.alive += [shape, strides, managed, name]
        return _py.PyCapsule_New(ctypes.addressof(managed), name, None)
