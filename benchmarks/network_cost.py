"""Cost of a network: multiply-accumulates counted from its layers, and milliseconds in ONNX Runtime."""

import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

WARM_UP_IMAGES, ROUNDS = 3, 5


@dataclass(frozen=True, kw_only=True)
class FrameTime:
    """Milliseconds per frame: the mean of each round, and the median of the rounds."""

    median_ms: float
    rounds_ms: list[float]


def multiply_accumulates(network: keras.Model) -> int:
    """Count the multiply-accumulates of convolutions and dense layers for one image, at a static input size."""
    return sum(_of_layer(layer) for layer in network.layers)


def _of_layer(layer: keras.Layer) -> int:
    if isinstance(layer, layers.Conv2D | layers.Dense):
        positions = layer.output.shape[1:-1]
    elif isinstance(layer, layers.Conv2DTranspose):
        positions = layer.input.shape[1:-1]
    else:
        return 0
    return int(math.prod(positions) * math.prod(layer.kernel.shape))


def onnx_file(best: Path) -> Path | None:
    """Export a network to ONNX in a separate process; if that fails, print the reason and return None."""
    path = best.with_suffix(".onnx")
    if path.exists() and path.stat().st_mtime >= best.stat().st_mtime:
        return path
    command = [sys.executable, "-m", "polypstream", "export", str(best), "--output", str(path), "--json"]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{best} is not timed: {done.stderr.strip().rpartition(chr(10))[2]}")
        return None
    return path


def frame_times(files: Mapping[str, Path], images: Sequence[NDArray[np.uint8]]) -> dict[str, FrameTime]:
    """Time ONNX files by name on the same RGB images in one process that alternates between them."""
    from polypstream.realtime.inference.segmenter import segmenter_from_onnx

    rounds: dict[str, list[float]] = {name: [] for name in files}
    with ExitStack() as stack:
        segmenters = {n: stack.enter_context(segmenter_from_onnx(f, backend="onnxruntime")) for n, f in files.items()}
        for number in range(ROUNDS + 1):
            for name, segmenter in segmenters.items():
                size = (segmenter.width, segmenter.height)
                small = [np.asarray(cv2.resize(p, size, interpolation=cv2.INTER_AREA), np.uint8) for p in images]
                began = perf_counter()
                for image in small if number else small[:WARM_UP_IMAGES]:
                    segmenter.segment(image)
                if number:
                    rounds[name].append((perf_counter() - began) * 1000 / len(small))
    return {name: FrameTime(median_ms=median(times), rounds_ms=times) for name, times in rounds.items()}
