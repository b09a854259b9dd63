"""Run by `test_device`: annotates on a machine whose driver is a stub, so that GPU memory is host memory.

PyAV and cuda-core are real. A stand-in for NVDEC uploads frames that the CPU decoded; the kernel is its C++ version.
"""

import ctypes
import json
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from av.video.frame import CudaContext

from polypstream.realtime import native
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.cuda import Device, core
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.video import decoding, device
from polypstream.realtime.video.container import open_video
from polypstream.realtime.video.damage import DamageLog
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.resize import ModelInputScaler
from polypstream.realtime.video.writer import Encoding
from tests.realtime.inference.tensorrt.exporters import DLPackArray

uploaded: list[object] = []
"""Keeps the memory of all frames."""


def upload(frame: av.VideoFrame, pixel_format: str = "nv12") -> av.VideoFrame:
    """A copy of a frame in GPU memory, with its times and color tags, and rows that are further apart."""
    host = frame.reformat(format=pixel_format)
    dtype: Any = np.uint16 if pixel_format == "p010le" else np.uint8
    bits, arrays = 8 * np.dtype(dtype).itemsize, []
    planes: Any = host.planes
    for plane in planes:
        rows = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        wide = np.zeros((plane.height, rows.shape[1] + 32), dtype)
        wide[:, : rows.shape[1]] = rows
        shape, strides = (plane.height, frame.width), (wide.shape[1], 1)
        arrays.append(
            DLPackArray(shape=shape, strides=strides, address=wide.ctypes.data, dtype=(1, bits), is_versioned=False)
        )
        uploaded.append(wide)
    uploaded.extend(arrays)
    core().Device(0).set_current()
    context = CudaContext(device_id=0, primary_ctx=False, current_ctx=True)
    made = av.VideoFrame.from_dlpack(arrays, format=pixel_format, cuda_context=context, primary_ctx=False)
    made.pts, made.duration = frame.pts, frame.duration
    made.color_range, made.colorspace = frame.color_range, frame.colorspace
    return made


class Preprocessor:
    """In place of the kernel."""

    def __init__(self, *kind: Any) -> None:
        self.format, self.size, self.part, self.out_size, self.matrix, self.is_full, self.stream = kind

    def run(self, frames: list[list[tuple[int, int]]], out: int, stream: int) -> None:
        assert stream == self.stream
        height, wide = self.size[1], self.format == "P010"
        sample: Any = ctypes.c_uint16 if wide else ctypes.c_uint8
        planes = [
            np.ctypeslib.as_array((sample * (rows * pitch // (1 + wide))).from_address(address)).reshape(rows, -1)
            for (address, pitch), rows in zip(frames[0], (height, height // 2), strict=True)
        ]
        settings = {"size": self.size, "out_size": self.out_size, "part": self.part}
        rgb = native.preprocess(
            [planes], pixel_format=self.format, matrix=self.matrix, is_full_range=self.is_full, **settings
        )
        ctypes.memmove(out, rgb.ctypes.data, rgb.nbytes)


def annotate(clip: Path, model: Path, folder: Path, *, decoder: Any, is_burned: bool) -> None:
    print(f"-- {folder.name}", flush=True)
    encoding = Encoding(quality="lossless") if is_burned else None
    config = AnnotateConfig(encoding=encoding, decoder=decoder, temporal=False)
    with OnnxRuntimeSegmenter(model) as segmenter:
        report = annotate_video(clip, folder, segmenter, config)
    print("notices", json.dumps(report.notices), flush=True)


def scale() -> None:
    """Frames of all kinds give the same image from GPU memory as from host memory."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    for pixel_format in ("nv12", "p010le"):
        for matrix in (1, 5, 9):
            host = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=pixel_format)
            host.colorspace, host.color_range = matrix, 2
            on_device = upload(host, pixel_format)
            assert device.pixel_format_of(on_device) == {"nv12": "yuv420p", "p010le": "yuv420p10le"}[pixel_format]
            scaler = ModelInputScaler()
            for size in ((32, 32), (40, 24), (32, 32)):
                found, expected = scaler.scale(on_device, size), scaler.scale(host, size)
                assert np.array_equal(found, expected), (pixel_format, matrix, size)
            scaler.close()
            scaler.close()


def main() -> None:
    clip, model, folder = map(Path, sys.argv[1:])
    found = Device(index=0, name="Stand-in 4090", compute_capability="sm89", memory_bytes=1)
    changed: Any = device
    changed.find_device = lambda: found
    changed.kernels = lambda: SimpleNamespace(DevicePreprocessor=Preprocessor)
    annotate(clip, model, folder / "cpu", decoder="cpu", is_burned=True)
    annotate(clip, model, folder / "software", decoder="cuda", is_burned=False)
    hardware, _ = device.hardware_for("cuda", backend="onnxruntime")
    with open_video(clip, hardware) as container:
        stream = container.streams.video[0]
        decoding.Decoder(stream, DamageLog(time_base=stream.time_base or Fraction(1), step=1))
        print("accelerated", stream.codec_context.is_hwaccel, stream.codec_context.thread_type.name, flush=True)
    with VideoReader(clip, hardware=hardware) as reader:
        print(
            "fallback", reader.video.codec_context.is_hwaccel, reader.video.codec_context.thread_type.name, flush=True
        )
    decoder: Any = decoding.Decoder
    logged = decoder._logged
    decoder._logged = lambda self, frames: logged(self, [upload(frame) for frame in frames])
    annotate(clip, model, folder / "records", decoder="cuda", is_burned=False)
    annotate(clip, model, folder / "burned", decoder="cuda", is_burned=True)
    print("-- scale", flush=True)
    scale()


if __name__ == "__main__":
    main()
