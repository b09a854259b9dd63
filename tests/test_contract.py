"""A model contract survives a round trip through the metadata, and unsupported contracts are rejected."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.contract import METADATA_KEY, ModelContract, OperatingPoint
from polypstream.errors import ConfigError, ModelError
from tests.models import contract

texts = st.text(max_size=30)
FORMAT_1 = {
    "name": "mine",
    "version": "3",
    "height": 64,
    "width": 96,
    "threshold": 0.6,
    "training_data": "none",
    "licence": "Apache-2.0",
    "colour_order": "RGB",
    "precision": "fp16",
    "normalisation": "inside the graph",
    "format": 1,
}


def read(values: dict[str, object]) -> ModelContract:
    return ModelContract.from_metadata({METADATA_KEY: json.dumps(values)})


@st.composite
def points(draw: st.DrawFn) -> tuple[OperatingPoint, ...]:
    names = draw(st.lists(texts.filter(bool), min_size=1, max_size=3, unique=True))
    return tuple(
        OperatingPoint(
            name=name,
            threshold=draw(st.floats(0.01, 0.99)),
            min_area_share=draw(st.floats(0, 0.5)),
            min_peak=draw(st.floats(0, 0.99)),
            appear_ms=draw(st.floats(0, 1000)),
            vanish_ms=draw(st.floats(0, 1000)),
        )
        for name in names
    )


@given(
    name=texts,
    training_data=texts,
    height=st.integers(1, 100).map(lambda n: 8 * n),
    width=st.integers(1, 100).map(lambda n: 8 * n),
    threshold=st.floats(0.01, 0.99),
    min_peak=st.floats(0, 0.99),
    operating_points=points(),
)
def test_metadata_round_trip(**fields: object) -> None:
    original = contract(**fields)
    assert ModelContract.from_metadata(original.to_metadata()) == original


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 100}, "multiples of 8"),
        ({"width": 0}, "multiples of 8"),
        ({"threshold": 1.0}, "between 0 and 1"),
        ({"threshold": 1}, "of type float"),
        ({"min_peak": 1.0}, "min_peak is 1.0"),
        ({"min_peak": float("nan")}, "min_peak is nan"),
        ({"color_order": "BGR"}, "takes BGR images"),
        ({"crop": "square"}, "cropped by the rule 'square'.*none and content"),
        ({"format": 99}, "format 99"),
        ({"format": 99, "something": "new"}, "format 99"),
        ({"something": "new"}, "unknown fields .*something"),
        ({"height": "64"}, "of type int"),
        ({"operating_points": 0.5}, "list of objects"),
        ({"operating_points": [0.5]}, "list of objects"),
        ({"operating_points": [{"name": "one"}]}, "threshold"),
        ({"operating_points": [{"name": "one", "threshold": "high"}]}, "threshold of operating point one is 'high'"),
        ({"operating_points": [{"name": "one", "threshold": 2}]}, "threshold is 2"),
        ({"operating_points": [{"name": "one", "threshold": 0.5, "mood": 1}]}, "mood"),
        ({"operating_points": [{"name": "one", "threshold": 0.5}] * 2}, "unique"),
    ],
)
def test_unsupported_contracts_are_rejected(changes: dict[str, object], message: str) -> None:
    fields = json.loads(contract().to_metadata()[METADATA_KEY])
    with pytest.raises(ModelError, match=message):
        read({**fields, **changes})


def test_format_1_is_read_and_its_threshold_becomes_the_operating_point() -> None:
    old = read(FORMAT_1)
    assert (old.license, old.color_order, old.normalization) == ("Apache-2.0", "RGB", "inside the graph")
    assert [(point.name, point.threshold) for point in old.operating_points] == [("default", 0.6)]
    assert (old.crop, old.min_peak) == ("none", 0)
    assert ModelContract.from_metadata(old.to_metadata()) == old


def test_format_2_is_read_and_requires_no_peak() -> None:
    fields = json.loads(
        contract(operating_points=(OperatingPoint(name="one", threshold=0.7),)).to_metadata()[METADATA_KEY]
    )
    del fields["min_peak"], fields["operating_points"][0]["min_peak"]
    old = read({**fields, "format": 2})
    assert (old.min_peak, old.operating_point().min_peak, old.recording_point().min_peak) == (0, 0, 0)
    assert ModelContract.from_metadata(old.to_metadata()) == old
    with pytest.raises(ModelError, match="min_peak"):
        read(fields)


def test_recordings_use_the_peak_of_the_model_unless_a_threshold_is_chosen() -> None:
    model = contract(threshold=0.5, min_peak=0.9, operating_points=(OperatingPoint(name="one", threshold=0.7),))
    point = model.recording_point()
    assert (point.threshold, point.min_peak) == (0.5, 0.9)
    assert (point.with_threshold(0.3).threshold, point.with_threshold(0.3).min_peak) == (0.3, 0)
    assert model.recording_point("one").min_peak == 0
    (only,) = contract(threshold=0.5, min_peak=0.9).operating_points
    assert only.min_peak == 0.9


def test_an_operating_point_is_found_by_its_name() -> None:
    eager, patient = OperatingPoint(name="eager", threshold=0.2), OperatingPoint(name="patient", threshold=0.9)
    model = contract(operating_points=(eager, patient))
    assert model.operating_point() == model.operating_point("eager") == eager
    assert model.operating_point("patient") == patient
    with pytest.raises(ConfigError, match=r"no operating point 'sensitive'; choose one of eager, patient"):
        model.operating_point("sensitive")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"threshold": 0.0},
        {"threshold": 1.0},
        {"threshold": float("nan")},
        {"threshold": True},
        {"min_area_share": -0.1},
        {"min_peak": 1.0},
        {"min_peak": -0.5},
        {"appear_ms": -1},
        {"vanish_ms": 1e9},
    ],
)
def test_an_impossible_operating_point_is_rejected(wrong: dict[str, object]) -> None:
    right = {"name": "wrong", "threshold": 0.5, "min_area_share": 0.001, "appear_ms": 100, "vanish_ms": 100}
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OperatingPoint(**{**right, **wrong})  # type: ignore[arg-type]
