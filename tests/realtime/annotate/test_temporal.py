"""Isolated detections are dropped, short gaps are filled by motion, and every frame is returned once."""

import pickle
import weakref
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypstream.arrays import Rgb
from polypstream.realtime.annotate.temporal import WINDOW_S, FilteredFrame, TemporalFilter
from polypstream.realtime.annotate.tracks import FrameScene
from polypstream.realtime.outlines.contours import Polyp
from tests.realtime.annotate.test_tracks import HEIGHT, WIDTH, polyp, tissue

STEP_S = 0.04


def push(
    stage: TemporalFilter[str],
    index: int,
    polyps: list[Polyp],
    *,
    rgb: Rgb | None = None,
    step_s: float = STEP_S,
    is_evidence: bool = True,
) -> list[FilteredFrame[str]]:
    scene = FrameScene(tissue() if rgb is None else rgb)
    return list(
        stage.push(
            f"frame {index}",
            index=index,
            pts_s=index * step_s,
            polyps=polyps,
            size=(WIDTH, HEIGHT),
            scene=scene,
            is_evidence=is_evidence,
        )
    )


def filtered(frames: dict[int, Polyp], count: int, *, step_s: float = STEP_S, is_on: bool = True) -> list[int]:
    """Indices of the frames with a polyp after filtering a recording of still tissue."""
    stage = TemporalFilter[str](is_on=is_on)
    out = []
    for index in range(count):
        out += push(stage, index, [frames[index]] if index in frames else [], step_s=step_s)
    out += stage.flush()
    assert [frame.item for frame in out] == [f"frame {index}" for index in range(count)]
    return [frame.index for frame in out if frame.polyps]


STILL = polyp(300, 200)


def test_a_polyp_that_stays_is_kept_from_its_first_frame_to_its_last() -> None:
    assert filtered(dict.fromkeys(range(10, 40), STILL), 60) == list(range(10, 40))


@pytest.mark.parametrize("indices", [[20], [20, 21], [20, 21, 22, 23], [5, 30, 55]])
def test_short_detections_are_dropped(indices: list[int]) -> None:
    assert filtered(dict.fromkeys(indices, STILL), 60) == []


def test_a_polyp_detected_in_every_third_frame_counts_once_there_is_enough_of_it() -> None:
    indices = range(10, 70, 3)
    kept = filtered(dict.fromkeys(indices, STILL), 80)
    supported = indices[7]  # the eighth detection within a second, 0.32 s of evidence; those of 0.4 s before count too
    assert kept == list(range(supported - 9, indices[-1] + 1))


def test_detections_in_every_fourth_frame_are_dropped_however_long() -> None:
    assert filtered(dict.fromkeys(range(0, 200, 4), STILL), 200) == []


@pytest.mark.parametrize(
    ("clear", "kept"),
    [
        (range(60), range(20, 40)),
        (range(20), ()),  # red-out from the first detection on
        (range(24), ()),  # four clear frames are too few
        (range(26), range(20, 40)),  # a polyp that was seen clearly may be blurred later
        (range(30, 60), range(25, 40)),  # or before, within 0.4 s of the frames that confirm it
    ],
)
def test_detections_in_frames_that_cannot_be_assessed_confirm_nothing(
    clear: Sequence[int], kept: Sequence[int]
) -> None:
    stage = TemporalFilter[str]()
    out = []
    for index in range(60):
        out += push(stage, index, [STILL] if 20 <= index < 40 else [], is_evidence=index in clear)
    out += stage.flush()
    assert [frame.index for frame in out if frame.polyps] == list(kept)


def test_a_short_detection_at_the_other_end_of_the_frame_is_dropped_beside_a_polyp() -> None:
    stage = TemporalFilter[str]()
    out = []
    for index in range(40):
        out += push(stage, index, [STILL, polyp(560, 420)] if index == 20 else [STILL])
    out += stage.flush()
    assert {len(frame.polyps) for frame in out} == {1}


@given(gap=st.integers(1, 12))
@settings(max_examples=12, deadline=None)
def test_gaps_within_the_window_are_filled_and_longer_ones_are_not(gap: int) -> None:
    frames = dict.fromkeys([*range(20), *range(20 + gap, 40 + gap)], STILL)
    kept = filtered(frames, 40 + gap)
    assert kept == (list(range(40 + gap)) if (gap + 1) * STEP_S <= WINDOW_S + 1e-9 else sorted(frames))


def test_a_filled_contour_follows_the_tissue_and_is_marked_interpolated() -> None:
    stage = TemporalFilter[str]()
    out = []
    for index in range(30):
        moved = polyp(200 + 0.01 * index * WIDTH, 240, radius=30)
        out += push(stage, index, [] if index in (12, 13, 14) else [moved], rgb=tissue(0.01 * index))
    out += stage.flush()
    assert [frame.index for frame in out if any(frame.interpolated)] == [12, 13, 14]
    for frame in out:
        (found,) = frame.polyps
        assert frame.tracks == (1,)
        assert found.contour.mean(axis=0) == pytest.approx((200 + 0.01 * frame.index * WIDTH, 240), abs=4)


