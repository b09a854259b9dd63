"""Makes the README's pictures from the synthetic demo clip: `python docs/make_pictures.py`."""

import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

from polypstream.models import default_model
from polypstream.realtime.annotate import AnnotateConfig, annotate_video
from polypstream.realtime.segmenter import segmenter_from_onnx
from polypstream.synthetic import SyntheticClip, write_clip

SHOWN = (10, 180, 200)
"""Frames of the demo clip, side by side."""


def main() -> None:
    """Annotate the demo clip and write three of its frames beside this file."""
    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "demo.mp4"
        write_clip(clip, SyntheticClip())
        done = annotate_video(clip, Path(folder), segmenter_from_onnx(default_model()), AnnotateConfig())
        with av.open(str(done.overlay)) as container:
            pictures = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    sheet = np.hstack([pictures[index] for index in SHOWN])
    cv2.imwrite(str(Path(__file__).with_name("demo.jpg")), sheet, [cv2.IMWRITE_JPEG_QUALITY, 90])


if __name__ == "__main__":
    main()
