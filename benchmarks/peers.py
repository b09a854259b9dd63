"""Baselines: the loops that people use instead, with the same model and the same clip."""

import tempfile
from pathlib import Path
from time import perf_counter

import cv2
import numpy as np

from polypstream.arrays import Bgr
from polypstream.realtime.inference.segmenter import Segmenter

GREEN = (0, 255, 0)


def outlined(bgr: Bgr, segmenter: Segmenter) -> Bgr:
    """Process one frame the usual way: resize, convert, infer, resize the mask, find contours, draw them."""
    small = cv2.cvtColor(cv2.resize(bgr, (segmenter.width, segmenter.height)), cv2.COLOR_BGR2RGB)
    mask = (segmenter.segment(np.asarray(small, np.uint8)) >= segmenter.contract.threshold).astype(np.uint8)
    large = cv2.resize(mask, (bgr.shape[1], bgr.shape[0]), interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(cv2.drawContours(bgr, contours, -1, GREEN, 2), np.uint8)


def opencv_loop_fps(video: Path, segmenter: Segmenter) -> float:
    """Read, infer, draw and write with OpenCV, one after the other; returns frames per second."""
    with tempfile.TemporaryDirectory() as folder:
        reader = cv2.VideoCapture(str(video))
        rate = reader.get(cv2.CAP_PROP_FPS) or 25
        size = int(reader.get(cv2.CAP_PROP_FRAME_WIDTH)), int(reader.get(cv2.CAP_PROP_FRAME_HEIGHT))
        writer = cv2.VideoWriter(str(Path(folder) / "out.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
        times = []
        while True:
            found, bgr = reader.read()
            if not found:
                break
            writer.write(outlined(np.asarray(bgr, np.uint8), segmenter))
            times.append(perf_counter())
        writer.release()
        reader.release()
    return (len(times) - 1) / (times[-1] - times[0])


def supervision_fps(video: Path, segmenter: Segmenter) -> float | None:
    """Run supervision's `process_video` with the same steps; None if the package is not installed."""
    try:
        import supervision
    except ImportError:
        return None
    times: list[float] = []

    def annotate(bgr: Bgr, _: int) -> Bgr:
        drawn = outlined(bgr, segmenter)
        times.append(perf_counter())
        return drawn

    with tempfile.TemporaryDirectory() as folder:
        supervision.process_video(source_path=str(video), target_path=str(Path(folder) / "out.mp4"), callback=annotate)
    return (len(times) - 1) / (times[-1] - times[0])
