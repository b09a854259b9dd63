"""Throughput benchmark: speed of each stage, the model alone, the whole job, and the loops people use instead.

Run with `python -m benchmarks.throughput [--video CLIP] [--plain PLAIN.onnx]`; without a clip, a synthetic one is used.
All contestants alternate for several rounds in one process. Ratios are computed within each round, as they are
reproducible on a noisy machine where frames per second are not. `--plain` is the same network exported in float32
without optimizations; the OpenCV loop then runs with it.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.peers import opencv_loop_fps, supervision_fps
from benchmarks.report import RESULTS, write_report
from polypstream.arrays import Rgb
from polypstream.models import default_model
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import export_recording
from polypstream.realtime.annotate.formats.recording import open_recording
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference.model_input import ModelInputs, segment_input
from polypstream.realtime.inference.segmenter import BACKENDS, Segmenter, segmenter_from_onnx
from polypstream.realtime.outlines.contours import polyps_from_probability
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_markers
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.resize import ModelInputScaler
from polypstream.realtime.video.writer import Encoding, VideoWriter
from polypstream.synthetic import SyntheticClip, write_clip

BARE_IMAGES = 100
WARM_UP_IMAGES = 5


def bare_fps(segmenter: Segmenter, images: list[Rgb]) -> float:
    """Measure the frames per second of the model alone, on small RGB images."""
    began = perf_counter()
    for image in images:
        segmenter.segment(image)
    return len(images) / (perf_counter() - began)


def config_of(segmenter: Segmenter, encoding: Encoding | None) -> AnnotateConfig:
    """Settings of `annotate` for recordings."""
    point = segmenter.contract.recording_point()
    return AnnotateConfig(
        threshold=point.threshold, min_area_share=point.min_area_share, min_peak=point.min_peak, encoding=encoding
    )


def annotate_fps(video: Path, segmenter: Segmenter, encoding: Encoding | None) -> float:
    """Measure the frames per second of the whole job, between the first and the last written frame."""
    with tempfile.TemporaryDirectory() as folder:
        fps = annotate_video(video, Path(folder), segmenter, config_of(segmenter, encoding)).fps
    if fps is None:
        raise SystemExit(f"{video} has fewer than two frames; give a longer clip")
    return fps


def coco_fps(video: Path, segmenter: Segmenter) -> float:
    """Measure the frames per second of `annotate --format coco --overlay none`, including the export."""
    with tempfile.TemporaryDirectory() as folder:
        report = annotate_video(video, Path(folder), segmenter, config_of(segmenter, None))
        began = perf_counter()
        export_recording(open_recording(report.records), (ExportFormat.COCO,), Path(folder))
        export_s = perf_counter() - began
    if report.fps is None:
        raise SystemExit(f"{video} has fewer than two frames; give a longer clip")
    steps = report.frames - 1
    return steps / (steps / report.fps + export_s)


def small_images(video: Path, segmenter: Segmenter, *, most: int) -> list[Rgb]:
    """Read the first frames of a clip, scaled to the network's input."""
    scaler = ModelInputScaler()
    inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
    images: list[Rgb] = []
    with VideoReader(video) as source:
        for item in source:
            if isinstance(item, Frame):
                made = inputs.of(partial(scaler.scale, item.picture))
                images.append(np.ascontiguousarray(made.shown.of(made.rgb)))
            if len(images) == most:
                break
    return images


def stage_ms(video: Path, segmenter: Segmenter) -> dict[str, float]:
    """Measure the median milliseconds per frame of each stage, run sequentially in one thread."""
    times: dict[str, list[float]] = {}
    scaler = ModelInputScaler()
    inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
    point, style = segmenter.contract.recording_point(), MarkerStyle()

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = perf_counter()
        yield
        times.setdefault(stage, []).append((perf_counter() - began) * 1000)

    with (
        tempfile.TemporaryDirectory() as folder,
        VideoReader(video) as source,
        VideoWriter(Path(folder) / "out.mp4", source=source, encoding=Encoding()) as writer,
        segmenter,
    ):
        frames = (item for item in source if isinstance(item, Frame))
        while True:
            with timed("decode"):
                frame = next(frames, None)
            if frame is None:
                break
            with timed("small image"):
                made = inputs.of(partial(scaler.scale, frame.picture))
            with timed("model"):
                probability = segment_input(segmenter, made)
            image = writer.prepared(frame)
            width, height = image.width, image.height
            with timed("contours"):
                polyps = polyps_from_probability(
                    probability, threshold=point.threshold, min_peak=point.min_peak, width=width, height=height
                )
            with timed("draw"):
                draw_markers(image, polyps, style)
            with timed("encode"):
                writer.write_picture(image)
    return {stage: float(np.median(values)) for stage, values in times.items()}


