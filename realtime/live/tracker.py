"""From what the network found to the markers on each frame: alarm logic, motion and a look at the picture's quality.

The network judges some pictures, late; the display shows all of them, at once. A marker is what the newest evidence
says, carried by the motion of the tissue from the judged picture directly to the one on display.
"""

import threading
from collections import deque
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from polypstream.errors import ConfigError
from polypstream.realtime.content import within_content
from polypstream.realtime.contours import mask_from_probability, polyp_from_contour, polyps_from_probability
from polypstream.realtime.frame import Probability, Rgb
from polypstream.realtime.live.alarm import SENSITIVE, Alarm, AlarmEvent, Finding, OperatingPoint, Track
from polypstream.realtime.live.motion import Carried, Contour, Motion, Scene, Stillness, scene_of
from polypstream.realtime.live.quality import Sight, SteadySight, sight_of
from polypstream.realtime.live.shown import Light, Marker, Status

LEAST_OPACITY = 0.15
"""Fainter markers are not drawn: hardly visible, and hardly trusted."""
FRESH_SHARE = 0.5
"""Share of the fading time for which a marker is as opaque as its contour is trusted."""
LEAST_STEP_S = 0.015
"""Over a shorter time no drift can be told."""
EVENTS_KEPT = 256

Size = tuple[int, int]
"""Width and height of a frame in pixels."""


class Following(Enum):
    """How a contour gets from the picture it was found on to the one on display."""

    MOTION = "motion"
    """With the tissue, by optical flow."""
    NONE = "none"
    """Not at all: it stays where it was. To measure what motion is worth."""


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """What a tracker starts with."""

    operating_point: OperatingPoint = SENSITIVE
    fade_ms: float = 250.0
    """A marker is gone when its evidence is this old."""
    following: Following = Following.MOTION

    def __post_init__(self) -> None:
        if not 0 < self.fade_ms <= 10_000:
            raise ConfigError(f"fade_ms is {self.fade_ms:g}; it should be above 0 and at most 10000 milliseconds")


