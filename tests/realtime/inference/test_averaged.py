"""The accurate mode averages aligned views: what each view finds comes back to where it was."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import polypstream as ps
from polypstream.arrays import Probability, Rgb
from polypstream.errors import ConfigError
from polypstream.evaluation.predictor import open_predictor
from polypstream.realtime.annotate.workers import ModelFile
from polypstream.realtime.inference.averaged import INFERENCES, AveragedSegmenter
from polypstream.realtime.inference.base import SessionSegmenter
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from tests.models import contract, write_green_finder


class Reporter(SessionSegmenter):
    """Its probability is a function of the image; it counts the inferences."""

    backend = "test"

    def __init__(self, *, height: int, width: int, ramp: bool = False) -> None:
        self.contract, self._ramp, self.count = contract(height=height, width=width), ramp, 0

    def segment(self, rgb: Rgb) -> Probability:
        self.count += 1
        if self._ramp:
            return np.broadcast_to(np.linspace(0, 1, rgb.shape[1], dtype=np.float32), rgb.shape[:2])
        return rgb[..., 1].astype(np.float32) / 255

    def in_parallel(self) -> tuple["Reporter"]:
        return (self,)


@settings(max_examples=40)
@given(
    size=st.tuples(*[st.integers(4, 12).map(lambda eighths: 8 * eighths)] * 2),
    center=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
)
def test_every_view_comes_back_to_its_place(size: tuple[int, int], center: tuple[float, float]) -> None:
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    distance = (rows - center[0] * height) ** 2 + (columns - center[1] * width) ** 2
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 1] = np.round(255 * np.exp(-distance / (2 * 8**2)))
    inner = Reporter(height=height, width=width)
    probability = AveragedSegmenter(inner).segment(image)
    assert inner.count == INFERENCES
    assert probability.dtype == np.float32
    # A shift by one pixel would change the slope of this blob by 0.075, half of that in the mean over the scales.
    np.testing.assert_allclose(probability, image[..., 1] / 255, rtol=0, atol=0.025)


def test_a_preference_for_one_side_cancels_out() -> None:
    probability = AveragedSegmenter(Reporter(height=32, width=48, ramp=True)).segment(np.zeros((32, 48, 3), np.uint8))
    np.testing.assert_allclose(probability, 0.5, atol=1e-6)


def test_it_is_offered_where_models_are_opened(tmp_path: Path) -> None:
    path = write_green_finder(tmp_path / "green.onnx")
    with segmenter_from_onnx(path, backend="onnxruntime", accurate=True) as segmenter:
        assert isinstance(segmenter, AveragedSegmenter)
        assert all(isinstance(each, AveragedSegmenter) for each in segmenter.in_parallel())
    plain, accurate = (ModelFile(path=path, backend="onnxruntime", accurate=accurate) for accurate in (False, True))
    with accurate.open() as segmenter:
        assert accurate.identity(segmenter) != plain.identity(segmenter)
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:48, 16:48, 1] = 255
    with ps.load_model(path, backend="onnxruntime", accurate=True) as model:
        (polyp,) = model.predict(image).polyps
        assert polyp.area == pytest.approx(32 * 32, rel=0.1)


def test_a_keras_file_has_no_accurate_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="export it first"), open_predictor(tmp_path / "net.keras", accurate=True):
        pass
