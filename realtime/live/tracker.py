"""Tracker: turns network outputs into the markers of each frame, using the alarm logic, optical flow and visibility.

The network sees some frames, and late; the display shows all of them immediately. A marker is the newest evidence for a
polyp, propagated by optical flow from the inferred frame directly to the displayed one. It fades when its evidence
gets old, when its tissue cannot be tracked, and quickly once a newer inference did not confirm it.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from polypstream.arrays import Contour, Probability, Size
from polypstream.contract import OperatingPoint
from polypstream.errors import ConfigError
from polypstream.realtime.live.alarm import Alarm, AlarmEvent, Change, Detection, Track
from polypstream.realtime.live.display_frame import Light, Marker, Status
from polypstream.realtime.live.events import Event, EventKind, polyp_details
from polypstream.realtime.live.motion import Motion, Propagated, Scene, Stillness
from polypstream.realtime.live.visibility import SteadyVisibility, Visibility
from polypstream.realtime.outlines.content_area import within_content
from polypstream.realtime.outlines.contours import (
    Polyp,
    polyp_from_contour,
    polyps_from_probability,
)

LEAST_OPACITY = 0.15
"""Minimum opacity; fainter markers are hardly visible and are not drawn."""
FRESH_SHARE = 0.5
"""Share of the fading time during which a confirmed marker keeps its full opacity."""
MISSED_OPACITY = 0.5
"""Maximum opacity of a marker that the newest inference did not confirm."""
MISSED_FADE_S = 0.1
"""Time from the capture of the first frame that did not confirm a marker to its disappearance."""
LEAST_STEP_S = 0.015
"""Minimum time over which a drift is measured, in seconds."""
EVENTS_KEPT = 256


class Propagation(Enum):
    """How a contour gets from the inferred frame to the displayed one."""

    MOTION = "motion"
    """By optical flow, together with the tissue."""
    NONE = "none"
    """Not at all: it stays in place. A baseline to measure the effect of motion."""


@dataclass(frozen=True, kw_only=True)
class TrackerConfig:
    """Settings of a tracker."""

    operating_point: OperatingPoint
    """Initial operating point, from the model's contract."""
    fade_ms: float = 250.0
    """Age of its newest evidence, in milliseconds, at which a marker disappears."""
    propagation: Propagation = Propagation.MOTION

    def __post_init__(self) -> None:
        if not 0 < self.fade_ms <= 10_000:
            raise ConfigError(f"fade_ms is {self.fade_ms:g}; it must be above 0 and at most 10000 milliseconds")


