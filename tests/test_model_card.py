"""The model card's figures are those of the committed measurement, and it speaks of the model that ships."""

import json
from pathlib import Path
from typing import Any

import onnxruntime

from benchmarks.accuracy import markdown
from benchmarks.operating_points import points_table
from benchmarks.plot import drift_table, speed_plot, speed_table
from polypstream.contract import ModelContract
from polypstream.models import default_model
from polypstream.realtime.live.alarm import OPERATING_POINTS

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


def report_of(benchmark: str) -> dict[str, Any]:
    (path,) = (ROOT / "benchmarks" / "results").glob(f"{benchmark}-*.json")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def test_its_tables_are_made_from_the_committed_measurement_of_the_shipped_model() -> None:
    report = report_of("accuracy")
    assert markdown(report) in CARD
    session = onnxruntime.InferenceSession(str(default_model()), providers=["CPUExecutionProvider"])
    contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert report["contract"] == vars(contract)
    assert f"{contract.height} by {contract.width}" in CARD
    assert f"version {contract.version}" in CARD


def test_the_operating_points_of_live_feeds_are_those_chosen_on_validation_data() -> None:
    report = report_of("operating_points")
    assert points_table(report) in CARD
    chosen = {name: (point["threshold"], point["min_area_share"]) for name, point in report["points"].items()}
    assert chosen == {name: (point.threshold, point.min_area_share) for name, point in OPERATING_POINTS.items()}
    assert report["contract"] == report_of("accuracy")["contract"]


def test_the_readmes_tables_and_plot_are_made_from_the_committed_measurements() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    speed = report_of("throughput")
    assert speed_table(speed) in readme
    assert drift_table(report_of("dice_drift")) in readme
    assert speed_plot(speed) == (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
