"""What the window shows: the picture, the untouched one beside it, and below them a bar with the light and gauges."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.contours import polyp_from_contour
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.drawing import copied, draw_on
from polypstream.realtime.live.gauges import Delay
from polypstream.realtime.live.shown import Light, LiveFrame, Marker, Status
from polypstream.realtime.live.turn import turn_of
from polypstream.realtime.live.viewers.picture import ScreenPicture, fitted
from polypstream.realtime.live.viewing import Gauges
from polypstream.realtime.overlay import MarkerStyle

Bgr = NDArray[np.uint8]
"""uint8 BGR, (H, W, 3)."""

BAR_SHARE = 0.09
"""Height of the bar, of the window's width."""
KEYS = "O markers   S side by side   P operating point   + - threshold   N snapshot   R record   F full screen   Q quit"
DISCLAIMER = "Research software. Not a medical device."
NO_PICTURE = "No live picture"
_GROUND, _TEXT, _MUTED = (21, 18, 14), (246, 244, 240), (173, 164, 152)
_LIGHTS = {Light.READY: (143, 229, 52), Light.UNCERTAIN: (56, 185, 255), Light.LOST: (82, 90, 255)}
_DIMMED = 0.28


@dataclass(frozen=True, kw_only=True)
class Arrangement:
    """What the user has chosen to see."""

    overlay: bool = True
    side_by_side: bool = False


@dataclass(frozen=True, kw_only=True)
class Readings:
    """What the bar says."""

    status: Status
    gauges: Gauges | None
    video_delay: Delay | None
    """To the window."""


class WindowPicture:
    """Composes the window's contents, always `width` pixels wide; for one thread."""

    def __init__(self, *, width: int, style: MarkerStyle) -> None:
        self._width, self._style = width, style
        self._bar_height = round(BAR_SHARE * width)
        self._screen = ScreenPicture(pixel_format="gbrp")
        self._last: tuple[Frame, Arrangement] | None = None

    def of_frame(self, shown: LiveFrame, readings: Readings, arrangement: Arrangement) -> Bgr:
        """A frame and the bar."""
        self._last = shown.frame, arrangement
        markers = shown.markers if arrangement.overlay else ()
        return self._with_bar(self._pictures(shown.frame, markers, arrangement), readings)

    def without_frame(self, readings: Readings) -> Bgr:
        """The picture shown last, without markers and such that nobody takes it for live, and the bar."""
        if self._last is None:
            pictures = np.zeros((round(self._width * 9 / 16), self._width, 3), dtype=np.uint8)
        else:
            frame, arrangement = self._last
            pictures = self._pictures(frame, (), arrangement)
        grey = cv2.cvtColor((pictures * _DIMMED).astype(np.uint8), cv2.COLOR_BGR2GRAY)
        dimmed = np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), dtype=np.uint8)
        _write(dimmed, NO_PICTURE, (0.5, 0.5), size=self._width / 640, colour=_LIGHTS[Light.LOST], centred=True)
        return self._with_bar(dimmed, readings)

    def _pictures(self, frame: Frame, markers: Sequence[Marker], arrangement: Arrangement) -> Bgr:
        """The picture with its markers, and left of it, where wanted, as it came; both upright."""
        picture, turn = frame.picture, turn_of(frame)
        across = self._width // 2 if arrangement.side_by_side else self._width
        screen = self._screen.of(picture, fitted(frame.square_size, turn.size(across, self._width)))
        screen = copied(picture) if screen is picture else screen
        pictures = [screen.to_ndarray(format="bgr24")] if arrangement.side_by_side else []
        scale = np.array([screen.width, screen.height]) / (picture.width, picture.height)
        draw_on(screen, [_scaled(marker, scale) for marker in markers], self._style)
        pictures.append(screen.to_ndarray(format="bgr24"))
        _, one = turn.size(*fitted(frame.square_size, (self._width, self._width)))
        return self._centred(np.hstack([turn.image(each) for each in pictures]), height=one)

    def _centred(self, pictures: Bgr, *, height: int) -> Bgr:
        """On black, as wide as the window and at least as high as one picture would be: the window keeps its shape."""
        across, down = self._width - pictures.shape[1], max(height - pictures.shape[0], 0)
        left, top = across // 2, down // 2
        bordered = cv2.copyMakeBorder(pictures, top, down - top, left, across - left, cv2.BORDER_CONSTANT)
        return np.asarray(bordered, dtype=np.uint8)

    def _with_bar(self, pictures: Bgr, readings: Readings) -> Bgr:
        bar = np.empty((self._bar_height, self._width, 3), dtype=np.uint8)
        bar[:] = _GROUND
        self._draw_light(bar, readings.status)
        unit = self._width / 1280
        for left, name, value in _readouts(readings):
            _write(bar, name, (left, 0.24), size=0.42 * unit, colour=_MUTED)
            _write(bar, value, (left, 0.56), size=0.85 * unit, colour=_TEXT)
        if readings.gauges is not None and readings.gauges.recording:
            _write(bar, "REC", (0.945, 0.56), size=0.85 * unit, colour=_LIGHTS[Light.LOST])
        _write(bar, DISCLAIMER, (0.014, 0.89), size=0.4 * unit, colour=_TEXT)
        _write(bar, KEYS, (0.37, 0.89), size=0.4 * unit, colour=_MUTED)
        return np.vstack((pictures, bar))

    def _draw_light(self, bar: Bgr, status: Status) -> None:
        """A disc, a triangle or a cross, with its word and reason."""
        colour, unit = _LIGHTS[status.light], self._width / 1280
        x, y, radius = round(34 * unit), round(0.4 * self._bar_height), round(20 * unit)
        match status.light:
            case Light.READY:
                cv2.circle(bar, (x, y), radius, colour, cv2.FILLED, cv2.LINE_AA)
            case Light.UNCERTAIN:
                corners = np.array([(x, y - radius), (x + radius, y + radius), (x - radius, y + radius)])
                cv2.fillPoly(bar, [corners.astype(np.int32)], colour, cv2.LINE_AA)
            case Light.LOST:
                for way in (-1, 1):
                    ends = (x - radius, y - way * radius), (x + radius, y + way * radius)
                    cv2.line(bar, *ends, colour, round(9 * unit), cv2.LINE_AA)
        baseline = 0.42 if status.reason else 0.51
        _write(bar, status.light.value.capitalize(), (0.052, baseline), size=1.15 * unit, colour=colour)
        _write(bar, status.reason[:1].upper() + status.reason[1:60], (0.053, 0.66), size=0.5 * unit, colour=_TEXT)


