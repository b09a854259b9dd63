"""The native module outlines probability maps and contours as the Python code does."""

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.realtime import native
from polypstream.realtime.outlines.contours import polyp_from_contour, polyps_from_probability
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_on_planes, marker_band
from polypstream.realtime.video.planes import Plane

pytestmark = pytest.mark.skipif(not native.is_available(), reason="the native module is not built here")
LINE, CASING = (200.0, 40.0, 90.0), (10.0, 120.0, 130.0)


def planes(
    width: int, height: int, *, across: int = 2, down: int = 2, bits: int = 8, shift: int = 0, seed: int = 1
) -> list[Plane]:
    """Random samples: luma, and two chroma components that share a plane."""
    rng = np.random.default_rng(seed)
    dtype = np.uint8 if bits == 8 else np.uint16
    w, h = -(-width // across), -(-height // down)

    def samples(rows: int, columns: int) -> NDArray[Any]:
        return (rng.integers(0, 2**bits, (rows, columns)) << shift).astype(dtype)

    chroma = samples(h, 2 * w)
    parts = [(samples(height, width + 3)[:, :width], (1, 1))]
    parts += [(chroma[:, place::2], (across, down)) for place in (0, 1)]
    return [Plane(samples=part, luma_per_sample=per, bits=bits, shift=shift) for part, per in parts]


def copies(of: list[Plane]) -> list[NDArray[Any]]:
    return [plane.samples.copy() for plane in of]


def blob(width: int, height: int, x: float, y: float, radius: float) -> NDArray[np.float32]:
    rows, columns = np.mgrid[:height, :width] + 0.5
    return (1 / (1 + np.exp((np.hypot(columns - x, rows - y) - radius) / 1.5))).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    per=st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 1), (4, 4)]),
    depth=st.sampled_from([(8, 0), (10, 0), (10, 6), (16, 0)]),
    corners=st.lists(st.tuples(st.floats(-60, 150), st.floats(-60, 150)), min_size=1, max_size=9),
    style=st.builds(
        MarkerStyle, thickness=st.floats(0, 0.05), casing=st.floats(0, 0.05), opacity=st.sampled_from([0.0, 0.4, 1.0])
    ),
)
def test_contours_are_drawn_as_in_python(
    size: tuple[int, int],
    per: tuple[int, int],
    depth: tuple[int, int],
    corners: list[tuple[float, float]],
    style: MarkerStyle,
) -> None:
    polyp = polyp_from_contour(np.array(corners, np.float32), score=1)
    drawn = []
    for switch in ("1", "0"):
        made = planes(*size, across=per[0], down=per[1], bits=depth[0], shift=depth[1])
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(native.SWITCH, switch)
            draw_on_planes(made, [polyp], style, line=LINE, casing=CASING)
        drawn.append([plane.samples.astype(int) >> depth[1] for plane in made])
    tolerance = max(1, 2 ** (depth[0] - 8) // 4)  # both compute in 32 bits
    for ours, theirs in zip(*drawn, strict=True):
        assert np.abs(ours - theirs).max(initial=0) <= tolerance


def marked(of: list[Plane], probability: NDArray[np.float32], **options: Any) -> None:
    band = marker_band(MarkerStyle(), height=of[0].samples.shape[0])
    options = {"threshold": 0.5, "band": band, **options}
    native.mark(of, probability, line=LINE, casing=CASING, **options)


@pytest.mark.parametrize("place", [(40.0, 30.0), (0.0, 0.0), (63.0, 20.0)])
def test_a_map_is_marked_where_its_polyp_is_outlined(place: tuple[float, float]) -> None:
    """Within some pixels of the frame, of which the map has a tenth: the contour is smoothed, the map's line is not."""
    width, height = 640, 480
    probability = blob(64, 48, *place, 15)
    frame, other = planes(width, height), planes(width, height)
    for each in (*frame, *other):
        each.samples[:] = 120
    marked(frame, probability)
    (polyp,) = polyps_from_probability(probability, threshold=0.5, width=width, height=height)
    draw_on_planes(other, [polyp], MarkerStyle(), line=LINE, casing=CASING)
    ours, theirs = (np.argwhere(each[0].samples != 120) for each in (frame, other))
    assert len(ours) > 500
    for some, all_of in ((ours, theirs), (theirs, ours)):
        apart = cv2.distanceTransform((~grid(all_of, height, width)).astype(np.uint8), cv2.DIST_L2, 5)
        distance = apart[some[:, 0], some[:, 1]]
        assert distance.max() <= 6
        assert distance.mean() < 0.5


def grid(points: NDArray[np.intp], height: int, width: int) -> NDArray[np.bool_]:
    flags = np.zeros((height, width), np.bool_)
    flags[points[:, 0], points[:, 1]] = True
    return flags


@settings(max_examples=20, deadline=None)
@given(
    size=st.tuples(st.integers(4, 48), st.integers(4, 36)),
    cell=st.tuples(st.floats(0.5, 8), st.floats(0.5, 8)),
    threshold=st.floats(0.05, 1),
    seed=st.integers(0, 1000),
    is_part=st.booleans(),
)
def test_the_band_lies_along_the_line_of_the_enlarged_map(
    size: tuple[int, int], cell: tuple[float, float], threshold: float, seed: int, is_part: bool
) -> None:
    """Brute force: pixels next to a change of sides are covered, and pixels far from any keep their bits."""
    width, height = size
    columns, rows = (max(1, round(side / each)) for side, each in zip(size, cell, strict=True))
    left, top, right, bottom = (width // 4, 0, width, height // 2 + 1) if is_part else (0, 0, width, height)
    probability = np.random.default_rng(seed).random((rows, columns), np.float32)
    frame = planes(width, height)
    before = copies(frame)
    radius = 2.0
    marked(frame, probability, threshold=threshold, band=(radius, radius, 1.0, 0.0), part=(left, top, right, bottom))
    # The map on a grid of four points per pixel, 0 beyond its place.
    step = 0.25
    x, y = (np.arange(0, side, step) + step / 2 for side in size)
    u = np.clip((x - left) / (right - left) * columns - 0.5, 0, columns - 1)
    v = np.clip((y - top) / (bottom - top) * rows - 0.5, 0, rows - 1)
    i, j = np.minimum(u.astype(int), max(0, columns - 2)), np.minimum(v.astype(int), max(0, rows - 2))
    k, m = np.minimum(i + 1, columns - 1), np.minimum(j + 1, rows - 1)
    fu, fv = (u - i)[None], (v - j)[:, None]
    upper = probability[j][:, i] * (1 - fu) + probability[j][:, k] * fu
    lower = probability[m][:, i] * (1 - fu) + probability[m][:, k] * fu
    inside = (upper * (1 - fv) + lower * fv) >= threshold
    inside &= ((x >= left) & (x < right))[None] & ((y >= top) & (y < bottom))[:, None]
    padded = np.pad(inside, 1)
    crossed = np.zeros_like(inside)
    for near in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        crossed |= near != inside
    points = np.argwhere(crossed) * step + step / 2
    centers = np.indices((height, width)).reshape(2, -1).T + 0.5
    if len(points):
        distance = np.sqrt(((centers[:, None] - points[None]) ** 2).sum(axis=2).min(axis=1)).reshape(height, width)
    else:
        distance = np.full((height, width), np.inf)
    luma = frame[0].samples.astype(int)
    beyond = distance_from_cells(probability >= threshold, (left, top, right, bottom), width, height) > radius + 0.51
    assert np.array_equal(luma[beyond], before[0][beyond])
    covered = distance < radius - 0.5 - 2 * step - 0.2  # half a cell of the line is drawn straight
    assert np.abs(luma[covered] - LINE[0]).max(initial=0) <= 1


def distance_from_cells(inside: NDArray[np.bool_], part: native.Part, width: int, height: int) -> NDArray[np.float64]:
    """How far each pixel's center is from the nearest cell of the map, or edge of it, that the line can pass."""
    left, top, right, bottom = part
    rows, columns = inside.shape
    x = np.array([left, *(left + (np.arange(columns) + 0.5) * (right - left) / columns), right])
    y = np.array([top, *(top + (np.arange(rows) + 0.5) * (bottom - top) / rows), bottom])
    padded = np.pad(inside, 1, mode="edge")
    v, u = np.mgrid[:height, :width] + 0.5
    nearest = np.full((height, width), np.inf)
    for j, i in np.ndindex(rows + 1, columns + 1):
        corners = padded[j : j + 2, i : i + 2]
        at_edge = j in (0, rows) or i in (0, columns)
        if corners.any() and (at_edge or not corners.all()):
            across = np.maximum(np.maximum(x[i] - u, u - x[i + 1]), 0)
            down = np.maximum(np.maximum(y[j] - v, v - y[j + 1]), 0)
            nearest = np.minimum(nearest, np.hypot(across, down))
    return nearest


def test_chroma_beside_the_band_keeps_every_bit() -> None:
    frame = planes(160, 120)
    before = copies(frame)
    marked(frame, blob(16, 12, 8, 6, 3))
    changed = frame[0].samples != before[0]
    assert changed.any()
    blocks = changed.reshape(60, 2, 80, 2).any(axis=(1, 3))
    for plane, was in zip(frame[1:], before[1:], strict=True):
        assert (plane.samples != was).any()
        assert not (plane.samples != was)[~np.pad(blocks, 1)[1:-1, 1:-1] & ~grown(blocks)].any()


def grown(flags: NDArray[np.bool_]) -> NDArray[np.bool_]:
    padded = np.pad(flags, 1)
    return np.asarray(padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:] | flags)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nothing_is_drawn_from_a_map_that_is_not_finite(value: float) -> None:
    frame, probability = planes(64, 48), blob(16, 12, 8, 6, 3)
    probability[3, 4] = value
    before = copies(frame)
    with pytest.raises(ConfigError, match="not finite"):
        marked(frame, probability)
    for plane, was in zip(frame, before, strict=True):
        assert np.array_equal(plane.samples, was)


def test_what_does_not_fit_is_refused() -> None:
    probability = blob(16, 12, 8, 6, 3)
    for options in [
        {"threshold": 0.0},
        {"threshold": float("nan")},
        {"part": (0, 0, 65, 48)},
        {"part": (10, 0, 10, 48)},
        {"band": (2, 1, 1, 1)},
        {"band": (float("nan"), 1, 1, 1)},
        {"band": (1, 2, 1.5, 1)},
    ]:
        with pytest.raises(ConfigError):
            marked(planes(64, 48), probability, **options)
    odd = planes(64, 48)
    other = [*odd[:2], Plane(samples=odd[2].samples[:-1], luma_per_sample=(2, 2), bits=8, shift=0)]
    with pytest.raises(ConfigError, match="uint8 or uint16"):
        marked(other, probability)


def test_a_map_without_polyps_changes_nothing() -> None:
    frame = planes(64, 48)
    before = copies(frame)
    marked(frame, np.full((12, 16), 0.2, np.float32))
    for plane, was in zip(frame, before, strict=True):
        assert np.array_equal(plane.samples, was)
