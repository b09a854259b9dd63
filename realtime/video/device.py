"""Frames that stay in GPU memory: decoded by NVDEC through PyAV, scaled there by the native module's kernel.

What remains on the GPU is the whole frame; the small image for the network comes back, since content area, tracks and
visibility are computed from it, too, and the rectangles that are drawn on. Nothing here imports `cuda` before a GPU is
asked for.
"""

import importlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Literal

import av
import numpy as np
from av.codec.hwaccel import HWAccel

from polypstream.arrays import Rgb, Size
from polypstream.errors import BackendError, MissingExtraError
from polypstream.realtime import native
from polypstream.realtime.cuda import Rows, copy_rows, core, find_device, reported, select
from polypstream.realtime.video.color import NATIVE_MATRICES, is_full_range, scaler_matrix

_CONTEXT: dict[str, object] = {"primary_ctx": "0", "current_ctx": "1"}
"""FFmpeg's own use of the primary context fails if TensorRT or cuda-core has activated it before."""
_FORMATS: Mapping[str, native.PixelFormat] = {"nv12": "NV12", "p010le": "P010"}
_PLANAR = {"nv12": "yuv420p", "p010le": "yuv420p10le"}


VideoDecoder = Literal["auto", "cpu", "cuda"]
"""What decodes a video; auto: the GPU if the network runs in TensorRT and everything for it is there."""


def hardware_for(decoder: VideoDecoder, *, backend: str) -> tuple[HWAccel | None, list[str]]:
    """What to decode with, and notices; frames then stay in GPU memory. None: the CPU.

    Makes the GPU the current one of the calling thread, which must open the video with it.

    Args:
        decoder: The choice of the user.
        backend: Name of the backend that runs the network.

    Raises:
        BackendError: The GPU is named, and something for it is missing.
        MissingExtraError: The GPU is named, and cuda-core is not installed.
    """
    if decoder == "cpu" or (decoder == "auto" and backend != "tensorrt"):
        return None, []
    try:
        kernels()
        device = find_device()
        select(device)
    except (BackendError, MissingExtraError) as error:
        if decoder == "cuda":
            raise
        return None, [f"the video is decoded on the CPU: {error}"]
    return HWAccel("cuda", device=str(device.index), is_hw_owned=True, options=_CONTEXT), []


def is_on_device(frame: av.VideoFrame) -> bool:
    """Whether a frame is in GPU memory."""
    return frame.format.name == "cuda"


def pixel_format_of(frame: av.VideoFrame) -> str:
    """FFmpeg's name of a frame's pixel format; in GPU memory, that in which the CPU would have decoded it."""
    name: str = frame.sw_format.name if is_on_device(frame) and frame.sw_format else frame.format.name
    return _PLANAR.get(name, name) if is_on_device(frame) else name


def downloaded(frame: av.VideoFrame) -> av.VideoFrame:
    """Copy a frame from GPU memory, with all of its properties; others are returned as they are."""
    return frame.reformat(format=pixel_format_of(frame)) if is_on_device(frame) else frame


def plane_rows(frame: av.VideoFrame) -> list[Rows]:
    """Address and bytes from row to row of each plane of a frame, in GPU memory or not."""
    planes: Any = frame.planes
    return [(plane.buffer_ptr, plane.line_size) for plane in planes]


Box = tuple[int, int, int, int]
"""Left, top, right and bottom of a rectangle in pixels, all even: it ends beyond the frame where the size is odd."""