@dataclass(frozen=True, kw_only=True)
class View:
    """Markers and status of one frame."""

    markers: tuple[Marker, ...]
    status: Status
    inferred_at_s: float | None
    """Capture time of the newest inferred frame; None before the first."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """Motion from one frame to another, and the time between them."""

    motion: Motion | Stillness
    seconds: float

    def drift_of(self, contour: Contour, size: Size) -> tuple[float, float]:
        """Return the velocity of the tissue within a contour, in pixels of a frame of `size` per second (x, y)."""
        if self.motion.is_cut or self.seconds < LEAST_STEP_S:
            return 0.0, 0.0
        way = (self.motion.propagate(contour).contour - contour).mean(axis=0) * size / self.seconds
        return float(way[0]), float(way[1])


class Tracker:
    """Tracks polyps through a live feed.

    All times are capture times in monotonic seconds. One thread calls `update`, another `view`; everything else may be
    called from any thread. A lock guards the shared state and is held only for the alarm logic: optical flow is
    computed outside it, at most once per call.
    """

    def __init__(self, config: TrackerConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._point = self._config.operating_point
        self._alarm = Alarm()
        self._scene: Scene | None = None
        self._scene_s = 0.0
        self._step: _Step | None = None
        self._visibility = SteadyVisibility()
        self._inferred_s: float | None = None
        self._size: Size = (1, 1)
        self._cuts = 0
        self._events: deque[Event] = deque(maxlen=EVENTS_KEPT)

    @property
    def operating_point(self) -> OperatingPoint:
        """Current operating point; a new one takes effect with the next inference."""
        with self._lock:
            return self._point

    @operating_point.setter
    def operating_point(self, point: OperatingPoint) -> None:
        with self._lock:
            self._point = point

    def set_threshold(self, threshold: float) -> None:
        """Change the threshold of the operating point, which then has no minimum peak."""
        with self._lock:
            self._point = self._point.with_threshold(threshold)

    def update(
        self,
        probability: Probability,
        *,
        scene: Scene,
        at_s: float,
        size: Size,
        pts_s: float | None = None,
        cuts: int = 0,
    ) -> None:
        """Process the network's output for one frame.

        A frame without visibility is no evidence for or against a polyp. A blurred frame can only confirm a polyp that
        is present: the network often still finds it, but a missing detection means nothing.

        Args:
            probability: float32 (H, W) in [0, 1], as returned by a segmenter.
            scene: The frame.
            at_s: Capture time of the frame; must not decrease.
            size: Width and height of the frame in pixels.
            pts_s: Presentation time of the frame in seconds, for events.
            cuts: Number of scene cuts in the feed so far; polyps do not survive a cut.
        """
        point = self.operating_point
        if self.passes_over(scene, at_s=at_s):
            return
        visibility = scene.visibility
        detections = _detections(within_content(probability, scene.area), point, size)
        motion = self._motion(self._scene, scene)
        with self._lock:
            self._size, self._inferred_s = size, at_s
            if cuts != self._cuts:
                self._cuts = cuts
                self._note(self._alarm.end())
            if visibility is Visibility.BLURRED:
                is_current = self._alarm.confirm(at_s, detections, motion.propagate, pts_s=pts_s)
            else:
                if motion.is_cut:
                    self._alarm.lose()
                self._note(self._alarm.update(at_s, detections, motion.propagate, point, pts_s=pts_s))
                is_current = True
            if is_current:
                self._step = _Step(motion=motion, seconds=at_s - self._scene_s)
                self._scene, self._scene_s = scene, at_s

    def passes_over(self, scene: Scene, *, at_s: float) -> bool:
        """Whether inference on a frame is meaningless; if so, the frame counts as processed.

        Args:
            scene: The frame.
            at_s: Capture time of the frame; must not decrease.
        """
        if scene.visibility in (Visibility.CLEAR, Visibility.BLURRED):
            return False
        with self._lock:
            self._inferred_s = at_s
        return True

    def view(self, *, scene: Scene, at_s: float, size: Size) -> View:
        """Return the markers and the status of one frame.

        Args:
            scene: The frame.
            at_s: Capture time of the frame.
            size: Width and height of the frame in pixels.

        Returns:
            The markers in pixels of the frame, and its status.
        """
        visibility = scene.visibility
        with self._lock:
            self._note(self._alarm.expire(at_s))
            tracks, inferred_scene, inferred_s = self._alarm.present, self._scene, self._inferred_s
            elapsed_s, step = at_s - self._scene_s, self._step
        status = self._status(self._visibility.smoothed(visibility, at_s=at_s), at_s, inferred_s)
        fades = [(track, self._fade(track, at_s)) for track in tracks if _is_visible(track, visibility)]
        fades = [(track, fade) for track, fade in fades if fade >= LEAST_OPACITY]
        if not fades:
            return View(markers=(), status=status, inferred_at_s=inferred_s)
        motion = self._motion(inferred_scene, scene)
        if elapsed_s >= LEAST_STEP_S or step is None:
            step = _Step(motion=motion, seconds=elapsed_s)
        markers = [
            _marker(track, motion.propagate(track.contour), fade, step, size=size, age_s=at_s - track.seen_s)
            for track, fade in fades
        ]
        return View(
            markers=tuple(marker for marker in markers if marker is not None), status=status, inferred_at_s=inferred_s
        )

    def expire(self, at_s: float) -> None:
        """End polyps without evidence for a long time; call it while no frames arrive."""
        with self._lock:
            self._note(self._alarm.expire(at_s))

    def reset(self) -> None:
        """Drop every polyp and start over, for example when the connection or the model is lost, or the feed jumps.

        The next frame may be earlier than the previous ones.
        """
        with self._lock:
            self._note(self._alarm.clear())
            self._scene = self._step = self._inferred_s = None
            self._visibility = SteadyVisibility()

    def take_events(self) -> list[Event]:
        """Return polyps that appeared or vanished since the last call, oldest first; at most `EVENTS_KEPT`."""
        with self._lock:
            events = list(self._events)
            self._events.clear()
        return events

    def _note(self, events: Sequence[AlarmEvent]) -> None:
        self._events.extend(_event(event, self._size) for event in events)

    def _motion(self, before: Scene | None, after: Scene) -> Motion | Stillness:
        if before is None or before.rgb.shape != after.rgb.shape or self._config.propagation is Propagation.NONE:
            return Stillness()
        return Motion(before, after)

    def _fade(self, track: Track, at_s: float) -> float:
        """Return 1 for recent evidence, falling to 0 at `fade_ms`; much earlier if it was not confirmed."""
        left = 1 - (at_s - track.seen_s) * 1000 / self._config.fade_ms
        fade = min(max(left / (1 - FRESH_SHARE), 0.0), 1.0)
        if track.missed_s is None:
            return fade
        return min(fade, MISSED_OPACITY * (1 - (at_s - track.missed_s) / MISSED_FADE_S))

    def _status(self, visibility: Visibility, at_s: float, inferred_s: float | None) -> Status:
        if visibility is not Visibility.CLEAR:
            return Status(light=Light.UNCERTAIN, reason=visibility.value)
        if inferred_s is None:
            return Status(light=Light.UNCERTAIN, reason="waiting for the model")
        if (at_s - inferred_s) * 1000 >= self._config.fade_ms:
            return Status(light=Light.UNCERTAIN, reason="inference is delayed")
        return Status(light=Light.READY)


def _is_visible(track: Track, visibility: Visibility) -> bool:
    """Whether a polyp can be marked on a frame; on a blurred one only if the network just found it there."""
    if visibility is Visibility.BLURRED:
        return track.is_seen_blurred and track.missed_s is None
    return visibility is Visibility.CLEAR


def _detections(probability: Probability, point: OperatingPoint, size: Size) -> list[Detection]:
    width, height = size
    polyps = polyps_from_probability(
        probability,
        threshold=point.threshold,
        width=width,
        height=height,
        min_area_share=point.min_area_share,
        min_peak=point.min_peak,
    )
    return [Detection(contour=np.divide(polyp.contour, size, dtype=np.float32), score=polyp.score) for polyp in polyps]


def _marker(
    track: Track, propagated: Propagated, fade: float, step: _Step, *, size: Size, age_s: float
) -> Marker | None:
    """Create the marker of a polyp, clipped to the frame; None if it is not trusted or has left the image."""
    opacity = fade * track.trust * propagated.trust
    if opacity < LEAST_OPACITY or track.identity is None:
        return None
    polyp = _on_frame(replace(track, contour=propagated.contour), size)
    if polyp.area < 1:
        return None
    return Marker(
        identity=track.identity,
        polyp=polyp,
        opacity=opacity,
        evidence_age_s=age_s,
        drift=step.drift_of(track.contour, size),
    )


def _on_frame(track: Track, size: Size) -> Polyp:
    """Scale a track's contour to pixels of a frame, clipped to it."""
    contour = np.asarray(np.clip(track.contour, 0, 1) * np.array(size, np.float32), np.float32)
    return polyp_from_contour(contour, score=track.score)


def _event(event: AlarmEvent, size: Size) -> Event:
    """Convert an alarm event to a log event."""
    is_over = event.change is Change.VANISHED
    return Event(
        kind=EventKind.POLYP_VANISHED if is_over else EventKind.POLYP_APPEARED,
        at=event.at_s,
        pts_s=event.track.seen_pts_s,
        details=polyp_details(
            event.identity, _on_frame(event.track, size), duration_s=event.duration_s if is_over else None
        ),
    )