def _readouts(readings: Readings) -> list[tuple[float, str, str]]:
    """Place across the bar, name and value."""
    gauges = readings.gauges
    return [
        (0.42, "Video delay", _milliseconds(readings.video_delay)),
        (0.53, "Marker delay", _milliseconds(gauges.marker_delay if gauges else None)),
        (0.64, "Pictures", f"{gauges.fps_in:.0f} fps" if gauges else "-"),
        (0.73, "Operating point", gauges.operating_point.capitalize() if gauges else "-"),
        (0.87, "Threshold", f"{gauges.threshold:.2f}" if gauges else "-"),
    ]


def _milliseconds(delay: Delay | None) -> str:
    return "-" if delay is None else f"{delay.p50_ms:.0f} ms"


def _scaled(marker: Marker, scale: NDArray[np.float64]) -> Marker:
    contour = (marker.polyp.contour * scale).astype(np.float32)
    return replace(marker, polyp=polyp_from_contour(contour, mean_probability=marker.polyp.mean_probability))


def _write(
    picture: Bgr,
    text: str,
    at: tuple[float, float],
    *,
    size: float,
    colour: tuple[int, int, int],
    centred: bool = False,
) -> None:
    """Letters (ASCII only: OpenCV has no others) from a place that is given in shares of the picture."""
    text = text.encode("ascii", "replace").decode()
    font, weight = cv2.FONT_HERSHEY_DUPLEX, max(1, round(1.4 * size))
    left, baseline = round(at[0] * picture.shape[1]), round(at[1] * picture.shape[0])
    if centred:
        left -= cv2.getTextSize(text, font, size, weight)[0][0] // 2
    cv2.putText(picture, text, (left, baseline), font, size, colour, weight, cv2.LINE_AA)
