"""Loading a model checks its contract; outputs are checked before anything is drawn."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from polypstream.arrays import Probability, Rgb
from polypstream.contract import METADATA_KEY
from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.realtime.inference import segmenter as choosing
from polypstream.realtime.inference.base import checked_probability
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.scheduling import shares_of_cores
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
        (contract(height=128).to_metadata(), "which differs from its contract"),
    ],
)
def test_a_foreign_model_is_refused(tmp_path: Path, metadata: dict[str, str], message: str) -> None:
    path = write_green_finder(tmp_path / "odd.onnx", metadata=metadata)
    with pytest.raises(ModelError, match=message) as caught:
        segmenter_from_onnx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_onnx_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("I am a text file")
    with pytest.raises(ModelError, match="cannot be loaded as an ONNX model"):
        segmenter_from_onnx(path)
    with pytest.raises(ModelError, match="there is no model"):
        segmenter_from_onnx(tmp_path / "absent.onnx")


def test_an_unknown_backend_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="choose one of auto, onnxruntime, "):
        segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"), backend="abacus")


def test_a_network_that_returns_nan_is_refused(tmp_path: Path) -> None:
    path = write_green_finder(tmp_path / "nan.onnx", gain=float("nan"))
    segmenter = segmenter_from_onnx(path, backend="onnxruntime")
    with pytest.raises(BackendError, match="nan"):
        segmenter.segment(np.zeros((SIZE, SIZE, 3), np.uint8))


@pytest.mark.parametrize(
    "wrong",
    [
        np.full((8, 8), np.nan, np.float32),
        np.where(np.eye(8) > 0, np.nan, 0.7).astype(np.float32),
        np.where(np.eye(8) > 0, np.inf, 0.7).astype(np.float32),
        np.where(np.eye(8) > 0, -0.01, 0.7).astype(np.float32),
        np.where(np.eye(8) > 0, 1.01, 0.7).astype(np.float32),
        np.zeros((8, 8), np.float64),
        np.zeros((8, 8), np.uint8),
        np.zeros((0, 8), np.float32),
    ],
    ids=["nan", "one nan", "inf", "negative", "above one", "float64", "uint8", "empty"],
)
def test_a_map_that_is_not_a_probability_map_is_rejected(wrong: Probability) -> None:
    with pytest.raises(BackendError, match="the network returned"):
        checked_probability(wrong)


def test_an_image_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    segmenter = segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"))
    with pytest.raises(BackendError, match="received float32"):
        segmenter.segment(np.zeros((SIZE, SIZE, 3), np.float32))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="received uint8"):
        segmenter.segment(np.zeros((SIZE, SIZE + 1, 3), np.uint8))


def test_auto_skips_a_backend_with_invalid_output_and_reports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(OnnxRuntimeSegmenter):
        def segment(self, rgb: Rgb) -> Probability:
            raise BackendError("nan everywhere")

    path = write_green_finder(tmp_path / "m.onnx")
    choices = {"wrong": lambda p, threads: Wrong(p), "onnxruntime": lambda p, threads: OnnxRuntimeSegmenter(p)}
    monkeypatch.setattr(choosing, "BACKENDS", choices)
    monkeypatch.setattr(choosing, "CANDIDATES", tuple(choices))
    chosen = segmenter_from_onnx(path)
    assert chosen.backend == "onnxruntime"
    assert chosen.notices == ("backend wrong is not used: nan everywhere",)


def test_auto_uses_the_fastest_and_reports_the_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(OnnxRuntimeSegmenter):
        def segment(self, rgb: Rgb) -> Probability:
            sleep(0.05)
            return super().segment(rgb)

    path = write_green_finder(tmp_path / "m.onnx")
    choices = {"slow": lambda p, threads: Slow(p), "quick": lambda p, threads: OnnxRuntimeSegmenter(p)}
    monkeypatch.setattr(choosing, "BACKENDS", choices)
    monkeypatch.setattr(choosing, "CANDIDATES", tuple(choices))
    chosen = segmenter_from_onnx(path)
    assert chosen.segment(np.zeros((SIZE, SIZE, 3), np.uint8)).max() < 0.5
    assert chosen.notices[0].startswith("backend quick, the fastest here: quick ")


def test_openvino_gives_the_same_map(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    path = write_green_finder(tmp_path / "m.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with (
        segmenter_from_onnx(path, backend="onnxruntime") as one,
        segmenter_from_onnx(path, backend="openvino") as other,
    ):
        assert other.contract == one.contract
        np.testing.assert_allclose(other.segment(picture), one.segment(picture), atol=1e-5)


@pytest.mark.parametrize("metadata", [{}, contract(height=128).to_metadata()])
def test_openvino_refuses_a_foreign_model(tmp_path: Path, metadata: dict[str, str]) -> None:
    pytest.importorskip("openvino", reason="needs the extra [openvino]")
    with pytest.raises(ModelError, match=r"odd\.onnx"):
        segmenter_from_onnx(write_green_finder(tmp_path / "odd.onnx", metadata=metadata), backend="openvino")


def test_a_provider_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="has no CUDAExecutionProvider"):
        segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"), backend="onnxruntime-cuda")


@pytest.mark.parametrize(
    ("cores", "shares"), [(1, [1]), (2, [1, 1]), (4, [1, 1, 1, 1]), (6, [2, 2, 1, 1]), (16, [4, 4, 4, 4])]
)
def test_parallel_segmenters_divide_the_cores(cores: int, shares: list[int]) -> None:
    assert shares_of_cores(cores) == shares


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_parallel_segmenters_equal_a_single_one(tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="needs the extra [openvino]")
    path = write_green_finder(tmp_path / "m.onnx")
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    with segmenter_from_onnx(path, backend=backend, threads=2) as alone:
        several = alone.in_parallel()
        assert len(several) == 2
        assert all(each.contract == alone.contract for each in several)
        for each in several:
            np.testing.assert_allclose(each.segment(picture), alone.segment(picture), atol=1e-6)
        pictures = [np.roll(picture, 7 * number, axis=0) for number in range(20)]
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda each: [each.segment(one) for one in pictures], several))
        expected = [alone.segment(each) for each in pictures]
        for each in answers:
            np.testing.assert_allclose(each, expected, atol=1e-6)
    (single,) = segmenter_from_onnx(path, backend=backend, threads=1).in_parallel()
    assert single.height == SIZE


def test_each_backend_uses_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def choice(backend: str) -> Path:
        asked.append(backend)
        return write_green_finder(tmp_path / f"{backend}.onnx")

    monkeypatch.setattr(choosing, "CANDIDATES", ("onnxruntime", "onnxruntime-cuda"))
    assert segmenter_from_onnx(choice).height == SIZE
    assert asked == ["onnxruntime", "onnxruntime-cuda"]
    assert segmenter_from_onnx(choice, backend="onnxruntime").height == SIZE
    assert asked[2:] == ["onnxruntime"]


def test_rounding_errors_above_one_are_clipped_and_nothing_more() -> None:
    beyond = np.float32([[1.0000001, 0.5], [-1e-9, 0.0]])
    checked = checked_probability(beyond)
    assert checked.min() == 0
    assert checked.max() == 1
    assert checked[0, 1] == 0.5
    with pytest.raises(BackendError, match="instead of probabilities"):
        checked_probability(np.float32([[1.00001]]))
