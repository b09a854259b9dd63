"""Polyps keep their ids through motion and missed frames, and two polyps never share one."""

import weakref

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polypstream.arrays import Contour, Rgb
from polypstream.content import content_area
from polypstream.realtime.annotate import tracks
from polypstream.realtime.annotate.tracks import MAX_GAP_S, FrameScene, PolypTracker, TrackStatistics
from polypstream.realtime.live.visibility import Visibility, visibility_of
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour

WIDTH, HEIGHT = 640, 480
STEP_S = 0.04


def tissue(x: float = 0, y: float = 0, *, seed: int = 3) -> Rgb:
    """Textured tissue at the size of the network, shifted by a fraction of the frame."""
    rng = np.random.default_rng(seed)
    speckle = cv2.GaussianBlur(rng.normal(0, 1, (256, 256, 1)).astype(np.float32), (0, 0), 4)
    speckle = 40 * speckle / speckle.std()
    rgb = np.clip(np.array([170, 95, 70]) + speckle[..., np.newaxis], 30, 255).astype(np.uint8)
    shift = np.array([[1, 0, x * 256], [0, 1, y * 256]], np.float64)
    return np.asarray(cv2.warpAffine(rgb, shift, (256, 256), borderMode=cv2.BORDER_REFLECT), np.uint8)


def polyp(x: float, y: float, *, radius: float = 40, score: float = 0.9) -> Polyp:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contour: Contour = np.column_stack((x + radius * np.cos(angle), y + radius * np.sin(angle))).astype(np.float32)
    return polyp_from_contour(contour, score=score)


class Recording:
    """Feeds a tracker frame by frame."""

    def __init__(self) -> None:
        self.tracker, self.statistics, self.index = PolypTracker(), TrackStatistics(), 0

    def frame(self, *polyps: Polyp, rgb: Rgb | None = None) -> list[int]:
        scene = FrameScene(tissue() if rgb is None else rgb)
        pts_s = self.index * STEP_S
        ids = self.tracker.update(pts_s=pts_s, polyps=polyps, size=(WIDTH, HEIGHT), scene=scene)
        self.statistics.add(index=self.index, pts_s=pts_s, polyps=polyps, ids=ids)
        self.index += 1
        return ids


def test_two_polyps_keep_their_ids_regardless_of_their_order() -> None:
    recording = Recording()
    assert recording.frame(polyp(150, 200), polyp(450, 200)) == [1, 2]
    assert recording.frame(polyp(452, 203), polyp(153, 203)) == [2, 1]
    assert recording.frame(polyp(155, 205), polyp(455, 205), polyp(300, 400)) == [1, 2, 3]


@given(x=st.floats(-0.055, 0.055), y=st.floats(-0.055, 0.055))
@settings(max_examples=20, deadline=None)
def test_a_small_polyp_is_tracked_by_motion_where_contours_do_not_overlap(x: float, y: float) -> None:
    recording = Recording()
    small = polyp(320, 240, radius=12)
    other = polyp(320 + x * WIDTH, 240 + y * HEIGHT, radius=12)
    assert recording.frame(small, rgb=tissue()) == [1]
    assert recording.frame(other, rgb=tissue(x, y)) == [1]


def test_missed_frames_leave_the_id_although_the_camera_moves_on() -> None:
    recording = Recording()
    recording.frame(polyp(200, 240, radius=20), rgb=tissue())
    for number in range(1, 8):
        assert recording.frame(rgb=tissue(0.02 * number)) == []
    assert recording.frame(polyp(200 + 0.16 * WIDTH, 240, radius=20), rgb=tissue(0.16)) == [1]
    (track,) = recording.statistics.tracks
    assert (track.first_index, track.last_index, track.frames) == (0, 8, 2)
    assert track.longest_gap_s == pytest.approx(7 * STEP_S)


def test_a_polyp_elsewhere_is_another_one() -> None:
    recording = Recording()
    assert recording.frame(polyp(150, 200)) == [1]
    assert recording.frame() == []
    assert recording.frame(polyp(450, 300)) == [2]


def test_a_polyp_after_a_cut_is_another_one() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200, radius=15), rgb=tissue())
    recording.index += 15
    recording.frame(rgb=tissue(seed=8))
    assert recording.frame(polyp(310, 205, radius=15), rgb=tissue(seed=8)) == [2]


def test_a_polyp_that_is_out_of_sight_costs_no_optical_flow() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200), rgb=tissue())
    scenes = [FrameScene(tissue(seed=8)) for _ in range(4)]
    for number, scene in enumerate(scenes, start=1):
        recording.tracker.update(pts_s=number * STEP_S, polyps=[], size=(WIDTH, HEIGHT), scene=scene)
    assert not any("scene" in vars(each) for each in scenes)
    recording.index = 5
    recording.frame(polyp(100, 100), rgb=tissue(seed=8))
    assert ["scene" in vars(each) for each in scenes] == [True, False, False, False]