def copy_boxes(frame: av.VideoFrame, host: av.VideoFrame, boxes: Sequence[Box], *, to_device: bool) -> None:
    """Copy rectangles between an NV12 or P010 frame in GPU memory and one in host memory, after the decoder's work.

    Both are done with the rectangles on return.

    Args:
        frame: The frame in GPU memory, whose context is current.
        host: A frame of the same size and of the pixel format `frame.sw_format`.
        boxes: What is copied, to the same place.
        to_device: Whether to copy to the GPU rather than from it.
    """
    sample_bytes = 2 if host.format.components[0].bits > 8 else 1
    planes = list(zip(plane_rows(host), plane_rows(frame), (1, 2), strict=True))
    for left, top, right, bottom in boxes:
        for on_host, on_device, down in planes:
            across = min(right, host.width) if down == 1 else right
            rows = (min(bottom, host.height) if down == 1 else bottom // 2) - top // down
            host_part, device_part = (
                (address + top // down * pitch + left * sample_bytes, pitch) for address, pitch in (on_host, on_device)
            )
            size = ((across - left) * sample_bytes, rows)
            copy_rows(host=host_part, device=device_part, size=size, to_device=to_device)
    if to_device:
        with reported("copying a part of a frame"):
            core().LEGACY_DEFAULT_STREAM.sync()


def kernels() -> ModuleType:
    """The native module; raises `BackendError` if it was built without CUDA kernels."""
    if not (native.is_available() and native.has_kernels()):
        raise BackendError(
            "polypstream was installed without CUDA kernels; install a CUDA compiler (nvcc), then polypstream again"
        )
    return importlib.import_module("polypstream._native")


class FrameKernel:
    """The kernel that scales frames in GPU memory, set up once per kind of frame and size."""

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], Any] = {}

    def enqueue(self, frame: av.VideoFrame, size: Size, *, out: int, stream: int) -> bool:
        """Put scaling to uint8 RGB at the address `out` on a stream, after the decoder's work.

        Returns:
            False if the kernel does not know this kind of frame; nothing is done then.
        """
        pixel_format = _FORMATS.get(frame.sw_format.name) if frame.sw_format else None
        matrix = NATIVE_MATRICES.get(scaler_matrix(frame))
        if pixel_format is None or matrix is None or frame.interlaced_frame:
            return False
        whole = (frame.width, frame.height)
        kind = (pixel_format, whole, (0.0, 0.0, *map(float, whole)), size, matrix, is_full_range(frame), stream)
        if kind not in self._made:
            self._made[kind] = kernels().DevicePreprocessor(*kind)
        with reported("waiting for the decoder"):
            core().Stream.from_handle(stream).wait(core().LEGACY_DEFAULT_STREAM)  # on which FFmpeg works
        self._made[kind].run([plane_rows(frame)], out, stream)
        return True


class DeviceScaler:
    """Scales frames in GPU memory for the network, on a stream of its own. Belongs to the thread that creates it."""

    def __init__(self) -> None:
        self._gpu = select(find_device())
        with reported("creating a stream"):
            self._stream = self._gpu.create_stream()
        self._kernel = FrameKernel()
        self._buffers: dict[Size, tuple[Any, Any, Rgb]] = {}

    def scale(self, frame: av.VideoFrame, size: Size) -> Rgb | None:
        """Scale a frame to uint8 RGB (H, W, 3) of `size` (width, height); None for kinds the kernel does not know.

        The GPU is done with the frame on return.
        """
        on_device, pinned, image = self._buffers_for(size)
        if not self._kernel.enqueue(frame, size, out=int(on_device.handle), stream=int(self._stream.handle)):
            return None
        with reported("scaling a frame"):
            on_device.copy_to(pinned, stream=self._stream)
            self._stream.sync()
        return image.copy()

    def close(self) -> None:
        """Free memory and stream."""
        with reported("freeing memory of the GPU"):
            self._stream.sync()
            for on_device, pinned, _ in self._buffers.values():
                pinned.close(self._stream)
                on_device.close(self._stream)
            self._buffers, self._kernel = {}, FrameKernel()
            self._stream.close()

    def _buffers_for(self, size: Size) -> tuple[Any, Any, Rgb]:
        if size not in self._buffers:
            count = size[0] * size[1] * 3
            with reported(f"allocating {count:,} bytes"):
                on_device = self._gpu.allocate(count, stream=self._stream)
                pinned = core().LegacyPinnedMemoryResource().allocate(count)
            self._buffers[size] = on_device, pinned, np.from_dlpack(pinned).view(np.uint8).reshape(size[1], size[0], 3)
        return self._buffers[size]
