"""The model card's figures are those of the committed measurement, and it speaks of the model that ships."""

import re
from pathlib import Path

import onnxruntime
import pytest

from benchmarks.documents import DOCUMENTS, newest, speed_plot, with_tables
from polypstream.contract import ModelContract
from polypstream.models import default_model
from polypstream.realtime.live.alarm import OPERATING_POINTS

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_its_figures_are_those_of_the_shipped_model() -> None:
    report = newest("accuracy")
    session = onnxruntime.InferenceSession(str(default_model()), providers=["CPUExecutionProvider"])
    contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert report["contract"] == vars(contract)
    assert f"{contract.height} by {contract.width}" in CARD
    assert f"version {contract.version}" in CARD


def test_the_operating_points_of_live_feeds_are_those_chosen_on_validation_data() -> None:
    report = newest("operating_points")
    chosen = {name: (point["threshold"], point["min_area_share"]) for name, point in report["points"].items()}
    assert chosen == {name: (point.threshold, point.min_area_share) for name, point in OPERATING_POINTS.items()}
    assert report["contract"] == newest("accuracy")["contract"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_table_is_made_from_the_committed_measurements(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert with_tables(text) == text
    assert len(re.findall("<!-- /", text)) == {"README": 3, "MODEL_CARD": 2}[document.stem]


def test_a_table_that_is_out_of_date_is_made_anew() -> None:
    assert with_tables("a\n<!-- live -->\n\nold\n\n<!-- /live -->\nb").count("old") == 0
    assert with_tables("no table here") == "no table here"


def test_the_plot_is_made_from_the_committed_measurement() -> None:
    assert speed_plot(newest("throughput")) == (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
