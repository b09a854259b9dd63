"""Loading a model checks its contract; what it answers is checked before anything is drawn."""

from pathlib import Path

import numpy as np
import pytest

from polypstream.contract import METADATA_KEY
from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.realtime.segmenter import checked_probability, segmenter_from_onnx
from tests.models import SIZE, contract, write_green_finder


def test_it_segments_what_the_contract_promises(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[:, :20] = (40, 200, 40)
    with segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx")) as segmenter:
        probability = segmenter.segment(picture)
    assert (segmenter.height, segmenter.width) == (SIZE, SIZE)
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability >= 0.5, np.broadcast_to(np.arange(SIZE) < 20, (SIZE, SIZE)))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "carries no polypstream contract"),
        ({METADATA_KEY: "{"}, "not JSON"),
        ({METADATA_KEY: "[1]"}, "a list, not an object"),
        ({METADATA_KEY: '{"name": "x"}'}, "missing or unknown fields"),
        (contract(height=128).to_metadata(), "its contract says otherwise"),
    ],
)
def test_a_model_that_is_not_ours_is_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = write_green_finder(tmp_path / "odd.onnx", metadata=metadata)
    with pytest.raises(ModelError, match=message) as caught:
        segmenter_from_onnx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("I am a text file")
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        segmenter_from_onnx(path)
    with pytest.raises(ModelError, match="there is no model"):
        segmenter_from_onnx(tmp_path / "absent.onnx")


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of auto, onnxruntime"):
        segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"), backend="abacus")


def test_a_network_that_answers_nan_is_refused(tmp_path: Path) -> None:
    segmenter = segmenter_from_onnx(write_green_finder(tmp_path / "nan.onnx", gain=float("nan")))
    with pytest.raises(BackendError, match="nan"):
        segmenter.segment(np.zeros((SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.01, 1.01])
def test_one_bad_value_anywhere_is_refused(bad: float) -> None:
    probability = np.full((8, 8), 0.5, np.float32)
    probability[3, 5] = bad
    with pytest.raises(BackendError):
        checked_probability(probability)


def test_a_picture_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    segmenter = segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"))
    with pytest.raises(BackendError, match="received float32"):
        segmenter.segment(np.zeros((SIZE, SIZE, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="received uint8"):
        segmenter.segment(np.zeros((SIZE, SIZE + 1, 3), np.uint8))
