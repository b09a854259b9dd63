"""Track ids, measured with TrackEval on sequences with known identities."""

import numpy as np
import pytest

from benchmarks.tracks import figures, polyp_of, scores_of, sequences, synthetic
from polypstream.models import default_model
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.synthetic import SyntheticClip

SEQUENCES = [
    "two polyps pass each other",
    "leaves the frame and returns",
    "every third frame detected, camera moves",
    "missed for 1.2 s, camera moves",
    "fast, shaken camera",
    "fast, shaken camera, every second frame detected",
]


@pytest.mark.parametrize("name", SEQUENCES)
def test_polyps_keep_their_ids_on_constructed_sequences(name: str) -> None:
    scores = figures(sequences()[name], temporal=False)
    assert scores["tracks"] == scores["polyps"]
    assert scores["idf1_of_found"] == 1


def test_every_sequence_is_tested() -> None:
    assert list(sequences()) == SEQUENCES


@pytest.mark.slow
@pytest.mark.parametrize("missed", [0.0, 0.3])
def test_synthetic_clip_with_perfect_detections(missed: float) -> None:
    scores = figures(synthetic(SyntheticClip(), missed=missed), temporal=False)
    assert scores["polyps"] > 1
    assert scores["idf1_of_found"] >= 0.95
    assert missed or scores["idf1"] >= 0.95


@pytest.fixture(scope="module")
def with_the_network() -> dict[str, float]:
    """Figures of the synthetic clip with detections of the network in the package."""
    with segmenter_from_onnx(default_model(), backend="onnxruntime") as segmenter:
        return figures(synthetic(SyntheticClip(), segmenter), temporal=True)


@pytest.mark.slow
def test_synthetic_clip_with_the_network(with_the_network: dict[str, float]) -> None:
    assert with_the_network["idf1_of_found"] >= 0.95  # distant polyps are missed, which has its own tests


@pytest.mark.slow
def test_the_network_causes_at_most_one_additional_track(with_the_network: dict[str, float]) -> None:
    assert with_the_network["tracks"] <= with_the_network["polyps"] + 1


def test_swapped_and_missing_ids_lower_the_scores() -> None:
    left, right = np.zeros((2, 48, 64), np.bool_)
    left[10:30, 5:25] = right[10:30, 40:60] = True
    truth = {1: left, 2: right}
    one, other = polyp_of(left), polyp_of(right)
    same = [(truth, {7: one, 8: other})] * 10
    swapped = [*same[:5], *[(truth, {8: one, 7: other})] * 5]
    missed = [*same[:5], *[(truth, {7: one})] * 5]
    assert scores_of(same)["idf1"] == 1
    assert scores_of(swapped)["idf1"] == scores_of(swapped)["idf1_of_found"] == 0.5
    assert scores_of(missed)["idf1"] == pytest.approx(2 * 15 / (15 + 20))
    assert scores_of(missed)["idf1_of_found"] == 1
