"""Display frames: a frame with its markers and status, and drawing the markers on a copy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import av
import numpy as np

from polypstream.arrays import Rgb
from polypstream.realtime.outlines.contours import Polyp
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_markers, is_drawable
from polypstream.realtime.video.frame import Frame


class Light(Enum):
    """Reliability of the markers, or of their absence."""

    READY = "ready"
    UNCERTAIN = "uncertain"
    """There are frames, but inference on them is unreliable: blurred, red, washed out, outside the body, or late."""
    LOST = "lost"
    """There are no frames, or no working model."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A light and its reason."""

    light: Light
    reason: str = ""
    """A few words for the user; empty when ready, unless there is another problem."""


def without_markers(status: Status) -> Status:
    """The status in a viewer with markers switched off; never ready."""
    if status.light is not Light.READY:
        return status
    reason = f"markers are switched off; {status.reason}" if status.reason else "markers are switched off"
    return Status(light=Light.UNCERTAIN, reason=reason)


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A polyp as drawn on one frame, in that frame's pixels."""

    identity: int
    """Number of the polyp, from 1, for as long as it is known."""
    polyp: Polyp
    opacity: float
    """Opacity in (0, 1]; decreases with the age and uncertainty of the detection."""
    evidence_age_s: float = 0.0
    """Age in seconds, relative to this frame, of the newest frame on which the polyp was detected."""
    drift: tuple[float, float] = (0.0, 0.0)
    """Velocity in pixels per second, across and down."""


@dataclass(frozen=True, kw_only=True)
class DisplayFrame:
    """One frame of a live feed, ready to be displayed."""

    frame: Frame
    """The unmodified frame; draw on a copy."""
    markers: Sequence[Marker]
    status: Status
    inference_age_s: float | None
    """Age in seconds, relative to this frame, of the newest inferred frame; None before the first. The detection of a
    marker can be older: see `Marker.evidence_age_s`."""
    decoded_at: float | None = None
    """Time at which the frame was decoded, in monotonic seconds; earlier delay is due to the codec."""

    @property
    def image(self) -> Rgb:
        """The frame without markers as a new uint8 RGB array (H, W, 3)."""
        return self.frame.image

    @property
    def polyps(self) -> tuple[Polyp, ...]:
        """The marked polyps, in pixels of the frame."""
        return tuple(marker.polyp for marker in self.markers)


def marked(picture: av.VideoFrame, markers: Sequence[Marker], style: MarkerStyle) -> av.VideoFrame:
    """A copy of a drawable image with markers on it, each with its opacity."""
    copy = copied(picture)
    draw_on(copy, markers, style)
    return copy


def draw_on(picture: av.VideoFrame, markers: Sequence[Marker], style: MarkerStyle) -> None:
    """Draw markers on a writable image, in place."""
    for marker in markers:
        draw_markers(picture, [marker.polyp], faded(style, marker.opacity))


def faded(style: MarkerStyle, opacity: float) -> MarkerStyle:
    """The style of a marker of this opacity, from 0 to 1."""
    return replace(style, opacity=style.opacity * opacity)


def drawable(picture: av.VideoFrame) -> av.VideoFrame:
    """The image itself, or a conversion to a drawable format with the same samples."""
    if is_drawable(picture.format.name):
        return picture
    return picture.reformat(format="gbrp" if picture.format.is_rgb else "yuv422p")


def copied(picture: av.VideoFrame) -> av.VideoFrame:
    """Copy an image with its samples, time and color tags."""
    copy = av.VideoFrame(picture.width, picture.height, picture.format.name)
    planes: Any = zip(copy.planes, picture.planes, strict=True)
    for target, source in planes:
        to, what = (np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in (target, source))
        width = min(to.shape[1], what.shape[1])
        to[:, :width] = what[:, :width]
    copy.pts, copy.time_base = picture.pts, picture.time_base
    copy.color_range, copy.colorspace = picture.color_range, picture.colorspace
    copy.color_primaries, copy.color_trc = picture.color_primaries, picture.color_trc
    return copy
