"""Public result: mask, probability, outlines and detections agree with the polyps."""

from pathlib import Path

import numpy as np
import pytest

import polypstream as ps
from polypstream.arrays import Probability
from polypstream.realtime.inference.result import Result
from tests.clips import make_clip
from tests.models import write_green_finder

WIDTH, HEIGHT = 200, 100


def disc_map() -> Probability:
    """Two discs at the network's size, 50 × 50."""
    row, column = np.indices((50, 50))
    distance = np.minimum(np.hypot(row - 15, column - 12), np.hypot(row - 33, column - 36) + 2)
    return np.clip(1 - (distance - 8) / 4, 0, 1).astype(np.float32)


def result() -> Result:
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    return Result(model_probability=disc_map(), threshold=0.5, width=WIDTH, height=HEIGHT, source=image)


def test_the_mask_is_what_the_polyps_enclose() -> None:
    found = result()
    assert len(found.polyps) == 2
    assert found.polyps[0].area > found.polyps[1].area
    assert found.mask.shape == (HEIGHT, WIDTH)
    assert found.mask.dtype == np.bool_
    assert found.mask.sum() == pytest.approx(sum(polyp.area for polyp in found.polyps), rel=0.02)


def test_the_probability_has_the_size_of_the_image() -> None:
    probability = result().probability
    assert probability.shape == (HEIGHT, WIDTH)
    assert probability.dtype == np.float32
    assert probability.min() >= 0
    assert probability.max() <= 1
    agreement = (probability >= 0.5) == result().mask
    assert agreement.mean() > 0.99


def test_plot_draws_on_a_copy_and_only_at_the_contours() -> None:
    found = result()
    drawn = found.plot()
    changed = (drawn != 100).any(axis=2)
    assert (np.asarray(found.source) == 100).all()
    assert changed.any()
    inside = found.mask & ~changed
    assert inside.sum() > 0.5 * found.mask.sum()
    assert drawn[changed].max(axis=0).tolist()[1] > 200


def test_plot_on_another_image() -> None:
    other = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    assert result().plot(other)[0, 0].tolist() == [0, 0, 0]
    assert not other.any()
    with pytest.raises(ps.ConfigError, match=r"the result is for \(100, 200, 3\)"):
        result().plot(other[:50])


def test_detections_for_supervision() -> None:
    pytest.importorskip("supervision", reason="needs the extra [supervision]")
    found = result()
    detections = found.to_supervision()
    for polyp, box, mask, score in zip(
        found.polyps, detections.xyxy, detections.mask, detections.confidence, strict=True
    ):
        x, y, width, height = polyp.box
        assert box.tolist() == pytest.approx([x, y, x + width, y + height], abs=1e-3)
        assert mask.sum() == pytest.approx(polyp.area, rel=0.02)
        assert score == pytest.approx(polyp.score)
    empty = Result(
        model_probability=np.zeros((50, 50), np.float32), threshold=0.5, width=8, height=8, source=np.empty(0)
    )
    assert len(empty.to_supervision()) == 0
    assert not empty.mask.any()


def test_a_frame_of_a_video_is_not_kept_alive_by_its_result(tmp_path: Path) -> None:
    with ps.load_model(write_green_finder(tmp_path / "m.onnx"), backend="onnxruntime") as model:
        for frame, found in model.predict_stream(make_clip(tmp_path / "clip.mp4", frames=3)):
            assert found.plot().shape == (48, 64, 3)
            image = frame.image
        del frame
    with pytest.raises(ps.ConfigError, match="frame has been released"):
        found.plot()
    assert found.plot(image).shape == (48, 64, 3)
