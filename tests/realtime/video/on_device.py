"""Run by `test_device`: annotates on a machine whose driver is a stub, so that GPU memory is host memory.

PyAV and cuda-core are real. A stand-in for NVDEC uploads frames that the CPU decoded; the kernel is its C++ version.
"""

import ctypes
import io
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
from polypstream.realtime.outlines.contours import polyp_from_contour
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_markers
from polypstream.realtime.video import decoding, device, writer
from polypstream.realtime.video.container import open_video
from polypstream.realtime.video.damage import DamageLog
from polypstream.realtime.video.planes import planes_of
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.resize import ModelInputScaler
from polypstream.realtime.video.writer import Encoding
from tests.realtime.inference.tensorrt.exporters import DLPackArray

COLOR = ("colorspace", "color_range")
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


def keep_on_device(formats: dict[str, str]) -> None:
    """Let the CPU's encoder stand in for NVENC: PyAV downloads what it is given in GPU memory, after the drawing."""
    changed: Any = writer
    add, on_host = changed.add_video_stream, {stored: name for name, stored in formats.items()}

    def added(container: Any, encoding: Any, info: Any, pixel_format: str, *, has_aspect: bool, hardware: Any) -> Any:
        nvenc: Any = SimpleNamespace(encoder=av.Codec("hevc_nvenc", "w"), options=dict, quality=18)
        unused: Any = av.open(io.BytesIO(), "w", format="mp4")
        context = add(unused, nvenc, info, pixel_format, has_aspect=has_aspect, hardware=hardware).codec_context
        try:
            unused.start_encoding()
        except av.FFmpegError as error:
            print("nvenc", context.pix_fmt, context.sw_format.name, error.strerror, flush=True)
        return add(container, encoding, info, on_host[pixel_format], has_aspect=has_aspect)

    changed.device_format = lambda encoder, info: formats[info.pixel_format]
    changed.add_video_stream = added


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


def outline(x: float, y: float, radius: float) -> Any:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    contour = np.stack((x + radius * np.cos(angle), y + radius * np.sin(angle)), axis=1)
    return polyp_from_contour(contour.astype(np.float32), score=0.9)


def noise(pixel_format: str, width: int, height: int) -> av.VideoFrame:
    rgb = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    made = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format=pixel_format)
    made.colorspace, made.color_range = 1, 2
    return made


def samples(frame: av.VideoFrame) -> list[bytes]:
    return [plane.samples.tobytes() for plane in planes_of(frame)]


def draw() -> None:
    """A frame in GPU memory gets the same bytes as one in host memory, wherever the polyps are."""
    polyps = {
        "none": [],
        "one": [outline(40.3, 30.6, 15)],
        "edges": [outline(2, 3, 20), outline(130, 90, 12)],
        "overlapping": [outline(60, 40, 18), outline(70.5, 44.2, 14), outline(20, 70, 9)],
        "outside": [outline(-80, 40, 20)],
        "around": [outline(60, 40, 500)],
    }
    style = MarkerStyle(thickness=0.03, casing=0.02, opacity=0.8)
    for pixel_format in ("nv12", "p010le"):
        for width, height in ((128, 96), (129, 97), (127, 94)):
            for name, each in polyps.items():
                expected, on_device = noise(pixel_format, width, height), noise(pixel_format, width, height)
                described: Any = SimpleNamespace(
                    format=av.VideoFormat("cuda"),  # whose memory is the host's, since the driver is a stub
                    sw_format=av.VideoFormat(pixel_format, width, height),
                    **{key: getattr(on_device, key) for key in ("width", "height", "planes", *COLOR)},
                )
                draw_markers(expected, each, style)
                draw_markers(described, each, style)
                assert samples(on_device) == samples(expected), (pixel_format, width, height, name)
                is_changed = samples(expected) != samples(noise(pixel_format, width, height))
                assert is_changed == (name not in ("none", "outside", "around")), name
    shared = upload(noise("nv12", 128, 96))
    before, reference = device.downloaded(shared).to_ndarray(), shared.planes[0].__dlpack__()
    address = device.plane_rows(shared)[0]
    shared.make_writable()
    draw_markers(shared, polyps["one"], style)
    assert device.plane_rows(shared)[0] != address, "the decoder's memory is left alone while it refers to it"
    assert not np.array_equal(device.downloaded(shared).to_ndarray(), before)
    assert np.array_equal(uploaded_luma(address, 128, 96), before[:96])
    del reference


def uploaded_luma(rows: tuple[int, int], width: int, height: int) -> np.ndarray:
    address, pitch = rows
    memory = (ctypes.c_uint8 * (height * pitch)).from_address(address)
    return np.ctypeslib.as_array(memory).reshape(height, pitch)[:, :width]


def main() -> None:
    clip, deep, model, folder = map(Path, sys.argv[1:])
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
    formats = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
    decoder._logged = lambda self, frames: logged(self, [upload(frame, formats[frame.format.name]) for frame in frames])
    annotate(clip, model, folder / "records", decoder="cuda", is_burned=False)
    annotate(clip, model, folder / "burned", decoder="cuda", is_burned=True)
    annotate(deep, model, folder / "burned deep", decoder="cuda", is_burned=True)
    keep_on_device(formats)
    annotate(clip, model, folder / "kept", decoder="cuda", is_burned=True)
    annotate(deep, model, folder / "kept deep", decoder="cuda", is_burned=True)
    print("-- scale", flush=True)
    scale()
    print("-- draw", flush=True)
    draw()


if __name__ == "__main__":
    main()
