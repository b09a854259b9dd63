"""From detections to markers: propagated with the tissue, faded with age, and absent without evidence."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.alarms import Pace, views_of
from benchmarks.alarms import Shot as LiveShot
from polypstream.arrays import Probability, Rgb
from polypstream.contract import OperatingPoint
from polypstream.errors import ConfigError
from polypstream.metrics import Overlap
from polypstream.realtime.live.display_frame import Light
from polypstream.realtime.live.events import EventKind
from polypstream.realtime.live.motion import scene_of
from polypstream.realtime.live.prediction import thumbnail_of
from polypstream.realtime.live.tracker import MISSED_FADE_S, MISSED_OPACITY, Propagation, Tracker, TrackerConfig, View
from polypstream.realtime.live.visibility import Visibility
from polypstream.realtime.outlines.contours import mask_from_polyps
from polypstream.synthetic import SyntheticClip, frame_at, frames_of
from polypstream.train.image_files import read_mask

SIDE = 128
FPS = 25
SIZE = (1920, 1080)
IMMEDIATE = OperatingPoint(name="immediate", threshold=0.5, appear_ms=0, vanish_ms=400)
PATIENT = OperatingPoint(name="patient", threshold=0.95, min_area_share=0.001, appear_ms=240, vanish_ms=400)


@dataclass(frozen=True, kw_only=True)
class Shot:
    rgb: Rgb
    probability: Probability
    truth: NDArray[np.bool_]


@pytest.fixture(scope="module")
def shots() -> list[Shot]:
    clip = SyntheticClip(width=320, height=240, fps=FPS, seconds=3)
    return [shot(frame.rgb, frame.mask) for frame in frames_of(clip)]


def shot(rgb: Rgb, mask: NDArray[np.bool_]) -> Shot:
    small = [cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for part in (rgb, mask.astype(np.float32))]
    probability = np.clip(small[1], 0, 1).astype(np.float32)
    return Shot(rgb=np.asarray(small[0], np.uint8), probability=probability, truth=mask)


def tracker(*, point: OperatingPoint = IMMEDIATE, propagation: Propagation = Propagation.MOTION) -> Tracker:
    return Tracker(TrackerConfig(operating_point=point, propagation=propagation))


def infer(tracker: Tracker, shot: Shot, at_s: float) -> None:
    tracker.update(shot.probability, scene=scene_of(shot.rgb), at_s=at_s, size=SIZE)


def view(tracker: Tracker, shot: Shot, at_s: float) -> View:
    return tracker.view(scene=scene_of(shot.rgb), at_s=at_s, size=SIZE)


def dice(shot: Shot, view: View, size: tuple[int, int]) -> float:
    polyps = [marker.polyp for marker in view.markers]
    return Overlap.of(shot.truth, mask_from_polyps(polyps, width=size[0], height=size[1])).dice


def mean_dice(shots: Sequence[Shot], tracker: Tracker, *, every: int, late: int) -> float:
    """Mean over the frames with a polyp, each marked with the information available when it is displayed."""
    scores = []
    for index, now in enumerate(shots):
        size = (now.truth.shape[1], now.truth.shape[0])
        if index >= late and (index - late) % every == 0:
            then = shots[index - late]
            tracker.update(then.probability, scene=scene_of(then.rgb), at_s=(index - late) / FPS, size=size)
        seen = tracker.view(scene=scene_of(now.rgb), at_s=index / FPS, size=size)
        if now.truth.any():
            scores.append(dice(now, seen, size))
    return float(np.mean(scores))


def test_a_marker_lies_on_the_polyp_in_pixels_of_the_frame(shots: list[Shot]) -> None:
    tracked = tracker()
    infer(tracked, shots[0], 0.0)
    seen = view(tracked, shots[0], 0.0)
    truth = cv2.resize(shots[0].truth.astype(np.uint8), SIZE, interpolation=cv2.INTER_NEAREST) > 0
    found = mask_from_polyps([marker.polyp for marker in seen.markers], width=SIZE[0], height=SIZE[1])
    assert Overlap.of(np.asarray(truth), found).dice > 0.9
    assert seen.status.light is Light.READY
    assert seen.inferred_at_s == 0.0
    assert {marker.opacity for marker in seen.markers} == {1.0}


@pytest.mark.parametrize(("every", "late"), [(1, 1), (1, 4), (3, 3)])
def test_outlines_as_displayed_are_better_with_motion(shots: list[Shot], every: int, late: int) -> None:
    moved = mean_dice(shots, tracker(), every=every, late=late)
    still = mean_dice(shots, tracker(propagation=Propagation.NONE), every=every, late=late)
    assert moved > still + 0.01
    assert moved > 0.8


def test_a_marker_fades_with_the_age_of_its_evidence_and_is_gone_at_the_end(shots: list[Shot]) -> None:
    tracked = tracker()
    infer(tracked, shots[0], 0.0)
    opacities = [
        max((m.opacity for m in view(tracked, shots[0], at_s).markers), default=0.0)
        for at_s in (0.0, 0.12, 0.17, 0.22, 0.25, 0.4)
    ]
    assert opacities[:2] == [1.0, 1.0]
    assert 1 > opacities[2] > opacities[3] > 0
    assert opacities[4:] == [0.0, 0.0]
    assert view(tracked, shots[0], 0.4).status.reason == "inference is delayed"


@pytest.mark.parametrize("change", ["cut", "black", "blur", "red", "white"])
def test_nothing_is_drawn_from_the_first_frame_of_another_scene(shots: list[Shot], change: str) -> None:
    rgb = shots[1].rgb
    other = frame_at(SyntheticClip(width=320, height=240, seed=1), 0)
    after = {
        "cut": np.asarray(cv2.resize(other.rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8),
        "black": np.zeros_like(rgb),
        "blur": np.asarray(cv2.GaussianBlur(rgb, (0, 0), 4), np.uint8),
        "red": np.full_like(rgb, (230, 40, 30)),
        "white": np.full_like(rgb, 250),
    }[change]
    tracked = tracker()
    infer(tracked, shots[0], 0.0)
    assert view(tracked, shots[1], 0.04).markers
    seen = tracked.view(scene=scene_of(after), at_s=0.08, size=SIZE)
    assert seen.markers == ()
    assert seen.status.light is (Light.READY if change == "cut" else Light.UNCERTAIN)
    assert change == "cut" or seen.status.reason


def test_a_cut_ends_every_identity(shots: list[Shot]) -> None:
    frame = frame_at(SyntheticClip(width=320, height=240, seed=2), 0)
    other, tracked = shot(frame.rgb, frame.mask), tracker()
    infer(tracked, shots[0], 0.0)
    before = {marker.identity for marker in view(tracked, shots[0], 0.0).markers}
    tracked.update(other.probability, scene=scene_of(other.rgb), at_s=0.04, size=SIZE, cuts=1)
    after = {marker.identity for marker in view(tracked, other, 0.04).markers}
    assert before
    assert after
    assert not before & after


def test_a_frame_on_which_nothing_can_be_seen_is_not_evidence(shots: list[Shot]) -> None:
    tracked = tracker()
    blurred = np.asarray(cv2.GaussianBlur(shots[0].rgb, (0, 0), 4), np.uint8)
    tracked.update(np.ones((SIDE, SIDE), np.float32), scene=scene_of(blurred), at_s=0.0, size=SIZE)
    seen = view(tracked, shots[0], 0.02)
    assert seen.markers == ()
    assert seen.inferred_at_s == 0.0
    assert tracked.take_events() == []


def opacity(tracker: Tracker, shot: Shot, at_s: float) -> float:
    return max((marker.opacity for marker in view(tracker, shot, at_s).markers), default=0.0)


def test_a_marker_that_a_newer_inference_does_not_confirm_fades_immediately(shots: list[Shot]) -> None:
    tracked, nothing = tracker(), np.zeros((SIDE, SIDE), np.float32)
    infer(tracked, shots[0], 0.0)
    assert opacity(tracked, shots[0], 0.04) == 1
    tracked.update(nothing, scene=scene_of(shots[0].rgb), at_s=0.04, size=SIZE)
    faded = [opacity(tracked, shots[0], at_s) for at_s in (0.04, 0.06, 0.08, 0.12)]
    assert MISSED_OPACITY == faded[0] > faded[1] > faded[2]
    assert faded[3] == 0
    assert opacity(tracked, shots[0], 0.04 + MISSED_FADE_S) == 0
    infer(tracked, shots[0], 0.12)
    assert opacity(tracked, shots[0], 0.12) == 1


def test_the_age_of_evidence_is_that_of_the_markers_own(shots: list[Shot]) -> None:
    columns = np.mgrid[:SIDE, :SIDE][1]
    rows = np.mgrid[:SIDE, :SIDE][0]
    left, right = (np.where(np.hypot(columns - x, rows - 64) < 8, np.float32(0.9), np.float32(0)) for x in (50, 80))
    tracked, scene = tracker(), scene_of(shots[0].rgb)
    tracked.update(np.maximum(left, right), scene=scene, at_s=0.0, size=SIZE)
    tracked.update(left, scene=scene, at_s=0.04, size=SIZE)
    seen = tracked.view(scene=scene, at_s=0.05, size=SIZE)
    ages = {round(marker.polyp.box[0]): marker.evidence_age_s for marker in seen.markers}
    assert [ages[x] for x in sorted(ages)] == pytest.approx([0.01, 0.05])
    assert seen.inferred_at_s == 0.04


def test_on_a_blurred_frame_only_what_the_network_finds_in_the_blur_is_marked(shots: list[Shot]) -> None:
    blurred = scene_of(np.asarray(cv2.GaussianBlur(shots[0].rgb, (0, 0), 2.5), np.uint8))
    assert blurred.visibility is Visibility.BLURRED
    tracked = tracker()
    infer(tracked, shots[0], 0.0)
    assert not tracked.view(scene=blurred, at_s=0.04, size=SIZE).markers
    tracked.update(shots[0].probability, scene=blurred, at_s=0.04, size=SIZE)
    seen = tracked.view(scene=blurred, at_s=0.08, size=SIZE)
    assert 1 in {marker.identity for marker in seen.markers}
    assert seen.status.light is Light.UNCERTAIN
    tracked.update(np.zeros((SIDE, SIDE), np.float32), scene=blurred, at_s=0.08, size=SIZE)
    assert not tracked.view(scene=blurred, at_s=0.12, size=SIZE).markers


def jerky(shots_of: int = 75) -> list[LiveShot]:
    """A camera that rests on a polyp and sometimes jerks away and back, during which nothing is detected."""
    frame = frame_at(SyntheticClip(width=960, height=720, fps=FPS, seconds=10), 3)
    shots, at = [], np.zeros(2)
    for index in range(shots_of):
        phase = index % 25
        speed = {12: (0, 60), 13: (20, 60), 14: (0, -60), 15: (-20, -60)}.get(phase, (0, 0))
        at = at + speed
        x, y = (round(float(value)) for value in at + np.array([160, 120]))
        rgb, mask = frame.rgb[y : y + 480, x : x + 640], frame.mask[y : y + 480, x : x + 640]
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24").reformat(format="yuv420p")
        made = shot(rgb, mask)
        found = np.zeros_like(made.probability) if any(speed) else made.probability
        shots.append(
            LiveShot(rgb=made.rgb, probability=found, truth=mask, at_s=index / FPS, thumbnail=thumbnail_of(picture))
        )
    return shots


@pytest.mark.parametrize(("interval", "latency"), [(1, 1), (2, 3)])
def test_fast_motion_leaves_no_misplaced_marker(interval: int, latency: int) -> None:
    clip = jerky()
    pace = Pace(name="test", interval_frames=interval, latency_frames=latency)
    views = views_of(clip, tracker(), pace)
    ious = [
        Overlap.of(now.truth, mask_from_polyps([marker.polyp for marker in seen.markers], width=640, height=480)).iou
        for now, seen in zip(clip, views, strict=True)
        if seen.markers and now.truth.any()
    ]
    assert min(ious) >= 0.25
    assert len(ious) > 0.6 * len(clip)
    assert {marker.identity for view in views for marker in view.markers} <= {1, 2}


def test_nothing_is_marked_outside_the_content_area(shots: list[Shot]) -> None:
    tracked = tracker()
    tracked.update(np.ones((SIDE, SIDE), np.float32), scene=scene_of(shots[0].rgb), at_s=0.0, size=SIZE)
    (marker,) = view(tracked, shots[0], 0.0).markers
    surround = shots[0].rgb.max(axis=2) == 0
    found = mask_from_polyps([marker.polyp], width=SIZE[0], height=SIZE[1])
    edge = np.ones((5, 5), np.uint8)
    far = cv2.erode(surround.astype(np.uint8), edge, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    assert not found[cv2.resize(far, SIZE, interpolation=cv2.INTER_NEAREST) > 0].any()


def test_a_polyp_missed_now_and_then_keeps_its_marker_and_identity(shots: list[Shot]) -> None:
    tracked = tracker()
    nothing = np.zeros((SIDE, SIDE), np.float32)
    for index, now in enumerate(shots[:20]):
        probability = nothing if index % 4 == 2 else now.probability
        tracked.update(probability, scene=scene_of(now.rgb), at_s=index / FPS, size=SIZE)
        assert 1 in {marker.identity for marker in view(tracked, now, index / FPS).markers}
    assert 1 not in {e.details["identity"] for e in tracked.take_events() if e.kind is EventKind.POLYP_VANISHED}


def test_hysteresis_waits_and_events_follow(shots: list[Shot]) -> None:
    tracked = tracker(point=PATIENT)
    first = None
    for index, now in enumerate(shots[:20]):
        infer(tracked, now, index / FPS)
        if view(tracked, now, index / FPS).markers and first is None:
            first = index / FPS
    assert first is not None
    assert PATIENT.appear_ms <= first * 1000 <= PATIENT.appear_ms + 1000 / FPS
    assert tracked.take_events()[0].at == first
    assert tracked.take_events() == []


def test_the_threshold_changes_live(shots: list[Shot]) -> None:
    tracked = tracker()
    tracked.set_threshold(0.9)
    assert tracked.operating_point.threshold == 0.9
    tracked.update(0.8 * shots[0].probability, scene=scene_of(shots[0].rgb), at_s=0.0, size=SIZE)
    assert not view(tracked, shots[0], 0.0).markers
    tracked.operating_point = IMMEDIATE
    tracked.update(0.8 * shots[1].probability, scene=scene_of(shots[1].rgb), at_s=0.04, size=SIZE)
    assert view(tracked, shots[1], 0.04).markers
    with pytest.raises(ConfigError):
        tracked.set_threshold(1.5)


def test_the_minimum_peak_of_an_operating_point_applies_until_a_threshold_is_chosen(shots: list[Shot]) -> None:
    tracked = tracker()
    tracked.operating_point = replace(IMMEDIATE, min_peak=0.9)
    weak = np.minimum(shots[0].probability, np.float32(0.85))
    tracked.update(weak, scene=scene_of(shots[0].rgb), at_s=0.0, size=SIZE)
    assert not view(tracked, shots[0], 0.0).markers
    tracked.set_threshold(IMMEDIATE.threshold)
    tracked.update(weak, scene=scene_of(shots[1].rgb), at_s=0.04, size=SIZE)
    assert view(tracked, shots[1], 0.04).markers


def test_a_reset_ends_everything_and_takes_earlier_frames_again(shots: list[Shot]) -> None:
    tracked = tracker()
    infer(tracked, shots[0], 0.0)
    tracked.reset()
    seen = view(tracked, shots[0], 0.01)
    assert (seen.markers, seen.inferred_at_s, seen.status.light) == ((), None, Light.UNCERTAIN)
    assert EventKind.POLYP_VANISHED in {event.kind for event in tracked.take_events()}
    infer(tracked, shots[0], -5.0)
    assert view(tracked, shots[0], -5.0).markers


def test_two_threads_may_update_and_view_at_the_same_time(shots: list[Shot]) -> None:
    tracked = tracker()

    def infer_all() -> None:
        for index, now in enumerate(shots):
            infer(tracked, now, index / FPS)

    def view_all() -> int:
        return sum(bool(view(tracked, now, index / FPS).markers) for index, now in enumerate(shots))

    with ThreadPoolExecutor(max_workers=2) as pool:
        inferring, viewing = pool.submit(infer_all), pool.submit(view_all)
        inferring.result()
        assert viewing.result() >= 0
    events = tracked.take_events()
    assert len({(event.kind, event.details["identity"]) for event in events}) == len(events)


@pytest.mark.data
@pytest.mark.slow
def test_on_the_real_clip_motion_improves_the_outlines_shown() -> None:
    folder = os.environ.get("POLYPSTREAM_TEST_DATA")
    if not folder:
        pytest.skip("POLYPSTREAM_TEST_DATA names no folder")
    masks = sorted((Path(folder) / "video" / "apparent_masks").glob("*.png"))
    with av.open(str(Path(folder) / "video" / "apparent.mp4")) as container:
        pictures = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    real = [shot(rgb, read_mask(path)) for rgb, path in zip(pictures, masks, strict=True)]
    for every, late in ((1, 1), (3, 3)):
        moved = mean_dice(real, tracker(), every=every, late=late)
        still = mean_dice(real, tracker(propagation=Propagation.NONE), every=every, late=late)
        assert moved > still + 0.05