def outlines(frames: dict[int, Polyp], *, pictures: dict[int, Rgb] | None = None) -> list[FilteredFrame[str]]:
    stage = TemporalFilter[str]()
    out = []
    for index, found in frames.items():
        out += push(stage, index, [found], rgb=(pictures or {}).get(index))
    return [*out, *stage.flush()]


@pytest.mark.parametrize("odd", [polyp(300, 200, radius=20), polyp(300, 240), polyp(300, 200, radius=70)])
@pytest.mark.parametrize("moves", [False, True])
def test_the_odd_outline_of_one_frame_is_replaced(odd: Polyp, moves: bool) -> None:
    shift = [0.01 * (index - 20) if moves else 0.0 for index in range(40)]
    frames = {index: polyp(300 + shift[index] * WIDTH, 200) for index in range(40)}
    expected = frames[20]
    out = outlines({**frames, 20: odd}, pictures={index: tissue(x) for index, x in enumerate(shift)})
    assert [frame.index for frame in out if any(frame.interpolated)] == [20]
    (found,) = out[20].polyps
    np.testing.assert_allclose(found.contour, expected.contour, atol=5)
    assert [frame.tracks for frame in out] == [(1,)] * 40


def test_an_outline_that_stays_odd_or_changes_gradually_is_kept() -> None:
    small = polyp(300, 200, radius=20)
    growing = {index: polyp(300, 200, radius=20 * 1.06**index) for index in range(30)}
    for frames in ({**dict.fromkeys(range(40), STILL), 20: small, 21: small}, growing):
        out = outlines(frames)
        assert not any(any(frame.interpolated) for frame in out)
        for frame, found in zip(out, frames.values(), strict=True):
            assert frame.polyps == (found,)


def test_an_odd_outline_is_kept_where_the_motion_cannot_be_trusted() -> None:
    large = polyp(300, 200, radius=65)
    out = outlines({**dict.fromkeys(range(40), STILL), 20: large}, pictures={20: tissue(seed=50)})
    assert not any(any(frame.interpolated) for frame in out)
    assert out[20].polyps == (large,)


def test_nothing_is_filled_in_where_the_motion_cannot_be_trusted() -> None:
    stage = TemporalFilter[str]()
    out = []
    for index in range(30):
        missed = index in (12, 13, 14)
        out += push(stage, index, [] if missed else [STILL], rgb=tissue(seed=index + 50) if missed else tissue())
    out += stage.flush()
    assert [frame.index for frame in out if not frame.polyps] == [12, 13, 14]


def test_frames_far_apart_are_not_filtered() -> None:
    assert filtered({3: STILL, 7: STILL}, 12, step_s=1.0) == [3, 7]


def test_every_detection_of_a_very_short_recording_counts() -> None:
    assert filtered({1: STILL}, 3) == [1]


def test_switched_off_it_releases_every_frame_immediately() -> None:
    stage = TemporalFilter[str](is_on=False)
    for index in range(5):
        (frame,) = push(stage, index, [STILL] if index == 2 else [])
        assert (frame.index, len(frame.polyps)) == (index, index == 2)


def test_it_continues_the_same_after_it_was_pickled() -> None:
    frames = dict.fromkeys([*range(8, 20), *range(23, 40)], STILL)
    straight, stopped = TemporalFilter[str](), TemporalFilter[str]()
    expected, out = [], []
    for index in range(60):
        polyps = [frames[index]] if index in frames else []
        expected += push(straight, index, polyps)
        out += push(stopped, index, polyps)
        if index in (12, 21, 24):
            stopped = pickle.loads(pickle.dumps(stopped))
    expected += straight.flush()
    out += stopped.flush()
    assert [(frame.index, frame.tracks, frame.interpolated) for frame in out] == [
        (frame.index, frame.tracks, frame.interpolated) for frame in expected
    ]
    for one, other in zip(out, expected, strict=True):
        for found, wanted in zip(one.polyps, other.polyps, strict=True):
            np.testing.assert_array_equal(found.contour, wanted.contour)


def test_two_polyps_that_flicker_in_turn_do_not_keep_frames_that_were_released() -> None:
    class Picture:
        """Something whose end can be observed."""

    stage = TemporalFilter[Picture]()
    left, right = polyp(150, 200), polyp(450, 200)
    pictures = []
    for index in range(45):
        picture = Picture()
        pictures.append(weakref.ref(picture))
        for _ in stage.push(
            picture,
            index=index,
            pts_s=index * STEP_S,
            polyps=[right if index % 2 else left],
            size=(WIDTH, HEIGHT),
            scene=FrameScene(tissue()),
        ):
            pass
    assert [each for each in pictures[:15] if each() is not None] == []
