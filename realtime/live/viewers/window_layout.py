"""Layout of the window: the image, optionally the original beside it, and a bar with the light and statistics."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Bgr
from polypstream.realtime.live.display_frame import (
    DisplayFrame,
    Light,
    Marker,
    Status,
    copied,
    draw_on,
    without_markers,
)
from polypstream.realtime.live.viewers.alerts import Chip
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.realtime.outlines.contours import polyp_from_contour
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.statistics import Delay
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.resize import ScreenScaler, fitted
from polypstream.realtime.video.rotation import rotation_of

BAR_SHARE = 0.09
"""Height of the bar relative to the width of the window."""
KEYS = "A quiet  M missed  F false  O markers  S compare  P point  + - threshold  N snapshot  R record  X full  Q quit"
DISCLAIMER = "Research software. Not a medical device."
NO_PICTURE = "No live video"
_GROUND, _TEXT, _MUTED = (21, 18, 14), (246, 244, 240), (173, 164, 152)
_LIGHTS = {Light.READY: (143, 229, 52), Light.UNCERTAIN: (56, 185, 255), Light.LOST: (82, 90, 255)}
_POLYP, _ON_POLYP = (255, 200, 79), (31, 20, 0)
_DIMMED = 0.28


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """View options chosen by the user."""

    overlay: bool = True
    side_by_side: bool = False


@dataclass(frozen=True, kw_only=True)
class Readings:
    """Contents of the bar."""

    status: Status
    statistics: LiveStatistics | None
    video_delay: Delay | None
    """Delay from capture to the window."""
    chip: Chip = Chip.OFF
    chip_ago_s: float = 0.0
    """How long ago a polyp was marked, for `Chip.RECENT`."""
    message: str = ""
    """Message displayed instead of the keys: what was saved, or why it was not."""


class WindowPicture:
    """Composes the contents of the window, always `width` pixels wide; for use in one thread."""

    def __init__(self, *, width: int, style: MarkerStyle) -> None:
        self._width, self._style = width, style
        self._bar_height = round(BAR_SHARE * width)
        self._screen = ScreenScaler(pixel_format="gbrp")
        self._last: tuple[Frame, Arrangement] | None = None

    def of_frame(self, shown: DisplayFrame, readings: Readings, arrangement: Arrangement) -> Bgr:
        """Compose a frame and the bar."""
        self._last = shown.frame, arrangement
        markers = shown.markers if arrangement.overlay else ()
        if not arrangement.overlay:
            readings = replace(readings, status=without_markers(readings.status))
        return self._with_bar(self._pictures(shown.frame, markers, arrangement), readings)

    def without_frame(self, readings: Readings) -> Bgr:
        """Compose the bar and the last frame, without markers and clearly recognizable as not live."""
        if self._last is None:
            pictures = np.zeros((round(self._width * 9 / 16), self._width, 3), dtype=np.uint8)
        else:
            frame, arrangement = self._last
            pictures = self._pictures(frame, (), arrangement)
        gray = cv2.cvtColor((pictures * _DIMMED).astype(np.uint8), cv2.COLOR_BGR2GRAY)
        dimmed = np.asarray(cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
        _write(dimmed, NO_PICTURE, (0.5, 0.5), size=self._width / 640, color=_LIGHTS[Light.LOST], centered=True)
        return self._with_bar(dimmed, readings)

    def _pictures(self, frame: Frame, markers: Sequence[Marker], arrangement: Arrangement) -> Bgr:
        """Compose the frame with its markers and, if chosen, the original to its left; both upright."""
        picture, rotation = frame.picture, rotation_of(frame)
        across = self._width // 2 if arrangement.side_by_side else self._width
        screen = self._screen.scale(picture, fitted(frame.square_size, rotation.size(across, self._width)))
        screen = copied(picture) if screen is picture else screen
        pictures = [screen.to_ndarray(format="bgr24")] if arrangement.side_by_side else []
        scale = np.array([screen.width, screen.height]) / (picture.width, picture.height)
        draw_on(screen, [_scaled(marker, scale) for marker in markers], self._style)
        pictures.append(screen.to_ndarray(format="bgr24"))
        _, one = rotation.size(*fitted(frame.square_size, (self._width, self._width)))
        return self._centered(np.hstack([rotation.image(each) for each in pictures]), height=one)

    def _centered(self, pictures: Bgr, *, height: int) -> Bgr:
        """Add black borders to the window's width and at least one frame's height: the window keeps its shape."""
        across, down = self._width - pictures.shape[1], max(height - pictures.shape[0], 0)
        left, top = across // 2, down // 2
        bordered = cv2.copyMakeBorder(pictures, top, down - top, left, across - left, cv2.BORDER_CONSTANT)
        return np.asarray(bordered, dtype=np.uint8)

    def _with_bar(self, pictures: Bgr, readings: Readings) -> Bgr:
        bar = np.empty((self._bar_height, self._width, 3), dtype=np.uint8)
        bar[:] = _GROUND
        if readings.chip is Chip.ON:
            bar[: max(2, round(0.05 * self._bar_height))] = _POLYP
        self._draw_light(bar, readings.status)
        self._draw_chip(bar, readings)
        unit = self._width / 1280
        for left, name, value in _readouts(readings):
            _write(bar, name, (left, 0.24), size=0.42 * unit, color=_MUTED)
            _write(bar, value, (left, 0.56), size=0.85 * unit, color=_TEXT)
        if readings.statistics is not None and readings.statistics.recording:
            _write(bar, "REC", (0.945, 0.56), size=0.85 * unit, color=_LIGHTS[Light.LOST])
        _write(bar, DISCLAIMER, (0.014, 0.89), size=0.4 * unit, color=_TEXT)
        self._draw_message(bar, readings, unit)
        return np.vstack((pictures, bar))

    def _draw_message(self, bar: Bgr, readings: Readings, unit: float) -> None:
        """Draw why something cannot be saved or sent, or else the newest message, or else the keys."""
        problem = "" if readings.statistics is None else _problem_of(readings.statistics)
        text = problem or readings.message or KEYS
        color = _LIGHTS[Light.UNCERTAIN] if problem else _TEXT if readings.message else _MUTED
        _write(bar, text[:112], (0.37, 0.89), size=0.4 * unit, color=color)

    def _draw_chip(self, bar: Bgr, readings: Readings) -> None:
        """Draw a filled chip while a polyp is marked, an outlined one if it was acknowledged or has just gone."""
        unit = self._width / 1280
        left, right = round(0.275 * self._width), round(0.405 * self._width)
        top, bottom = round(0.08 * self._bar_height), round(0.68 * self._bar_height)
        corners, center, size = ((left, top), (right, bottom)), (0.34, 0.5), 1.1 * unit
        match readings.chip:
            case Chip.ON:
                cv2.rectangle(bar, *corners, _POLYP, cv2.FILLED)
                _write(bar, "Polyp", center, size=size, color=_ON_POLYP, centered=True)
            case Chip.QUIET:
                cv2.rectangle(bar, *corners, _POLYP, max(1, round(2 * unit)))
                _write(bar, "Polyp", center, size=size, color=_POLYP, centered=True)
            case Chip.RECENT:
                cv2.rectangle(bar, *corners, _MUTED, 1)
                text = f"Polyp {max(readings.chip_ago_s, 1):.0f} s ago"
                _write(bar, text, center, size=0.62 * unit, color=_MUTED, centered=True)

    def _draw_light(self, bar: Bgr, status: Status) -> None:
        """Draw a disc, a triangle or a cross, with its name and the reason."""
        color, unit = _LIGHTS[status.light], self._width / 1280
        x, y, radius = round(34 * unit), round(0.4 * self._bar_height), round(20 * unit)
        match status.light:
            case Light.READY:
                cv2.circle(bar, (x, y), radius, color, cv2.FILLED, cv2.LINE_AA)
            case Light.UNCERTAIN:
                corners = np.array([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)])
                cv2.fillPoly(bar, [corners.astype(np.int32)], color, cv2.LINE_AA)
            case Light.LOST:
                for way in (-1, 1):
                    ends = (x - radius, y - way * radius), (x + radius, y + way * radius)
                    cv2.line(bar, *ends, color, round(9 * unit), cv2.LINE_AA)
        baseline = 0.42 if status.reason else 0.51
        _write(bar, status.light.value.capitalize(), (0.052, baseline), size=1.15 * unit, color=color)
        _write(bar, status.reason[:1].upper() + status.reason[1:44], (0.053, 0.66), size=0.5 * unit, color=_TEXT)


def letterboxed(contents: Bgr, *, width: int, height: int) -> Bgr:
    """Add black borders for the shape of a window, where a toolkit would add light gray ones.

    Args:
        contents: uint8 BGR, (H, W, 3).
        width: Width of the window in pixels; 0 or less if unknown.
        height: Height of the window in pixels; 0 or less if unknown.

    Returns:
        The contents with borders, uint8 BGR.
    """
    if width <= 0 or height <= 0:
        return contents
    rows, columns = contents.shape[:2]
    across = max(round(rows * width / height) - columns, 0)
    down = max(round(columns * height / width) - rows, 0)
    left, top = across // 2, down // 2
    bordered = cv2.copyMakeBorder(contents, top, down - top, left, across - left, cv2.BORDER_CONSTANT)
    return np.asarray(bordered, dtype=np.uint8)


def _problem_of(statistics: LiveStatistics) -> str:
    """What is not saved or, if everything is, not sent; empty if nothing fails."""
    if statistics.saving_problem:
        return f"NOT SAVING: {statistics.saving_problem}"
    failing = (output for output in statistics.outputs if not output.is_working and output.problem)
    return next((f"NOT SENDING ({output.kind}): {output.problem}" for output in failing), "")


def _readouts(readings: Readings) -> list[tuple[float, str, str]]:
    """Return horizontal position (relative to the bar), name and value of each readout."""
    statistics = readings.statistics
    return [
        (0.43, "Video delay", _milliseconds(readings.video_delay)),
        (0.53, "Marker delay", _milliseconds(statistics.marker_delay if statistics else None)),
        (0.64, "Frame rate", f"{statistics.fps_in:.0f} fps" if statistics else "-"),
        (0.73, "Operating point", statistics.operating_point.capitalize() if statistics else "-"),
        (0.87, "Threshold", f"{statistics.threshold:.2f}" if statistics else "-"),
    ]


def _milliseconds(delay: Delay | None) -> str:
    return "-" if delay is None else f"{delay.p50_ms:.0f} ms"


def _scaled(marker: Marker, scale: NDArray[np.float64]) -> Marker:
    contour = (marker.polyp.contour * scale).astype(np.float32)
    return replace(marker, polyp=polyp_from_contour(contour, score=marker.polyp.score))


def _write(
    picture: Bgr,
    text: str,
    at: tuple[float, float],
    *,
    size: float,
    color: tuple[int, int, int],
    centered: bool = False,
) -> None:
    """Draw text (ASCII only, as in OpenCV's fonts) at a position relative to the size of the image."""
    text = text.encode("ascii", "replace").decode()
    font, weight = cv2.FONT_HERSHEY_DUPLEX, max(1, round(1.4 * size))
    left, baseline = round(at[0] * picture.shape[1]), round(at[1] * picture.shape[0])
    if centered:
        left -= cv2.getTextSize(text, font, size, weight)[0][0] // 2
    cv2.putText(picture, text, (left, baseline), font, size, color, weight, cv2.LINE_AA)