def test_a_stray_detection_beside_a_clear_one_costs_no_optical_flow() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200), polyp(100, 400, radius=10), rgb=tissue())
    scenes = [FrameScene(tissue()) for _ in range(4)]
    for number, scene in enumerate(scenes, start=1):
        ids = recording.tracker.update(
            pts_s=number * STEP_S, polyps=[polyp(300, 200)], size=(WIDTH, HEIGHT), scene=scene
        )
        assert ids == [1]
    assert not any("scene" in vars(each) for each in scenes)


def test_frames_of_a_track_that_has_ended_are_freed() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200), polyp(100, 400, radius=10))
    frames = []
    for number in range(1, round(2 * MAX_GAP_S / STEP_S)):
        scene = FrameScene(tissue())
        frames.append(weakref.ref(scene))
        recording.tracker.update(pts_s=number * STEP_S, polyps=[polyp(300, 200)], size=(WIDTH, HEIGHT), scene=scene)
        del scene
    assert sum(frame() is not None for frame in frames) <= 2


@pytest.mark.parametrize("seed", range(4))
def test_motion_that_is_computed_later_gives_the_same_ids(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    shifts = np.cumsum(rng.normal(0, 0.01, 40))
    homes = [(150, 150), (320, 260), (480, 380)]
    shown = rng.random((40, 3)) < rng.uniform(0.2, 0.9, 3)

    def ids() -> list[list[int]]:
        recording = Recording()
        return [
            recording.frame(
                *(
                    polyp(x + shift * WIDTH, y, radius=20)
                    for (x, y), is_shown in zip(homes, row, strict=True)
                    if is_shown
                ),
                rgb=tissue(float(shift)),
            )
            for shift, row in zip(shifts, shown, strict=True)
        ]

    later = ids()
    monkeypatch.setattr(tracks, "_MOST_PENDING", 1)
    assert ids() == later


def test_the_nearest_detection_continues_a_track_where_the_motion_is_too_fast_to_be_computed() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200), rgb=tissue())
    assert recording.frame(polyp(420, 210), rgb=tissue(seed=8)) == [1]
    assert recording.frame(polyp(421, 210), polyp(120, 400), rgb=tissue(seed=8)) == [1, 2]


def test_a_polyp_that_is_found_again_after_the_view_was_lost_for_a_moment_is_the_same() -> None:
    recording = Recording()
    recording.frame(polyp(520, 240), rgb=tissue())
    for seed in range(10, 16):
        assert recording.frame(rgb=tissue(seed=seed)) == []
    assert recording.frame(polyp(290, 220), rgb=tissue(seed=16)) == [1]


def test_a_gap_that_is_too_long_ends_the_track() -> None:
    recording = Recording()
    recording.frame(polyp(300, 200))
    recording.index += round(MAX_GAP_S / STEP_S) + 1
    assert recording.frame(polyp(300, 200)) == [2]


def test_facts_of_a_track() -> None:
    recording = Recording()
    for radius, score in ((30, 0.8), (50, 0.7), (40, 0.95), (35, 0.95)):
        recording.frame(polyp(300, 200, radius=radius, score=score))
    (track,) = recording.statistics.tracks
    assert (track.id, track.frames, track.first_index, track.last_index) == (1, 4, 0, 3)
    assert (track.largest_index, track.best_index) == (1, 2)
    assert track.largest_area == pytest.approx(np.pi * 50**2, rel=0.01)
    assert track.duration_s == pytest.approx(3 * STEP_S)
    assert track.longest_gap_s == 0


def test_a_frame_too_small_for_motion_is_tracked_by_overlap() -> None:
    recording = Recording()
    tiny = np.zeros((32, 32, 3), np.uint8)
    assert recording.frame(polyp(300, 200), rgb=tiny) == [1]
    assert recording.frame(polyp(310, 200), rgb=tiny) == [1]


@pytest.mark.parametrize("size", [(320, 480), (128, 128), (300, 40)], ids=["usual", "not scaled", "too narrow"])
@pytest.mark.parametrize("kind", ["sharp", "blurred", "dark"])
def test_a_scene_is_assessed_as_its_frame_is(size: tuple[int, int], kind: str) -> None:
    height, width = size
    rgb = np.asarray(cv2.resize(tissue(seed=2), (width, height)), np.uint8)
    rgb[:, : width // 5] = 0
    if kind == "blurred":
        rgb = np.asarray(cv2.GaussianBlur(rgb, (0, 0), 9), np.uint8)
    if kind == "dark":
        rgb //= 20
    expected = visibility_of(rgb, content_area(rgb))
    assert FrameScene(rgb, content_area(rgb)).visibility is FrameScene(rgb).visibility is expected
    assert (expected is Visibility.CLEAR) == (kind == "sharp")