def measure(video: Path, model: Path, plain: Path | None, *, backend: str, repeats: int) -> dict[str, object]:
    """Run all contestants alternately for `repeats` rounds; ratios are medians over the rounds."""
    segmenter = segmenter_from_onnx(model, backend=backend)
    unoptimized = segmenter_from_onnx(plain, backend="onnxruntime") if plain else None
    images = small_images(video, segmenter, most=BARE_IMAGES)
    bare_fps(segmenter, images[:WARM_UP_IMAGES])
    rounds: list[dict[str, float | None]] = []
    before = bare_fps(segmenter, images)
    for _ in range(repeats):
        whole = annotate_fps(video, segmenter, Encoding())
        after = bare_fps(segmenter, images)
        fps = {"bare": (before + after) / 2, "annotate": whole}
        fps["records_only"] = annotate_fps(video, segmenter, None)
        fps["coco"] = coco_fps(video, segmenter)
        fps["opencv_loop"] = opencv_loop_fps(video, segmenter)
        supervised = supervision_fps(video, segmenter)
        if supervised is not None:
            fps["supervision"] = supervised
        if unoptimized is not None:
            fps["plain_bare"] = bare_fps(unoptimized, small_images(video, unoptimized, most=BARE_IMAGES))
            fps["plain_opencv_loop"] = opencv_loop_fps(video, unoptimized)
        rounds.append({**fps, **_ratios(fps)})
        before = bare_fps(segmenter, images)
    middle = {name: statistics.median(each[name] or 0.0 for each in rounds) for name in rounds[0]}
    return {
        "video": video.name,
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "precision": segmenter.contract.precision,
        "backend": backend,
        "notices": list(segmenter.notices),
        "input": f"{segmenter.width}x{segmenter.height}",
        "warm_up_images": WARM_UP_IMAGES,
        "repeats": repeats,
        "stage_ms": stage_ms(video, segmenter),
        "fps_and_ratios": middle,
        "rounds": rounds,
    }


def _ratios(fps: dict[str, float]) -> dict[str, float]:
    ratios = {
        "annotate / bare": fps["annotate"] / fps["bare"],
        "records_only / bare": fps["records_only"] / fps["bare"],
        "coco / bare": fps["coco"] / fps["bare"],
        "annotate / opencv_loop": fps["annotate"] / fps["opencv_loop"],
    }
    if "supervision" in fps:
        ratios["annotate / supervision"] = fps["annotate"] / fps["supervision"]
    if "plain_bare" in fps:
        ratios["frame time / plain frame time"] = fps["plain_bare"] / fps["bare"]
        ratios["annotate / plain_opencv_loop"] = fps["annotate"] / fps["plain_opencv_loop"]
    return ratios


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="clip to annotate; default: a synthetic one")
    parser.add_argument("--model", type=Path, help="ONNX model; default: the one in the package")
    parser.add_argument("--plain", type=Path, help="the same network in float32, without optimizations")
    parser.add_argument("--backend", default="onnxruntime", choices=["auto", *BACKENDS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video
        if video is None:
            video = Path(folder) / "synthetic.mp4"
            write_clip(video, SyntheticClip(seconds=4))
        model = options.model or default_model()
        results = measure(video, model, options.plain, backend=options.backend, repeats=options.repeats)
    path = write_report("throughput", results, folder=options.results)
    for name in ("stage_ms", "fps_and_ratios"):
        print(f"{name}:")
        figures = results[name]
        assert isinstance(figures, dict)
        for key, value in figures.items():
            print(f"  {key:32} {value:8.3f}")
    print(f"medians of {options.repeats} rounds; written to {path}")


if __name__ == "__main__":
    main()
