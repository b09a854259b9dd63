"""The model contract survives its trip through the metadata, and refuses what it must."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.contract import METADATA_KEY, ModelContract
from polypstream.errors import ModelError
from tests.models import contract

texts = st.text(max_size=30)


@given(
    name=texts,
    training_data=texts,
    height=st.integers(1, 100).map(lambda n: 8 * n),
    width=st.integers(1, 100).map(lambda n: 8 * n),
    threshold=st.floats(0.01, 0.99),
)
def test_metadata_round_trip(name: str, training_data: str, height: int, width: int, threshold: float) -> None:
    original = contract(name=name, training_data=training_data, height=height, width=width, threshold=threshold)
    assert ModelContract.from_metadata(original.to_metadata()) == original


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 100}, "multiples of 8"),
        ({"width": 0}, "multiples of 8"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"threshold": 1}, "of type float"),
        ({"colour_order": "BGR"}, "takes BGR pictures"),
        ({"format": 99}, "format 99"),
        ({"height": "64"}, "of type int"),
    ],
)
def test_what_the_software_cannot_honour_is_refused(changes: dict[str, object], message: str) -> None:
    fields = json.loads(contract().to_metadata()[METADATA_KEY])
    with pytest.raises(ModelError, match=message):
        ModelContract.from_metadata({METADATA_KEY: json.dumps({**fields, **changes})})
