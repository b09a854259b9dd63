"""Markers on a frame whose own motion is not known yet: moved on with their tissue, or not drawn."""

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polypstream.realtime.live.outlook import MOST_AHEAD_S, Outlook, glance_of, has_changed
from polypstream.realtime.live.shown import Light, Marker, Status
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
    return View(markers=(marker,), status=Status(light=Light.READY), evidence_at_s=9.9)


GLANCE = glance_of(picture(0))


@given(
    drift=st.tuples(st.floats(-900, 900), st.floats(-900, 900)),
    seconds=st.floats(-MOST_AHEAD_S * 0.99, MOST_AHEAD_S * 0.99),
)
def test_a_marker_moves_on_as_it_moved_and_stays_within_the_frame(drift: tuple[float, float], seconds: float) -> None:
    outlook = Outlook()
    known = view(drift=drift)
    outlook.know(known, at_s=10.0, size=SIZE, glance=GLANCE)
    (marker,) = outlook.on(at_s=10.0 + seconds, size=SIZE, glance=GLANCE).markers
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
    outlook = Outlook()
    outlook.know(view(drift=(1000, 0), x=609), at_s=10.0, size=SIZE, glance=GLANCE)
    assert outlook.on(at_s=10.1, size=SIZE, glance=GLANCE).markers == ()


def test_nothing_is_drawn_from_what_is_old_or_of_another_size_or_forgotten() -> None:
    outlook = Outlook()
    assert outlook.on(at_s=0.0, size=SIZE, glance=GLANCE).status.reason == "waiting for the model"
    outlook.know(view(), at_s=10.0, size=SIZE, glance=GLANCE)
    late = outlook.on(at_s=10.0 + MOST_AHEAD_S + 0.01, size=SIZE, glance=GLANCE)
    assert late.markers == ()
    assert late.status == Status(light=Light.UNCERTAIN, reason="the markers lag behind")
    assert outlook.on(at_s=10.0, size=(1280, 720), glance=GLANCE).markers == ()
    outlook.forget()
    assert outlook.on(at_s=10.0, size=SIZE, glance=GLANCE).markers == ()


def test_what_was_wrong_with_the_picture_is_still_said_when_markers_lag() -> None:
    outlook = Outlook()
    blurred = Status(light=Light.UNCERTAIN, reason="blurred")
    outlook.know(View(markers=(), status=blurred, evidence_at_s=9.9), at_s=10.0, size=SIZE, glance=GLANCE)
    assert outlook.on(at_s=10.5, size=SIZE, glance=GLANCE).status == blurred


@pytest.mark.parametrize("pixel_format", FORMATS)
def test_a_cut_shows_at_a_glance_and_the_next_frame_does_not_look_like_one(pixel_format: str) -> None:
    outlook = Outlook()
    start = glance_of(picture(0, pixel_format))
    assert start.shape == (18, 32)
    assert start.dtype == np.float32
    outlook.know(view(), at_s=10.0, size=SIZE, glance=start)
    assert outlook.on(at_s=10.04, size=SIZE, glance=glance_of(picture(1, pixel_format))).markers
    turned = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_at(CLIP, 0).rgb[:, ::-1]), format="rgb24")
    assert outlook.on(at_s=10.04, size=SIZE, glance=glance_of(turned.reformat(format=pixel_format))).markers == ()


@pytest.mark.parametrize("pixel_format", ["monow", "pal8", "rgb565le", "bgr4", "x2rgb10le", "bayer_rggb8", "gray10le"])
def test_the_rarest_formats_have_a_glance_too(pixel_format: str) -> None:
    black = av.VideoFrame(64, 48, pixel_format)
    assert glance_of(black).shape == (18, 32)


@pytest.mark.parametrize("size", [(2, 2), (16, 16), (127, 97), (3840, 2160)])
def test_any_size_has_a_glance_and_a_lamp_turned_up_is_no_cut(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(20, 150, (size[1], size[0]), dtype=np.uint8)
    dim, bright = (glance_of(av.VideoFrame.from_ndarray(levels, format="gray")) for levels in (grey, grey + 60))
    assert np.isfinite(dim).all()
    assert not has_changed(dim, bright)


def test_drift_is_that_of_the_tissue() -> None:
    """A picture that moves by 4 of 160 pixels in a fifth of a second, and a polyp with it."""
    wide = frame_at(SyntheticClip(width=240, height=200, fps=25, seconds=10), 3).rgb
    rows, columns = np.mgrid[:160, :160]

    def small(shift: int) -> np.ndarray:
        return np.ascontiguousarray(wide[20:180, 20 + shift : 180 + shift])

    def found(shift: int) -> np.ndarray:
        return np.where(np.hypot(columns - (90 - shift), rows - 80) < 20, np.float32(0.9), np.float32(0))

    tracker = Tracker(TrackerConfig(operating_point=EAGER))
    tracker.judge(found(0), rgb=small(0), at_s=0.0, size=SIZE)
    expected = (-4 / 160 * SIZE[0] / 0.2, 0.0)
    (marker,) = tracker.view(rgb=small(4), at_s=0.2, size=SIZE).markers
    assert marker.drift == pytest.approx(expected, abs=12)
    tracker.judge(found(4), rgb=small(4), at_s=0.2, size=SIZE)
    (marker,) = tracker.view(rgb=small(4), at_s=0.2, size=SIZE).markers
    assert marker.drift == pytest.approx(expected, abs=12)
