"""The optimized graph computes the same function with fewer multiplications."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from polypstream.export.exporter import ExportReport
from polypstream.export.rewrites.cleanup import operator_counts
from polypstream.export.rewrites.optimize import optimize


def answer(model: ModelProto, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"image": image})[0], np.float32)


def test_it_returns_the_same_at_every_pixel(report: ExportReport) -> None:
    before = onnx.load(report.output)
    after = optimize(before)
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
        np.testing.assert_allclose(answer(after, image), answer(before, image), rtol=0, atol=1e-5)


def test_it_keeps_the_contract_and_changes_the_graph(report: ExportReport) -> None:
    before = onnx.load(report.output)
    after = optimize(before)
    assert after.metadata_props == before.metadata_props
    assert operator_counts(after) != operator_counts(before)


def test_a_second_application_changes_nothing(report: ExportReport) -> None:
    once = optimize(onnx.load(report.output))
    assert operator_counts(optimize(once)) == operator_counts(once)


def test_a_graph_without_the_patterns_is_unchanged(tmp_path: Path) -> None:
    from tests.models import write_green_finder

    model = onnx.load(write_green_finder(tmp_path / "m.onnx"))
    assert operator_counts(optimize(model)) == operator_counts(model)
