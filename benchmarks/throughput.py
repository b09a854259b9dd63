"""Speed, as ratios within one run: each stage, the model alone, the whole job, and the loops people use instead.

Run with `python -m benchmarks.throughput [--video CLIP] [--plain PLAIN.onnx]`; without a clip the synthetic one is
used. All contestants take turns, several rounds in one process, and each round's ratios are taken within that round,
since they hold on a noisy machine where frames per second do not. `--plain` names the same network as exported without
any optimisation, in float32; the OpenCV loop then runs on it.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.peers import opencv_loop_fps, supervision_fps
from benchmarks.report import RESULTS, write_report
from polypstream.models import default_model
from polypstream.realtime.annotate import AnnotateConfig, annotate_video
from polypstream.realtime.contours import polyps_from_probability
from polypstream.realtime.frame import Frame, Rgb
from polypstream.realtime.overlay import MarkerStyle, draw_markers
from polypstream.realtime.preprocess import SmallPicture
from polypstream.realtime.segmenter import BACKENDS, Segmenter, segmenter_from_onnx
from polypstream.realtime.sink import Encoding, FileSink
from polypstream.realtime.source import FileSource
from polypstream.synthetic import SyntheticClip, write_clip

BARE_PICTURES = 100
WARM_UP_PICTURES = 5


def bare_fps(segmenter: Segmenter, pictures: list[Rgb]) -> float:
    """Frames per second of the model alone, over pictures that are already small and RGB."""
    began = perf_counter()
    for picture in pictures:
        segmenter.segment(picture)
    return len(pictures) / (perf_counter() - began)


def annotate_fps(video: Path, segmenter: Segmenter, encoding: Encoding | None) -> float:
    """Frames per second of the whole job, between the first and the last frame written."""
    with tempfile.TemporaryDirectory() as folder:
        fps = annotate_video(video, Path(folder), segmenter, AnnotateConfig(encoding=encoding)).fps
    if fps is None:
        raise SystemExit(f"{video} has fewer than two frames; give a longer clip")
    return fps


def small_pictures(video: Path, segmenter: Segmenter, *, most: int) -> list[Rgb]:
    """The first frames of a clip, as the network takes them."""
    small = SmallPicture(height=segmenter.height, width=segmenter.width)
    pictures: list[Rgb] = []
    with FileSource(video) as source:
        for item in source:
            if isinstance(item, Frame):
                pictures.append(small.of(item.picture))
            if len(pictures) == most:
                break
    return pictures


def stage_ms(video: Path, segmenter: Segmenter) -> dict[str, float]:
    """Median milliseconds that each stage takes for one frame, run one after the other in one thread."""
    times: dict[str, list[float]] = {}
    small = SmallPicture(height=segmenter.height, width=segmenter.width)
    threshold, style = segmenter.contract.threshold, MarkerStyle()

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        began = perf_counter()
        yield
        times.setdefault(stage, []).append((perf_counter() - began) * 1000)

    with (
        tempfile.TemporaryDirectory() as folder,
        FileSource(video) as source,
        FileSink(Path(folder) / "out.mp4", source=source, encoding=Encoding()) as sink,
        segmenter,
    ):
        frames = (item for item in source if isinstance(item, Frame))
        while True:
            with timed("decode"):
                frame = next(frames, None)
            if frame is None:
                break
            with timed("small picture"):
                rgb = small.of(frame.picture)
            with timed("model"):
                probability = segmenter.segment(rgb)
            picture = sink.prepared(frame)
            size = {"width": picture.width, "height": picture.height}
            with timed("contours"):
                polyps = polyps_from_probability(probability, threshold=threshold, **size)
            with timed("draw"):
                draw_markers(picture, polyps, style)
            with timed("encode"):
                sink.write_picture(picture)
    return {stage: float(np.median(values)) for stage, values in times.items()}


def measure(video: Path, model: Path, plain: Path | None, *, backend: str, repeats: int) -> dict[str, object]:
    """Every contestant in turn, `repeats` rounds; ratios are medians of the rounds' own."""
    segmenter = segmenter_from_onnx(model, backend=backend)
    unoptimised = segmenter_from_onnx(plain, backend="onnxruntime") if plain else None
    pictures = small_pictures(video, segmenter, most=BARE_PICTURES)
    bare_fps(segmenter, pictures[:WARM_UP_PICTURES])
    rounds: list[dict[str, float | None]] = []
    before = bare_fps(segmenter, pictures)
    for _ in range(repeats):
        whole = annotate_fps(video, segmenter, Encoding())
        after = bare_fps(segmenter, pictures)
        fps = {"bare": (before + after) / 2, "annotate": whole}
        fps["records_only"] = annotate_fps(video, segmenter, None)
        fps["opencv_loop"] = opencv_loop_fps(video, segmenter)
        supervised = supervision_fps(video, segmenter)
        if supervised is not None:
            fps["supervision"] = supervised
        if unoptimised is not None:
            fps["plain_bare"] = bare_fps(unoptimised, small_pictures(video, unoptimised, most=BARE_PICTURES))
            fps["plain_opencv_loop"] = opencv_loop_fps(video, unoptimised)
        rounds.append({**fps, **_ratios(fps)})
        before = bare_fps(segmenter, pictures)
    middle = {name: statistics.median(each[name] or 0.0 for each in rounds) for name in rounds[0]}
    return {
        "video": video.name,
        "model": f"{segmenter.contract.name} {segmenter.contract.version}",
        "precision": segmenter.contract.precision,
        "backend": backend,
        "notices": list(segmenter.notices),
        "input": f"{segmenter.width}x{segmenter.height}",
        "warm_up_pictures": WARM_UP_PICTURES,
        "repeats": repeats,
        "stage_ms": stage_ms(video, segmenter),
        "fps_and_ratios": middle,
        "rounds": rounds,
    }


def _ratios(fps: dict[str, float]) -> dict[str, float]:
    ratios = {
        "annotate / bare": fps["annotate"] / fps["bare"],
        "records_only / bare": fps["records_only"] / fps["bare"],
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
    parser.add_argument("--video", type=Path, help="clip to annotate; the synthetic one where none is given")
    parser.add_argument("--model", type=Path, help="ONNX model; the one in the package where none is given")
    parser.add_argument("--plain", type=Path, help="the same network in float32, not optimised")
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
