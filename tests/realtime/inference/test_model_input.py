"""The crop that the network receives, and the position of its output."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypstream.arrays import Probability, Rgb, Size
from polypstream.content import Crop, content_area, whole_image
from polypstream.realtime.inference.model_input import GROW_AFTER, SHRINK_AFTER, ModelInputs, SteadyEdges, segment_input
from polypstream.realtime.outlines.content_area import ModelInput

SIDE = 64


def frame(*, height: int = 240, width: int = 400, box: tuple[int, int, int, int] | None = (40, 220, 90, 330)) -> Rgb:
    """A black frame with a bright area in rows and columns (top, bottom, left, right)."""
    rgb = np.zeros((height, width, 3), np.uint8)
    if box is not None:
        top, bottom, left, right = box
        rgb[top:bottom, left:right] = (170, 80, 70)
    return rgb


def scaling(rgb: Rgb) -> Callable[[Size], Rgb]:
    return lambda size: np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def inputs(crop: Any = "content") -> ModelInputs:
    return ModelInputs(height=SIDE, width=SIDE, crop=crop)


class Green:
    """A segmenter that detects green as polyp and records its inputs."""

    def segment(self, rgb: Rgb) -> Probability:
        self.shown = rgb
        return (rgb[..., 1] > 120).astype(np.float32)


def test_without_a_crop_the_whole_frame_is_shown() -> None:
    made = inputs("none").of(scaling(frame()))
    assert made.rgb.shape == (SIDE, SIDE, 3)
    assert made.shown == whole_image(height=SIDE, width=SIDE)


def test_with_one_the_content_area_has_the_networks_size() -> None:
    made = inputs().of(scaling(frame()))
    part = made.shown.of(made.rgb)
    assert part.shape == (SIDE, SIDE, 3)
    assert (part.max(axis=2) > 40).mean() > 0.95
    assert made.rgb.max(axis=2)[made.shown.bottom + 2 :].sum() == 0


@settings(max_examples=60, deadline=None)
@given(
    st.integers(120, 500),
    st.integers(120, 700),
    st.tuples(*[st.floats(0, 0.35)] * 4),
    st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)),
)
def test_the_result_is_at_the_position_of_the_polyp(
    height: int, width: int, margins: tuple[float, ...], place: tuple[float, float]
) -> None:
    top, bottom = round(margins[0] * height), height - round(margins[1] * height)
    left, right = round(margins[2] * width), width - round(margins[3] * width)
    rgb = frame(height=height, width=width, box=(top, bottom, left, right))
    y, x = top + place[0] * (bottom - top), left + place[1] * (right - left)
    reach_y, reach_x = (bottom - top) // 8, (right - left) // 8
    polyp = np.s_[round(y) - reach_y : round(y) + reach_y, round(x) - reach_x : round(x) + reach_x]
    rgb[polyp] = (60, 200, 60)
    maker, network = inputs(), Green()
    for _ in range(2):
        made = maker.of(scaling(rgb))
        probability = segment_input(network, made)  # type: ignore[arg-type]
        assert network.shown.shape == (SIDE, SIDE, 3)
        assert network.shown.flags.c_contiguous
        assert probability.shape == made.rgb.shape[:2]
        rows, columns = np.nonzero(probability)
        middle = np.array([(rows.mean() + 0.5) / probability.shape[0], (columns.mean() + 0.5) / probability.shape[1]])
        np.testing.assert_allclose(middle, (round(y) / height, round(x) / width), atol=0.012)


def test_the_result_is_placed_back_pixel_by_pixel() -> None:
    rng = np.random.default_rng(0)
    made = ModelInput(rng.integers(60, 255, (90, 80, 3), dtype=np.uint8), Crop(top=10, bottom=74, left=8, right=72))
    answer = rng.random((SIDE, SIDE), np.float32)
    network = SimpleNamespace(segment=lambda rgb: answer)
    probability = segment_input(network, made)  # type: ignore[arg-type]
    np.testing.assert_array_equal(made.shown.of(probability), answer)
    assert probability.sum() == pytest.approx(answer.sum(), rel=1e-5)


def seen(edges: SteadyEdges, rgb: Rgb, times: int) -> tuple[float, ...]:
    for _ in range(times):
        edges.see(content_area(rgb))
    return edges.used


def test_the_crop_grows_soon_and_shrinks_late() -> None:
    edges = SteadyEdges()
    small, large = frame(), frame(box=(10, 235, 60, 370))
    first = seen(edges, small, 1)
    assert seen(edges, large, GROW_AFTER - 1) == first
    grown = seen(edges, large, 1)
    assert grown[0] < first[0]
    assert seen(edges, small, SHRINK_AFTER - 1) == grown
    assert seen(edges, small, 1) == first


def test_short_changes_have_no_effect() -> None:
    edges = SteadyEdges()
    first = seen(edges, frame(), 5)
    for _ in range(40):
        assert seen(edges, frame(box=None), GROW_AFTER - 1) == first
        assert seen(edges, frame(), 1) == first
        assert seen(edges, frame(box=(40, 180, 90, 330)), SHRINK_AFTER // 2) == first
        assert seen(edges, frame(), 1) == first


def test_a_step_of_a_pixel_is_not_a_change() -> None:
    edges = SteadyEdges()
    first = seen(edges, frame(), 1)
    assert seen(edges, frame(box=(42, 222, 88, 331)), 3 * SHRINK_AFTER) == first


def test_a_covered_lens_gives_the_whole_frame() -> None:
    made = inputs().of(scaling(frame(box=None)))
    assert made.rgb.shape == (SIDE, SIDE, 3)