@dataclass(frozen=True, kw_only=True)
class View:
    """What belongs on one frame."""

    markers: tuple[Marker, ...]
    status: Status
    evidence_at_s: float | None
    """When the newest picture that the network has judged was captured; None before the first."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """What moved how far from one picture to another, and how much later that was."""

    motion: Motion | Stillness
    seconds: float

    def drift_of(self, contour: Contour, size: Size) -> tuple[float, float]:
        """Pixels of a frame of `size` that the tissue within a contour moves in a second, across and down."""
        if self.motion.is_cut or self.seconds < LEAST_STEP_S:
            return 0.0, 0.0
        way = (self.motion.carry(contour).contour - contour).mean(axis=0) * size / self.seconds
        return float(way[0]), float(way[1])


class Tracker:
    """Follows polyps through a live feed. Times are monotonic seconds at which pictures were captured.

    One thread calls `judge`, another `view`; all else may be called from any. One lock guards what they share, and is
    held for the alarm logic only: optical flow is worked out outside it, once for each call at most.
    """

    def __init__(self, config: TrackerConfig | None = None) -> None:
        self._config = config or TrackerConfig()
        self._lock = threading.Lock()
        self._point = self._config.operating_point
        self._alarm = Alarm()
        self._scene: Scene | None = None
        self._scene_s = 0.0
        self._step: _Step | None = None
        self._steady = SteadySight()
        self._judged_s: float | None = None
        self._events: deque[AlarmEvent] = deque(maxlen=EVENTS_KEPT)

    @property
    def operating_point(self) -> OperatingPoint:
        """How eager the alarm is; a new one holds from the next judgement on."""
        with self._lock:
            return self._point

    @operating_point.setter
    def operating_point(self, point: OperatingPoint) -> None:
        with self._lock:
            self._point = point

    def set_threshold(self, threshold: float) -> None:
        """Change the threshold of the operating point and keep the rest."""
        with self._lock:
            self._point = replace(self._point, threshold=threshold)

    def judge(self, probability: Probability, *, rgb: Rgb, at_s: float, size: Size) -> None:
        """Take in what the network says of one picture, later than any before.

        `rgb` is the small picture it was given, (H, W, 3), `probability` its map, (H, W), `size` that of the frame. A
        picture of which nothing can be seen is no evidence, for or against.

        Raises `BackendError` where the map holds anything but numbers in [0, 1]; then nothing has changed.
        """
        point = self.operating_point
        mask_from_probability(probability, point.threshold)
        scene = scene_of(rgb)
        if sight_of(scene.rgb, scene.content) is not Sight.CLEAR:
            with self._lock:
                self._judged_s = at_s
            return
        findings = _findings(within_content(probability, rgb), point, size)
        motion = self._motion(self._scene, scene)
        with self._lock:
            if self._scene is not None and motion.is_cut:
                self._events.extend(self._alarm.clear(at_s))
            self._events.extend(self._alarm.update(at_s, findings, motion.carry, point))
            self._step = _Step(motion=motion, seconds=at_s - self._scene_s)
            self._scene, self._scene_s, self._judged_s = scene, at_s, at_s

    def view(self, *, rgb: Rgb, at_s: float, size: Size) -> View:
        """The markers that belong on one frame of `size`, whose small picture is `rgb`, and what the light says."""
        scene = scene_of(rgb)
        sight = sight_of(scene.rgb, scene.content)
        with self._lock:
            self._events.extend(self._alarm.expire(at_s))
            tracks, judged_scene, judged_s = self._alarm.shown, self._scene, self._judged_s
            carried_s, step = at_s - self._scene_s, self._step
        status = self._status(self._steady.told(sight, at_s=at_s), at_s, judged_s)
        fresh = [(track, fade) for track in tracks if (fade := self._fade(at_s - track.seen_s)) > 0]
        if sight is not Sight.CLEAR or not fresh:
            return View(markers=(), status=status, evidence_at_s=judged_s)
        motion = self._motion(judged_scene, scene)
        if carried_s >= LEAST_STEP_S or step is None:
            step = _Step(motion=motion, seconds=carried_s)
        markers = [_marker(track, motion.carry(track.contour), fade, step, size) for track, fade in fresh]
        return View(
            markers=tuple(marker for marker in markers if marker is not None), status=status, evidence_at_s=judged_s
        )

    def forget(self) -> None:
        """Drop every polyp, as when the source or the model is lost."""
        with self._lock:
            self._events.extend(self._alarm.clear(self._judged_s or 0.0))
            self._scene = self._step = self._judged_s = None
            self._steady = SteadySight()

    def take_events(self) -> list[AlarmEvent]:
        """What happened since the last call, oldest first; only the newest `EVENTS_KEPT` are kept."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def _motion(self, before: Scene | None, after: Scene) -> Motion | Stillness:
        if before is None or self._config.following is Following.NONE:
            return Stillness()
        return Motion(before, after)

    def _fade(self, age_s: float) -> float:
        """1 while evidence is fresh, then falling to 0 at `fade_ms`."""
        left = 1 - age_s * 1000 / self._config.fade_ms
        return min(max(left / (1 - FRESH_SHARE), 0.0), 1.0)

    def _status(self, sight: Sight, at_s: float, judged_s: float | None) -> Status:
        if sight is not Sight.CLEAR:
            return Status(light=Light.UNCERTAIN, reason=sight.value)
        if judged_s is None:
            return Status(light=Light.UNCERTAIN, reason="waiting for the model")
        if (at_s - judged_s) * 1000 >= self._config.fade_ms:
            return Status(light=Light.UNCERTAIN, reason="the model lags behind")
        return Status(light=Light.READY)


def _findings(probability: Probability, point: OperatingPoint, size: Size) -> list[Finding]:
    width, height = size
    polyps = polyps_from_probability(
        probability, threshold=point.threshold, width=width, height=height, min_area_share=point.min_area_share
    )
    return [
        Finding(contour=np.divide(polyp.contour, size, dtype=np.float32), mean_probability=polyp.mean_probability)
        for polyp in polyps
    ]


def _marker(track: Track, carried: Carried, fade: float, step: "_Step", size: Size) -> Marker | None:
    """The marker of one polyp, clipped to the frame; None where it cannot be trusted or has left the picture."""
    opacity = fade * track.trust * carried.trust
    contour = _on_frame(carried.contour, size)
    if opacity < LEAST_OPACITY or track.identity is None:
        return None
    polyp = polyp_from_contour(contour, mean_probability=track.mean_probability)
    if polyp.area < 1:
        return None
    return Marker(identity=track.identity, polyp=polyp, opacity=opacity, drift=step.drift_of(track.contour, size))


def _on_frame(contour: Contour, size: Size) -> Contour:
    """From shares of the picture to pixels of a frame."""
    return np.asarray(np.clip(contour, 0, 1) * np.array(size, np.float32), np.float32)
