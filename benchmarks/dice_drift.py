"""What a precision or a runtime costs in Dice: paired per-image differences against the Keras model in float32.

Run with `python -m benchmarks.dice_drift --keras MODEL.keras --data FOLDER` (a folder laid out as `CONTRIBUTING.md`
says) and any number of `--run MODEL.onnx:BACKEND`. Every picture passes through Keras and through each run; a Dice is
taken in source pixels at the model's threshold, and differences are run minus Keras. Means carry 95% bootstrap
intervals over images: a few pictures that the network hesitates over can decide them.
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
from polypstream.export.toolchain import load_toolchain, quiet_native_logs
from polypstream.metrics import Overlap, mean_with_interval
from polypstream.realtime.frame import Rgb
from polypstream.realtime.segmenter import Segmenter, segmenter_from_onnx
from polypstream.train.data import pairs_from_folders, read_mask, read_pair
from polypstream.train.evaluate import Predict, mask_at
from polypstream.train.splits import split_pairs, splits_from_csv

DATASETS = ("kvasir-seg", "cvc-clinicdb")
NOTICEABLE = 0.01
"""A change of Dice beyond this counts as noticeable."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture and its true mask: uint8 RGB (H, W, 3) and bool (H, W)."""

    rgb: Rgb
    truth: NDArray[np.bool_]


def test_samples(data: Path) -> Iterator[Sample]:
    """The grouped test split of the public sets."""
    pairs = pairs_from_folders([data / name for name in DATASETS])
    for pair in split_pairs(pairs, splits_from_csv(data / "splits.csv", "grouped"), "test"):
        rgb, truth = read_pair(pair)
        yield Sample(rgb=rgb, truth=truth)


def clip_samples(data: Path) -> Iterator[Sample]:
    """The frames of the real clip that show a polyp."""
    with av.open(str(data / "video" / "apparent.mp4")) as container:
        for index, frame in enumerate(container.decode(video=0)):
            truth = read_mask(data / "video" / "apparent_masks" / f"{index:05d}.png")
            if truth.any():
                yield Sample(rgb=np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), truth=truth)


def keras_reference(path: Path, *, height: int, width: int) -> Predict:
    """The Keras model in float32 at the given input size."""
    load_toolchain()
    from polypstream.export.network import float32_network, network_from_file
    from polypstream.train.picture_network import PictureNetwork

    with quiet_native_logs():
        network = float32_network(network_from_file(path), height=height, width=width)
    return PictureNetwork(network).segment


def compare(samples: list[Sample], reference: Predict, run: Segmenter, threshold: float) -> dict[str, float]:
    """The drift of one run over all samples."""
    drifts, flipped, pixels = [], 0, 0
    for sample in samples:
        small = np.asarray(cv2.resize(sample.rgb, (run.width, run.height), interpolation=cv2.INTER_AREA), np.uint8)
        before, after = (mask_at(sample.truth.shape, f(small), threshold) for f in (reference, run.segment))
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
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--run", action="append", required=True, metavar="MODEL.onnx:BACKEND")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    sets = {"test split": list(test_samples(options.data)), "clip": list(clip_samples(options.data))}
    rows = []
    for text in options.run:
        path, _, backend = text.rpartition(":")
        with segmenter_from_onnx(path, backend=backend) as run:
            reference = keras_reference(options.keras, height=run.height, width=run.width)
            for name, samples in sets.items():
                drift = compare(samples, reference, run, run.contract.threshold)
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
