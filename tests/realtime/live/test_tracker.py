"""From findings to markers: carried with the tissue, faded with age, and silent where nothing can be known."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import BackendError, ConfigError
from polypstream.metrics import Overlap
from polypstream.realtime.contours import mask_from_polyps
from polypstream.realtime.frame import Probability, Rgb
from polypstream.realtime.live.alarm import SPECIFIC, Change, OperatingPoint
from polypstream.realtime.live.shown import Light
from polypstream.realtime.live.tracker import Following, Tracker, TrackerConfig, View
from polypstream.synthetic import SyntheticClip, frame_at, frames_of
from polypstream.train.data import read_mask

SIDE = 128
FPS = 25
SIZE = (1920, 1080)
AT_ONCE = OperatingPoint(name="at once", threshold=0.5, appear_ms=0, vanish_ms=400)


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


def tracker(*, point: OperatingPoint = AT_ONCE, following: Following = Following.MOTION) -> Tracker:
    return Tracker(TrackerConfig(operating_point=point, following=following))


def judge(tracker: Tracker, shot: Shot, at_s: float) -> None:
    tracker.judge(shot.probability, rgb=shot.rgb, at_s=at_s, size=SIZE)


def view(tracker: Tracker, shot: Shot, at_s: float) -> View:
    return tracker.view(rgb=shot.rgb, at_s=at_s, size=SIZE)


def dice(shot: Shot, view: View, size: tuple[int, int]) -> float:
    polyps = [marker.polyp for marker in view.markers]
    return Overlap.of(shot.truth, mask_from_polyps(polyps, width=size[0], height=size[1])).dice


def mean_dice(shots: Sequence[Shot], tracker: Tracker, *, every: int, late: int) -> float:
    """Over the frames with a polyp, each marked with what is known when it is shown."""
    scores = []
    for index, now in enumerate(shots):
        size = (now.truth.shape[1], now.truth.shape[0])
        if index >= late and (index - late) % every == 0:
            then = shots[index - late]
            tracker.judge(then.probability, rgb=then.rgb, at_s=(index - late) / FPS, size=size)
        seen = tracker.view(rgb=now.rgb, at_s=index / FPS, size=size)
        if now.truth.any():
            scores.append(dice(now, seen, size))
    return float(np.mean(scores))


def test_a_marker_lies_on_the_polyp_in_pixels_of_the_frame(shots: list[Shot]) -> None:
    tracked = tracker()
    judge(tracked, shots[0], 0.0)
    seen = view(tracked, shots[0], 0.0)
    truth = cv2.resize(shots[0].truth.astype(np.uint8), SIZE, interpolation=cv2.INTER_NEAREST) > 0
    found = mask_from_polyps([marker.polyp for marker in seen.markers], width=SIZE[0], height=SIZE[1])
    assert Overlap.of(np.asarray(truth), found).dice > 0.9
    assert seen.status.light is Light.READY
    assert seen.evidence_at_s == 0.0
    assert {marker.opacity for marker in seen.markers} == {1.0}


@pytest.mark.parametrize(("every", "late"), [(1, 1), (1, 4), (3, 3)])
def test_outlines_as_displayed_are_better_with_motion(shots: list[Shot], every: int, late: int) -> None:
    moved = mean_dice(shots, tracker(), every=every, late=late)
    still = mean_dice(shots, tracker(following=Following.NONE), every=every, late=late)
    assert moved > still + 0.01
    assert moved > 0.8


def test_a_marker_fades_with_the_age_of_its_evidence_and_is_gone_at_the_end(shots: list[Shot]) -> None:
    tracked = tracker()
    judge(tracked, shots[0], 0.0)
    opacities = [
        max((m.opacity for m in view(tracked, shots[0], at_s).markers), default=0.0)
        for at_s in (0.0, 0.12, 0.17, 0.22, 0.25, 0.4)
    ]
    assert opacities[:2] == [1.0, 1.0]
    assert 1 > opacities[2] > opacities[3] > 0
    assert opacities[4:] == [0.0, 0.0]
    assert view(tracked, shots[0], 0.4).status.reason == "the model lags behind"


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
    judge(tracked, shots[0], 0.0)
    assert view(tracked, shots[1], 0.04).markers
    seen = tracked.view(rgb=after, at_s=0.08, size=SIZE)
    assert seen.markers == ()
    assert seen.status.light is (Light.READY if change == "cut" else Light.UNCERTAIN)
    assert change == "cut" or seen.status.reason


def test_a_cut_that_the_network_has_judged_ends_every_identity(shots: list[Shot]) -> None:
    frame = frame_at(SyntheticClip(width=320, height=240, seed=2), 0)
    other, tracked = shot(frame.rgb, frame.mask), tracker()
    judge(tracked, shots[0], 0.0)
    before = {marker.identity for marker in view(tracked, shots[0], 0.0).markers}
    judge(tracked, other, 0.04)
    after = {marker.identity for marker in view(tracked, other, 0.04).markers}
    assert before
    assert after
    assert not before & after


def test_a_picture_that_cannot_be_judged_is_no_evidence(shots: list[Shot]) -> None:
    tracked = tracker()
    blurred = np.asarray(cv2.GaussianBlur(shots[0].rgb, (0, 0), 4), np.uint8)
    tracked.judge(np.ones((SIDE, SIDE), np.float32), rgb=blurred, at_s=0.0, size=SIZE)
    seen = view(tracked, shots[0], 0.02)
    assert seen.markers == ()
    assert seen.evidence_at_s == 0.0
    assert tracked.take_events() == []


def test_nothing_is_marked_outside_the_content_area(shots: list[Shot]) -> None:
    tracked = tracker()
    tracked.judge(np.ones((SIDE, SIDE), np.float32), rgb=shots[0].rgb, at_s=0.0, size=SIZE)
    (marker,) = view(tracked, shots[0], 0.0).markers
    surround = shots[0].rgb.max(axis=2) == 0
    found = mask_from_polyps([marker.polyp], width=SIZE[0], height=SIZE[1])
    edge = np.ones((5, 5), np.uint8)
    far = cv2.erode(surround.astype(np.uint8), edge, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    assert not found[cv2.resize(far, SIZE, interpolation=cv2.INTER_NEAREST) > 0].any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1, 1.1])
@pytest.mark.parametrize("where", [(64, 64), (0, 0)])
def test_what_is_no_probability_is_refused_and_changes_nothing(
    shots: list[Shot], wrong: float, where: tuple[int, int]
) -> None:
    tracked = tracker()
    judge(tracked, shots[0], 0.0)
    broken = shots[0].probability.copy()
    broken[where] = wrong
    with pytest.raises(BackendError):
        tracked.judge(broken, rgb=shots[0].rgb, at_s=0.04, size=SIZE)
    assert view(tracked, shots[0], 0.04).evidence_at_s == 0.0
    assert view(tracked, shots[0], 0.04).markers


def test_a_polyp_missed_now_and_then_keeps_its_marker_and_identity(shots: list[Shot]) -> None:
    tracked = tracker()
    nothing = np.zeros((SIDE, SIDE), np.float32)
    for index, now in enumerate(shots[:20]):
        probability = nothing if index % 4 == 2 else now.probability
        tracked.judge(probability, rgb=now.rgb, at_s=index / FPS, size=SIZE)
        assert 1 in {marker.identity for marker in view(tracked, now, index / FPS).markers}
    assert 1 not in {event.identity for event in tracked.take_events() if event.change is Change.VANISHED}


def test_hysteresis_waits_and_events_tell(shots: list[Shot]) -> None:
    tracked = tracker(point=SPECIFIC)
    first = None
    for index, now in enumerate(shots[:20]):
        judge(tracked, now, index / FPS)
        if view(tracked, now, index / FPS).markers and first is None:
            first = index / FPS
    assert first is not None
    assert SPECIFIC.appear_ms <= first * 1000 <= SPECIFIC.appear_ms + 1000 / FPS
    assert tracked.take_events()[0].at_s == first
    assert tracked.take_events() == []


def test_the_threshold_changes_live(shots: list[Shot]) -> None:
    tracked = tracker()
    tracked.set_threshold(0.9)
    assert tracked.operating_point.threshold == 0.9
    tracked.judge(0.8 * shots[0].probability, rgb=shots[0].rgb, at_s=0.0, size=SIZE)
    assert not view(tracked, shots[0], 0.0).markers
    tracked.operating_point = AT_ONCE
    tracked.judge(0.8 * shots[1].probability, rgb=shots[1].rgb, at_s=0.04, size=SIZE)
    assert view(tracked, shots[1], 0.04).markers
    with pytest.raises(ConfigError):
        tracked.set_threshold(1.5)


def test_forgetting_ends_everything(shots: list[Shot]) -> None:
    tracked = tracker()
    judge(tracked, shots[0], 0.0)
    tracked.forget()
    seen = view(tracked, shots[0], 0.01)
    assert (seen.markers, seen.evidence_at_s, seen.status.light) == ((), None, Light.UNCERTAIN)
    assert Change.VANISHED in {event.change for event in tracked.take_events()}


def test_two_threads_may_judge_and_view_at_once(shots: list[Shot]) -> None:
    tracked = tracker()

    def judge_all() -> None:
        for index, now in enumerate(shots):
            judge(tracked, now, index / FPS)

    def view_all() -> int:
        return sum(bool(view(tracked, now, index / FPS).markers) for index, now in enumerate(shots))

    with ThreadPoolExecutor(max_workers=2) as pool:
        judging, viewing = pool.submit(judge_all), pool.submit(view_all)
        judging.result()
        assert viewing.result() >= 0
    events = tracked.take_events()
    assert len({(event.change, event.identity) for event in events}) == len(events)


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
        still = mean_dice(real, tracker(following=Following.NONE), every=every, late=late)
        assert moved > still + 0.05
