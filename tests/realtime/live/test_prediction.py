"""Markers on a frame before its own optical flow is known: moved with their tissue, faded, or not drawn."""

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.realtime.live.display_frame import Light, Marker, Status
from polypstream.realtime.live.motion import scene_of
from polypstream.realtime.live.prediction import (
    MOST_AHEAD_S,
    CutCounter,
    MarkerPredictor,
    Thumbnail,
    has_changed,
    thumbnail_of,
)
from polypstream.realtime.live.tracker import Tracker, TrackerConfig, View
from polypstream.synthetic import SyntheticClip, frame_at
from tests.live_frames import round_polyp
from tests.realtime.live.scripted import EAGER

SIZE = (640, 480)
CLIP = SyntheticClip(width=640, height=480, fps=25, seconds=60)
FORMATS = ["yuv420p", "nv12", "yuv422p", "yuv420p10le", "gray", "rgb24", "bgra", "yuyv422", "yuv444p16le"]


def picture(index: int, pixel_format: str = "yuv420p") -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame_at(CLIP, index).rgb, format="rgb24").reformat(format=pixel_format)


def view(*, drift: tuple[float, float] = (0.0, 0.0), x: float = 320, y: float = 240) -> View:
    marker = Marker(identity=1, polyp=round_polyp(x=x, y=y, radius=30), opacity=1.0, drift=drift)
    return View(markers=(marker,), status=Status(light=Light.READY), inferred_at_s=9.9)


THUMBNAIL = thumbnail_of(picture(0))
FLAT = np.full_like(THUMBNAIL, 100)


@given(
    drift=st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
    seconds=st.floats(-MOST_AHEAD_S * 0.99, MOST_AHEAD_S * 0.8),
)
def test_without_contrast_a_marker_moves_on_as_it_moved_and_stays_within_the_frame(
    drift: tuple[float, float], seconds: float
) -> None:
    predictor = MarkerPredictor()
    known = view(drift=drift)
    predictor.update(known, at_s=10.0, size=SIZE, thumbnail=FLAT)
    (marker,) = predictor.predict(at_s=10.0 + seconds, size=SIZE, thumbnail=FLAT).markers
    way = np.array(drift) * seconds
    before = known.markers[0].polyp.contour
    assert marker.identity == 1
    np.testing.assert_allclose(marker.polyp.contour, np.clip(before + way, 0, SIZE), atol=0.01)
    left, top, width, height = marker.polyp.box
    assert left >= 0
    assert top >= 0
    assert left + width <= SIZE[0] + 1e-3
    assert top + height <= SIZE[1] + 1e-3


def test_a_marker_that_has_left_the_frame_is_gone() -> None:
    predictor = MarkerPredictor()
    predictor.update(view(drift=(1000, 0), x=609), at_s=10.0, size=SIZE, thumbnail=FLAT)
    assert predictor.predict(at_s=10.1, size=SIZE, thumbnail=FLAT).markers == ()


def textured(x: float, y: float) -> Thumbnail:
    """A thumbnail of smooth random texture, shifted by a number of cells."""
    wide = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 200, (76, 104)).astype(np.float32), (25, 25), 0)
    moved = cv2.warpAffine(wide, np.array([[1, 0, x], [0, 1, y]], np.float32), (104, 76), flags=cv2.INTER_CUBIC)
    return np.asarray(120 + moved[20:56, 20:84], np.float32)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, -2), (-3.5, 1.25), (0.5, 4)])
def test_a_marker_follows_its_surroundings_rather_than_its_velocity(x: float, y: float) -> None:
    predictor = MarkerPredictor()
    known = view(drift=(100, -200))
    predictor.update(known, at_s=10.0, size=SIZE, thumbnail=textured(0, 0))
    (marker,) = predictor.predict(at_s=10.04, size=SIZE, thumbnail=textured(x, y)).markers
    way = (marker.polyp.contour - known.markers[0].polyp.contour).mean(axis=0)
    np.testing.assert_allclose(way, [x * 10, y * 480 / 36], atol=8)  # within a cell, which measures 10 by 13
    assert marker.opacity > 0.9
    assert marker.evidence_age_s == pytest.approx(known.markers[0].evidence_age_s + 0.04)


def test_a_marker_whose_surroundings_could_be_anywhere_is_not_drawn() -> None:
    """A gradient looks the same along one direction; with noise, the best match is random."""
    rng = np.random.default_rng(0)
    shade = np.tile(np.linspace(60, 180, 64, dtype=np.float32), (36, 1))
    before, after = (shade + rng.normal(0, 2, shade.shape).astype(np.float32) for _ in range(2))
    predictor = MarkerPredictor()
    predictor.update(view(), at_s=10.0, size=SIZE, thumbnail=before)
    assert predictor.predict(at_s=10.04, size=SIZE, thumbnail=after).markers == ()


def test_a_marker_whose_surroundings_are_gone_is_not_drawn() -> None:
    predictor, after = MarkerPredictor(), textured(0, 0)
    after[10:26, 22:42] = np.random.default_rng(1).normal(120, 40, (16, 20))
    predictor.update(view(), at_s=10.0, size=SIZE, thumbnail=textured(0, 0))
    assert predictor.predict(at_s=10.04, size=SIZE, thumbnail=after).markers == ()


def test_a_marker_fades_the_further_it_is_predicted() -> None:
    predictor = MarkerPredictor()
    predictor.update(view(), at_s=10.0, size=SIZE, thumbnail=THUMBNAIL)
    opacities = [
        max((m.opacity for m in predictor.predict(at_s=10 + s, size=SIZE, thumbnail=THUMBNAIL).markers), default=0.0)
        for s in (0.0, 0.04, 0.08, 0.12, 0.149)
    ]
    assert opacities[:2] == [1, 1]
    assert 1 > opacities[2] > opacities[3] > 0
    assert opacities[4] == 0


