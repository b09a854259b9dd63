"""Dice drift: effect of a precision or a runtime on Dice, as paired per-image differences from the float32 Keras model.

Run with `python -m benchmarks.dice_drift --keras MODEL.keras --data FOLDER` (with the layout described in
`CONTRIBUTING.md`) and any number of `--run MODEL.onnx:BACKEND`. Every image is processed by Keras and by each run; Dice
is computed in source pixels at the model's threshold and minimum peak, and differences are run minus Keras. Means have
95% bootstrap intervals over images, as a few images with uncertain outlines can dominate them.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import RESULTS, write_report
from polypstream.arrays import Mask, Probability, Rgb
from polypstream.content import Crop, crop_of
from polypstream.evaluation.evaluate import Predict
from polypstream.export.toolchain import load_toolchain, quiet_native_logs
from polypstream.metrics import Overlap, mean_with_interval
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.outlines.contours import without_weak_regions
from polypstream.train.data import pairs_from_folders, read_pair
from polypstream.train.image_files import read_mask
from polypstream.train.splits import split_pairs, splits_from_csv

DATASETS = ("kvasir-seg", "cvc-clinicdb")
NOTICEABLE = 0.01
"""Changes of Dice above this count as noticeable."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An image and its true mask: uint8 RGB (H, W, 3) and bool (H, W)."""

    rgb: Rgb
    truth: NDArray[np.bool_]


def test_samples(data: Path) -> Iterator[Sample]:
    """Read the grouped test split of the public data sets."""
    pairs = pairs_from_folders([data / name for name in DATASETS])
    for pair in split_pairs(pairs, splits_from_csv(data / "splits.csv", "grouped"), "test"):
        rgb, truth = read_pair(pair)
        yield Sample(rgb=rgb, truth=truth)


def clip_samples(data: Path) -> Iterator[Sample]:
    """Read the frames of the real clip that show a polyp."""
    with av.open(str(data / "video" / "apparent.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            truth = read_mask(data / "video" / "apparent_masks" / f"{index:05d}.png")
            if truth.any():
                yield Sample(rgb=np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), truth=truth)


def keras_reference(path: Path, *, height: int, width: int, temperature: float = 1.0) -> Predict:
    """Load the Keras model in float32 at the given input size, with its logits divided by `temperature`."""
    load_toolchain()
    from polypstream.evaluation.predictor import KerasSegmenter
    from polypstream.export.keras import divide_logits, float32_network, network_from_file

    with quiet_native_logs():
        network = float32_network(network_from_file(path), height=height, width=width)
        divide_logits(network, temperature)
    return KerasSegmenter(network).segment


def compare(samples: list[Sample], reference: Predict, run: Segmenter) -> dict[str, float]:
    """Compute the drift of one run over all samples."""
    point = run.contract.recording_point()

    def mask_of(probability: Probability, part: Crop, shape: tuple[int, int]) -> Mask:
        height, width = shape
        strong = without_weak_regions(probability, threshold=point.threshold, min_peak=point.min_peak)
        return np.asarray(part.placed(strong, height=height, width=width) >= point.threshold)

    drifts, flipped, pixels = [], 0, 0
    for sample in samples:
        part, (height, width) = crop_of(sample.rgb, run.contract.crop), sample.truth.shape
        size = (run.width, run.height)
        small = np.asarray(cv2.resize(part.of(sample.rgb), size, interpolation=cv2.INTER_AREA), np.uint8)
        before, after = (mask_of(segment(small), part, (height, width)) for segment in (reference, run.segment))
        drifts.append(Overlap.of(sample.truth, after).dice - Overlap.of(sample.truth, before).dice)
        flipped, pixels = flipped + int(np.count_nonzero(before != after)), pixels + before.size
    sizes = np.abs(drifts)
    interval = mean_with_interval(drifts)
    return {
        "images": interval.count,
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "mean_without_largest": float(np.delete(drifts, np.argmax(sizes)).mean()),
        "median_absolute": float(np.median(sizes)),
        "mean_absolute": float(sizes.mean()),
        "p95": float(np.percentile(sizes, 95)),
        "p99": float(np.percentile(sizes, 99)),
        "largest": float(sizes.max()),
        "share_over_0.01": float(np.mean(sizes > NOTICEABLE)),
        "pixels_flipped": flipped / pixels,
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keras", type=Path, required=True, help="the trained model")
    parser.add_argument("--temperature", type=float, default=1.0, help="as given to polypstream export")
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--run", action="append", required=True, metavar="MODEL.onnx:BACKEND")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    sets = {"test split": list(test_samples(options.data)), "clip": list(clip_samples(options.data))}
    rows = []
    for text in options.run:
        path, _, backend = text.rpartition(":")
        with segmenter_from_onnx(path, backend=backend) as run:
            reference = keras_reference(
                options.keras, height=run.height, width=run.width, temperature=options.temperature
            )
            for name, samples in sets.items():
                drift = compare(samples, reference, run)
                rows.append(
                    {
                        "model": Path(path).name,
                        "precision": run.contract.precision,
                        "backend": backend,
                        "set": name,
                        **drift,
                    }
                )
                print(
                    f"{Path(path).name} {backend} {name}: mean {drift['mean']:+.5f} "
                    f"[{drift['low']:+.5f}, {drift['high']:+.5f}], p99 {drift['p99']:.5f}, "
                    f"largest {drift['largest']:.5f}, over 0.01 {drift['share_over_0.01']:.1%}"
                )
    print(f"written to {write_report('dice_drift', {'runs': rows}, folder=options.results)}")


if __name__ == "__main__":
    main()
