"""A stream's work on a device, step by step: what the benchmark times, on a GPU or, to try the script, on a CPU."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from itertools import cycle
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import av
import numpy as np
from av.codec.hwaccel import HWAccel

from benchmarks.gpu.progress import Unavailable
from benchmarks.gpu.timing import seconds_of
from polypstream.arrays import Probability, Rgb
from polypstream.realtime import native
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.outlines.drawing import CASING_RGB, MarkerStyle, marker_band
from polypstream.realtime.video.color import color_values
from polypstream.realtime.video.planes import planes_of
from polypstream.realtime.video.resize import ModelInputScaler

STYLE = MarkerStyle()


class Lane(AbstractContextManager["Lane"], Protocol):
    """One stream: a clip, decoded over and over, and a network of its own; for the thread that enters it.

    Each step works on the result of the one before, and returns when the device is done with it.
    """

    def decode(self) -> None:
        """Decode the next frame."""

    def preprocess(self) -> None:
        """Scale the frame to the network's input."""

    def infer(self) -> None:
        """Run the network on this input; the probability is on the device and in host memory."""

    def infer_from_host(self) -> None:
        """The same, with the input copied from host memory first."""

    def enqueued(self) -> str:
        """How the last inference was started, for the report."""
        ...

    def mark(self) -> None:
        """Draw the outline of the probability into the frame."""

    def encode(self) -> None:
        """Encode the frame."""


class Platform(Protocol):
    """A device and what it can do."""

    def describe(self) -> dict[str, object]:
        """The device and the versions of its software."""
        ...

    def copy_rates(self, size: int, *, repeats: int) -> dict[str, float]:
        """Bytes per second of copies of `size` bytes between pinned host memory and the device, and on it.

        A copy on the device counts twice, as it reads and writes.
        """
        ...

    def matrix_rate(self, side: int, *, repeats: int) -> dict[str, object]:
        """FLOP per second of the product of two square matrices in half precision, and the library used."""
        ...

    def lane(self, model: Path, clip: Path, *, graph: bool = True) -> Lane:
        """A stream that is still to be entered."""
        ...

    def segmenter(self, model: Path, *, batches: bool = False) -> Segmenter:
        """A network alone; with `batches`, one that several streams share."""
        ...


def endless_frames(clip: Path, hardware: HWAccel | None = None) -> Iterator[av.VideoFrame]:
    """Decode a clip over and over in one decoder, without reading the file again."""
    with av.open(str(clip), hwaccel=hardware) as container:
        stream = container.streams.video[0]
        if hardware is None:
            stream.thread_type = "SLICE"  # no frames of delay
        packets = [packet for packet in container.demux(stream) if packet.size]
        for packet in cycle(packets):
            yield from stream.decode(packet)


@dataclass(kw_only=True)
class Encoder:
    """Encodes frames into nothing, at the settings of a live stream."""

    codec: str
    width: int
    height: int
    pixel_format: str
    options: Mapping[str, str]

    def __post_init__(self) -> None:
        context: Any = av.CodecContext.create(self.codec, "w")
        context.width, context.height, context.pix_fmt = self.width, self.height, self.pixel_format
        context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
        context.options = dict(self.options)
        self.context = context
        self.frames = 0

    def encode(self, frame: av.VideoFrame) -> None:
        """Encode one more frame."""
        frame.pts, frame.time_base = self.frames, Fraction(1, 30)
        frame.pict_type = av.video.frame.PictureType.NONE
        self.frames += 1
        self.context.encode(frame)


class CpuPlatform:
    """A CPU in place of a GPU, to try the script: ONNX Runtime, and the native module's C++ versions."""

    def describe(self) -> dict[str, object]:
        """Name it as what it is."""
        return {"device": "CPU in place of a GPU (dry run)", "native": native.is_available()}

    def copy_rates(self, size: int, *, repeats: int) -> dict[str, float]:
        """Copies in host memory, under the names of a GPU's."""
        source, target = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        rate = size / seconds_of(lambda: np.copyto(target, source), repeats=repeats)
        return {"host_to_device": rate, "device_to_host": rate, "on_device": 2 * rate}

    def matrix_rate(self, side: int, *, repeats: int) -> dict[str, object]:
        """In single precision, by NumPy."""
        matrix = np.ones((side, side), np.float32)
        seconds = seconds_of(lambda: matrix @ matrix, repeats=repeats)
        return {"flop_per_s": 2 * side**3 / seconds, "library": "numpy, float32"}

    def lane(self, model: Path, clip: Path, *, graph: bool = True) -> Lane:
        """A stream in one thread; there are no graphs."""
        return CpuLane(model, clip)

    def segmenter(self, model: Path, *, batches: bool = False) -> Segmenter:
        """In ONNX Runtime, without batches."""
        return OnnxRuntimeSegmenter(model)


class CpuLane:
    """The steps on a CPU; see `Lane`."""

    def __init__(self, model: Path, clip: Path) -> None:
        self._segmenter = OnnxRuntimeSegmenter(model, threads=1)
        self._clip, self._scaler = clip, ModelInputScaler()
        self._encoder: Encoder | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._frame: av.VideoFrame | None = None
        self._rgb: Rgb | None = None
        self._probability: Probability | None = None

    def __enter__(self) -> Self:
        self._segmenter.__enter__()
        self._rgb = np.zeros((self._segmenter.height, self._segmenter.width, 3), np.uint8)
        self._frames = endless_frames(self._clip)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames = iter(())
        self._segmenter.__exit__(kind, error, trace)

    @property
    def frame(self) -> av.VideoFrame:
        """The last decoded frame."""
        assert self._frame is not None, "decode first"
        return self._frame

    def decode(self) -> None:
        """See `Lane`."""
        self._frame = next(self._frames)

    def preprocess(self) -> None:
        """See `Lane`."""
        self._rgb = self._scaler.scale(self.frame, (self._segmenter.width, self._segmenter.height))

    def infer(self) -> None:
        """See `Lane`."""
        assert self._rgb is not None, "preprocess first"
        self._probability = self._segmenter.segment(self._rgb)

    def infer_from_host(self) -> None:
        """The same as `infer`."""
        self.infer()

    def enqueued(self) -> str:
        """By a call."""
        return "call of ONNX Runtime"

    def mark(self) -> None:
        """See `Lane`."""
        if not native.is_available():
            raise Unavailable("the native module is not built")
        assert self._probability is not None, "infer first"
        frame = self.frame
        frame.make_writable()
        native.mark(
            planes_of(frame),
            self._probability,
            threshold=self._segmenter.contract.threshold,
            band=marker_band(STYLE, height=frame.height),
            line=color_values(frame, STYLE.rgb),
            casing=color_values(frame, CASING_RGB),
        )

    def encode(self) -> None:
        """By libx264 in place of NVENC."""
        frame = self.frame
        if self._encoder is None:
            options = {"preset": "ultrafast", "tune": "zerolatency"}
            self._encoder = Encoder(
                codec="libx264", width=frame.width, height=frame.height, pixel_format="yuv420p", options=options
            )
        self._encoder.encode(frame)