def test_the_dark_border_does_not_affect_a_marker() -> None:
    """The border stays while the tissue next to it moves."""
    before, after = textured(0, 0), textured(0, 3)
    before[:, 36:], after[:, 36:] = 16, 16
    predictor, known = MarkerPredictor(), view(x=330)
    predictor.update(known, at_s=10.0, size=SIZE, thumbnail=before)
    (marker,) = predictor.predict(at_s=10.04, size=SIZE, thumbnail=after).markers
    way = (marker.polyp.contour - known.markers[0].polyp.contour).mean(axis=0)
    np.testing.assert_allclose(way, [0, 3 * 480 / 36], atol=4)


def test_nothing_is_drawn_from_outdated_markers_or_markers_of_another_size() -> None:
    predictor = MarkerPredictor()
    assert predictor.predict(at_s=0.0, size=SIZE, thumbnail=THUMBNAIL).status.reason == "waiting for the model"
    predictor.update(view(), at_s=10.0, size=SIZE, thumbnail=THUMBNAIL)
    late = predictor.predict(at_s=10.0 + MOST_AHEAD_S + 0.01, size=SIZE, thumbnail=THUMBNAIL)
    assert late.markers == ()
    assert late.status == Status(light=Light.UNCERTAIN, reason="the markers lag behind")
    assert predictor.predict(at_s=10.0, size=(1280, 720), thumbnail=THUMBNAIL).markers == ()
    predictor.reset()
    assert predictor.predict(at_s=10.0, size=SIZE, thumbnail=THUMBNAIL).markers == ()


def test_frame_problems_are_still_reported_when_markers_lag() -> None:
    predictor = MarkerPredictor()
    blurred = Status(light=Light.UNCERTAIN, reason="blurred")
    predictor.update(View(markers=(), status=blurred, inferred_at_s=9.9), at_s=10.0, size=SIZE, thumbnail=THUMBNAIL)
    assert predictor.predict(at_s=10.5, size=SIZE, thumbnail=THUMBNAIL).status == blurred


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_cut_shows_in_the_thumbnail_and_the_next_frame_does_not_look_like_one(pixel_format: str) -> None:
    predictor = MarkerPredictor()
    start = thumbnail_of(picture(0, pixel_format))
    assert start.shape == (36, 64)
    assert start.dtype == np.float32
    predictor.update(view(), at_s=10.0, size=SIZE, thumbnail=start)
    assert predictor.predict(at_s=10.04, size=SIZE, thumbnail=thumbnail_of(picture(1, pixel_format))).markers
    turned = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_at(CLIP, 0).rgb[:, ::-1]), format="rgb24")
    assert (
        predictor.predict(at_s=10.04, size=SIZE, thumbnail=thumbnail_of(turned.reformat(format=pixel_format))).markers
        == ()
    )


@pytest.mark.parametrize("pixel_format", ["monow", "pal8", "rgb565le", "bgr4", "x2rgb10le", "bayer_rggb8", "gray10le"])
def test_the_rarest_formats_have_a_thumbnail_too(pixel_format: str) -> None:
    black = av.VideoFrame(64, 48, pixel_format)
    assert thumbnail_of(black).shape == (36, 64)


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (127, 97), (3840, 2160)])
def test_any_size_has_a_thumbnail_and_a_lamp_turned_up_is_not_a_cut(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    gray = rng.integers(20, 150, (size[1], size[0]), dtype=np.uint8)
    dim, bright = (thumbnail_of(av.VideoFrame.from_ndarray(levels, format="gray")) for levels in (gray, gray + 60))
    assert np.isfinite(dim).all()
    assert not has_changed(dim, bright)


def test_drift_is_that_of_the_tissue() -> None:
    """An image that moves by 4 of 160 pixels in a fifth of a second, together with a polyp."""
    wide = frame_at(SyntheticClip(width=240, height=200, fps=25, seconds=10), 3).rgb
    rows, columns = np.mgrid[:160, :160]

    def small(shift: int) -> np.ndarray:
        return np.ascontiguousarray(wide[20:180, 20 + shift : 180 + shift])

    def found(shift: int) -> np.ndarray:
        return np.where(np.hypot(columns - (90 - shift), rows - 80) < 20, np.float32(0.9), np.float32(0))

    tracker = Tracker(TrackerConfig(operating_point=EAGER))
    tracker.update(found(0), scene=scene_of(small(0)), at_s=0.0, size=SIZE)
    expected = (-4 / 160 * SIZE[0] / 0.2, 0.0)
    (marker,) = tracker.view(scene=scene_of(small(4)), at_s=0.2, size=SIZE).markers
    assert marker.drift == pytest.approx(expected, abs=12)
    tracker.update(found(4), scene=scene_of(small(4)), at_s=0.2, size=SIZE)
    (marker,) = tracker.view(scene=scene_of(small(4)), at_s=0.2, size=SIZE).markers
    assert marker.drift == pytest.approx(expected, abs=12)


def test_cuts_are_counted_once() -> None:
    cuts = CutCounter()
    mirrored = np.ascontiguousarray(THUMBNAIL[:, ::-1])
    frames = [THUMBNAIL, thumbnail_of(picture(1)), mirrored, mirrored, THUMBNAIL]
    assert [cuts.count(each) for each in frames] == [0, 0, 1, 1, 2]
