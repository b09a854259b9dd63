"""The model card contains the figures of the committed results, and describes the shipped model."""

import re
from pathlib import Path

import onnxruntime
import pytest

from benchmarks.documents import DOCUMENTS, newest, speed_plot, with_tables
from polypstream.contract import ModelContract
from polypstream.models import default_model

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


def shipped_contract() -> ModelContract:
    session = onnxruntime.InferenceSession(str(default_model()), providers=["CPUExecutionProvider"])
    return ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)


def test_its_figures_are_those_of_the_shipped_model() -> None:
    report = newest("accuracy")
    contract = shipped_contract()
    assert ModelContract.from_values(report["contract"]) == contract
    assert f"{contract.height} by {contract.width}" in CARD
    assert f"version {contract.version}" in CARD


def test_the_operating_points_of_the_shipped_model_are_those_chosen_on_validation_data() -> None:
    report, points = newest("operating_points"), shipped_contract().operating_points
    chosen = {name: (point["threshold"], point["min_area_share"]) for name, point in report["points"].items()}
    assert chosen == {point.name: (point.threshold, point.min_area_share) for point in points}
    assert report["contract"] == newest("accuracy")["contract"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_table_is_made_from_the_committed_measurements(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert with_tables(text) == text
    assert len(re.findall("<!-- /", text)) == {"benchmarks": 5, "MODEL_CARD": 2}[document.stem]


def test_a_table_that_is_out_of_date_is_regenerated() -> None:
    assert with_tables("a\n<!-- live -->\n\nold\n\n<!-- /live -->\nb").count("old") == 0
    assert with_tables("no table here") == "no table here"


def test_the_plot_is_made_from_the_committed_measurement() -> None:
    committed = (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
    made = speed_plot(newest("throughput"))
    texts = [re.findall(r"<text[^>]*>([^<]+)</text>", svg) for svg in (committed, made)]
    assert texts[0] == texts[1]
    assert len(texts[0]) >= 2 * 5
