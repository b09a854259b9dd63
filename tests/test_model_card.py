"""The model card's figures are those of the committed measurement, and it speaks of the model that ships."""

import json
from pathlib import Path

import onnxruntime

from benchmarks.accuracy import markdown
from polypstream.contract import ModelContract
from polypstream.models import default_model

ROOT = Path(__file__).parents[1]
CARD = (ROOT / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_its_tables_are_made_from_the_committed_measurement_of_the_shipped_model() -> None:
    (path,) = (ROOT / "benchmarks" / "results").glob("accuracy-*.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert markdown(report) in CARD
    session = onnxruntime.InferenceSession(str(default_model()), providers=["CPUExecutionProvider"])
    contract = ModelContract.from_metadata(session.get_modelmeta().custom_metadata_map)
    assert report["contract"] == vars(contract)
    assert f"{contract.height} by {contract.width}" in CARD
    assert f"version {contract.version}" in CARD
