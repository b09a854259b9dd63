"""Markers for a frame at once, before its own motion has been worked out: the newest known ones, moved on.

Optical flow takes some milliseconds, by which no picture should wait. The markers of the frame before are there in
time; they move on as their tissue did so far, over one frame as a rule. After a cut, which a glance at both pictures
shows, and where too much time has passed, there are none.
"""

from dataclasses import dataclass, replace
from threading import Lock

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.contours import polyp_from_contour
from polypstream.realtime.live.shown import Light, Marker, Status
from polypstream.realtime.live.tracker import Size, View

MOST_AHEAD_S = 0.15
"""Markers are moved on by so much at most."""
MOST_CHANGE = 0.4
"""Of a glance, as a share of its contrast. On a real withdrawal one frame changes it by 0.08 in the middle and 0.38 at
most; of two pictures of different places, 99 of 100 pairs differ by more than 0.39."""

_GLANCE = (32, 18)
"""Columns and rows."""
_ROWS_PER_CELL = 3
"""So many rows of the picture are looked at for each row of a glance."""
_FAINT = 8.0
"""Grey levels of contrast that every picture is granted."""

Glance = NDArray[np.float32]
"""(18, 32): the first plane of a picture, much reduced."""


def glance_of(picture: av.VideoFrame) -> Glance:
    """A picture at a glance, whatever its pixel format."""
    plane, form = picture.planes[0], picture.format
    bits = form.components[0].bits
    sample = np.dtype(np.uint16 if bits > 8 else np.uint8)
    in_a_pixel = 1 if len(picture.planes) > 1 else max(1, form.padded_bits_per_pixel // (8 * sample.itemsize))
    memory = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)  # type: ignore[call-overload]
    every = max(1, plane.height // (_GLANCE[1] * _ROWS_PER_CELL))
    rows: NDArray[np.uint8 | np.uint16] = np.ascontiguousarray(memory[::every]).view(sample)
    small = cv2.resize(rows[:, : plane.width * in_a_pixel], _GLANCE, interpolation=cv2.INTER_AREA)
    return np.asarray(np.multiply(small, 2.0 ** (8 - bits) if bits > 8 else 1), np.float32)


def has_changed(before: Glance, after: Glance) -> bool:
    """Whether two pictures are of different scenes."""
    before, after = before - before.mean(), after - after.mean()
    return bool(np.abs(before - after).mean() > MOST_CHANGE * (before.std() + _FAINT))


@dataclass(frozen=True, kw_only=True)
class _Known:
    view: View
    at_s: float
    size: Size
    glance: Glance


class Outlook:
    """What is known of the newest frame that was looked at, and what that means for the one on display.

    Any thread may tell it, any may ask.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: _Known | None = None

    def know(self, view: View, *, at_s: float, size: Size, glance: Glance) -> None:
        """Take in what belongs on a frame of `size` that was captured at `at_s`."""
        with self._lock:
            self._known = _Known(view=view, at_s=at_s, size=size, glance=glance)

    def forget(self) -> None:
        """Know nothing, until told anew."""
        with self._lock:
            self._known = None

    def on(self, *, at_s: float, size: Size, glance: Glance) -> View:
        """What belongs on a frame of `size` captured at `at_s`, as far as can be said at once."""
        with self._lock:
            known = self._known
        if known is None or known.size != size:
            return View(markers=(), status=_WAITING, evidence_at_s=None)
        if abs(at_s - known.at_s) > MOST_AHEAD_S:
            lagging = known.view.status if known.view.status.light is not Light.READY else _LAGGING
            return replace(known.view, markers=(), status=lagging)
        if not known.view.markers or has_changed(known.glance, glance):
            return replace(known.view, markers=())
        moved = (_moved(marker, at_s - known.at_s, size) for marker in known.view.markers)
        return replace(known.view, markers=tuple(marker for marker in moved if marker is not None))


_WAITING = Status(light=Light.UNCERTAIN, reason="waiting for the model")
_LAGGING = Status(light=Light.UNCERTAIN, reason="the markers lag behind")


def _moved(marker: Marker, seconds: float, size: Size) -> Marker | None:
    """A marker so much later or earlier, clipped to the frame; None where it has left it."""
    way = np.multiply(marker.drift, seconds, dtype=np.float32)
    contour = np.clip(marker.polyp.contour + way, 0, np.array(size, np.float32)).astype(np.float32)
    polyp = polyp_from_contour(contour, mean_probability=marker.polyp.mean_probability)
    return replace(marker, polyp=polyp) if polyp.area >= 1 else None
