"""The parts of the benchmark, in order; each yields one result that is stored at once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from benchmarks.gpu.lanes import Lane, Platform
from benchmarks.gpu.networks import EXACT, SHIPPED, cost, network_file
from benchmarks.gpu.plugin import plugin_times
from benchmarks.gpu.progress import Result, Unavailable
from benchmarks.gpu.timing import run_streams, samples_of, spread_ms
from polypstream.arrays import Size
from polypstream.models import INT8, PLAIN, default_model, shipped_model
from polypstream.realtime.inference.shared import SharedSegmenter
from polypstream.synthetic import SyntheticClip, write_clip

Part = tuple[str, Callable[[], Result]]
FPS = 30


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is measured: sizes of frames in pixels, of copies in bytes, of matrices in rows, times in seconds."""

    sizes: Mapping[str, Size]
    streams: tuple[int, ...]
    step_s: float
    streams_s: float
    copy_bytes: int
    matrix_side: int
    repeats: int
    clip_frames: int


FULL = Amounts(
    sizes={"720p": (1280, 720), "1080p": (1920, 1080)},
    streams=(1, 2, 4, 8, 16),
    step_s=1.5,
    streams_s=3,
    copy_bytes=256 << 20,
    matrix_side=8192,
    repeats=20,
    clip_frames=30,
)
TINY = Amounts(
    sizes={"96p": (128, 96), "180p": (320, 180)},
    streams=(1, 2),
    step_s=0.02,
    streams_s=0.05,
    copy_bytes=1 << 20,
    matrix_side=64,
    repeats=2,
    clip_frames=4,
)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is measured, on what."""

    platform: Platform
    amounts: Amounts
    work: Path
    """Folder for clips, exported networks and engines."""
    networks: Mapping[str, Path]
    """Exported files by the network's name; without any, the shipped one and the exact ResUNet++."""
    data: Path | None
    """Folder of the labeled images, for the drift."""
    int8: Path | None
    """INT8 file for TensorRT."""

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the networks."""
        return tuple(self.networks) or (SHIPPED, EXACT)

    def file(self, name: str) -> Path:
        """The ONNX file of a network; raises `Unavailable` if there is none."""
        return self.networks.get(name) or network_file(name, self.work)

    def clip(self, size: str) -> Path:
        """A synthetic clip, written on the first call."""
        width, height = self.amounts.sizes[size]
        path = self.work / f"{size}-{self.amounts.clip_frames}.mp4"
        if not path.exists():
            self.work.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(".part.mp4")
            seconds = self.amounts.clip_frames / FPS
            write_clip(unfinished, SyntheticClip(width=width, height=height, fps=FPS, seconds=seconds))
            unfinished.replace(path)
        return path

    def lane(self, name: str, size: str, *, graph: bool = True) -> Lane:
        """A stream of a network on a clip."""
        return self.platform.lane(self.file(name), self.clip(size), graph=graph)


def parts(bench: Bench) -> Iterator[Part]:
    """List all parts: first what the device can do at most, last what needs labeled data."""
    amounts, platform = bench.amounts, bench.platform
    yield "copies", lambda: dict(platform.copy_rates(amounts.copy_bytes, repeats=amounts.repeats))
    yield "matrix", lambda: platform.matrix_rate(amounts.matrix_side, repeats=amounts.repeats)
    for name in bench.names:
        yield f"cost/{name}", partial(_cost, bench, name)
        yield f"engine/{name}", partial(_engine, bench, name)
    for name in bench.names:
        for size in amounts.sizes:
            yield f"steps/{name}/{size}", partial(_steps, bench, name, size)
    for name in bench.names:
        for count in amounts.streams:
            yield f"bare/{name}/{count}", partial(_bare, bench, name, count)
            yield f"shared/{name}/{count}", partial(_shared, bench, name, count)
            for size in amounts.sizes:
                yield f"streams/{name}/{size}/{count}", partial(_streams, bench, name, size, count)
    for name in bench.names:
        yield f"plugin/{name}", partial(_plugin, bench, name)
    for precision in ("fp32", "fp16", "int8"):
        yield f"drift/{precision}", partial(_drift, bench, precision)


def _cost(bench: Bench, name: str) -> Result:
    return cost(bench.file(name))


def _engine(bench: Bench, name: str) -> Result:
    """Time the network alone: with a CUDA graph, without, and from host memory."""
    size, seconds = next(iter(bench.amounts.sizes)), bench.amounts.step_s
    result: Result = {}
    with bench.lane(name, size) as lane:
        result["with_graph"] = spread_ms(samples_of(lane.infer, seconds=seconds))
        result["enqueued"] = lane.enqueued()
        result["from_host"] = spread_ms(samples_of(lane.infer_from_host, seconds=seconds))
    with bench.lane(name, size, graph=False) as lane:
        result["without_graph"] = spread_ms(samples_of(lane.infer, seconds=seconds))
    return result


def _plugin(bench: Bench, name: str) -> Result:
    return plugin_times(bench.file(name), seconds=bench.amounts.step_s)


def _steps(bench: Bench, name: str, size: str) -> Result:
    """Time each step alone; one that is not available is reported, and the others are timed."""
    result: Result = {}
    with bench.lane(name, size) as lane:
        steps: dict[str, tuple[Callable[[], None], Callable[[], None] | None]] = {
            "decode": (lane.decode, None),
            "preprocess": (lane.preprocess, None),
            "engine": (lane.infer, None),
            "mark": (lane.mark, lane.decode),
            "encode": (lane.encode, lane.decode),
        }
        for step, (work, before) in steps.items():
            try:
                result[step] = spread_ms(samples_of(work, seconds=bench.amounts.step_s, before=before))
            except Unavailable as reason:
                result[step] = {"skipped": str(reason)}
    return result


def _bare(bench: Bench, name: str, count: int) -> Result:
    """Run the network alone in as many contexts as there are streams: the limit for these."""
    size = next(iter(bench.amounts.sizes))
    bench.clip(size)
    open_lane = partial(bench.lane, name, size)
    return run_streams(open_lane, lambda lane: lane.infer(), count=count, seconds=bench.amounts.streams_s)


def _shared(bench: Bench, name: str, count: int) -> Result:
    """Run a single network, from host memory, that as many streams share as `live` does: in batches, where it can."""
    segmenter = bench.platform.segmenter(bench.file(name), batches=True)
    image = np.zeros((segmenter.height, segmenter.width, 3), np.uint8)
    with SharedSegmenter(segmenter) as shared:
        return run_streams(shared.lane, lambda lane: lane.segment(image), count=count, seconds=bench.amounts.streams_s)


def _streams(bench: Bench, name: str, size: str, count: int) -> Result:
    """Run whole streams, from the packet to the marked frame, without encoding."""
    bench.clip(size)
    open_lane = partial(bench.lane, name, size)
    return run_streams(open_lane, _whole, count=count, seconds=bench.amounts.streams_s)


def _whole(lane: Lane) -> None:
    lane.decode()
    lane.preprocess()
    lane.infer()
    lane.mark()


def _drift(bench: Bench, precision: str) -> Result:
    """Compare Dice on the device with the float32 file on the CPU, image by image."""
    if bench.data is None:
        raise Unavailable("no --data")
    try:
        from benchmarks.dice_drift import clip_samples, compare, test_samples
    except ImportError as error:
        raise Unavailable(f"the drift needs polypstream[export]: {error}") from error
    from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter

    file = {"fp32": shipped_model(PLAIN), "fp16": default_model("tensorrt"), "int8": bench.int8}[precision]
    if file is None:
        raise Unavailable(f"no --quantized; {INT8} is for ONNX Runtime: export one with --for tensorrt")
    result: Result = {"file": file.name}
    with OnnxRuntimeSegmenter(shipped_model(PLAIN)) as reference, bench.platform.segmenter(file) as run:
        for name, samples in {"test split": test_samples, "clip": clip_samples}.items():
            result[name] = compare(list(samples(bench.data)), reference.segment, run)
    return result
