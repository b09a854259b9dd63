"""How much of the bare model's speed reaches the user: `annotate`, end to end, against the model alone.

Both run in turn, several times in one process, on the same clip and the same ONNX session; the figure that counts is
their ratio, since it holds on a noisy machine. Run with `python -m benchmarks.throughput [--video CLIP]`; without a
clip the synthetic one is used.
"""

import argparse
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

from benchmarks.report import RESULTS, write_report
from polypstream.models import default_model
from polypstream.realtime.annotate import AnnotateConfig, annotate_video
from polypstream.realtime.frame import Frame, Rgb
from polypstream.realtime.preprocess import SmallPicture
from polypstream.realtime.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.source import FileSource
from polypstream.synthetic import SyntheticClip, write_clip

BARE_PICTURES = 40


def bare_fps(segmenter: Segmenter, pictures: list[Rgb]) -> float:
    """Frames per second of the model alone, over pictures that are already small and RGB."""
    began = perf_counter()
    for picture in pictures:
        segmenter.segment(picture)
    return len(pictures) / (perf_counter() - began)


def annotate_fps(video: Path, segmenter: Segmenter) -> float:
    """Frames per second of the whole job, between the first and the last frame written."""
    with tempfile.TemporaryDirectory() as folder:
        fps = annotate_video(video, Path(folder), segmenter, AnnotateConfig()).fps
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


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, help="clip to annotate; the synthetic one where none is given")
    parser.add_argument("--model", type=Path, help="ONNX model; the one in the package where none is given")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        video = options.video
        if video is None:
            video = Path(folder) / "synthetic.mp4"
            write_clip(video, SyntheticClip(seconds=4))
        results = measure(video, segmenter_from_onnx(options.model or default_model()), repeats=options.repeats)
    path = write_report("throughput", results, folder=options.results)
    print(f"bare model {results['bare_fps']:.2f} fps, annotate {results['annotate_fps']:.2f} fps")
    print(f"annotate / bare model: {results['ratio']:.3f} (median of {options.repeats} rounds); written to {path}")


def measure(video: Path, segmenter: Segmenter, *, repeats: int) -> dict[str, object]:
    """Rounds of bare model, whole job, bare model: the whole is held against the mean of the two around it."""
    pictures = small_pictures(video, segmenter, most=BARE_PICTURES)
    bare_fps(segmenter, pictures[:5])
    rounds = []
    before = bare_fps(segmenter, pictures)
    for _ in range(repeats):
        whole = annotate_fps(video, segmenter)
        after = bare_fps(segmenter, pictures)
        rounds.append(
            {"bare_fps": (before + after) / 2, "annotate_fps": whole, "ratio": whole / ((before + after) / 2)}
        )
        before = after
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    return {
        "video": video.name,
        "model": segmenter.contract.name,
        "input": f"{segmenter.width}x{segmenter.height}",
        "warm_up_pictures": 5,
        "repeats": repeats,
        "rounds": rounds,
        **middle,
    }


if __name__ == "__main__":
    main()
