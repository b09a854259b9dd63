"""Whether a picture can be judged at all: dark, blurred, red, washed out, or not of the inside of a body.

Thresholds hold for a picture scaled to `SIDE` pixels, whatever the network takes. They were set on 2685 published
training and validation pictures, dyed mucosa included, and let 99.8% of them through.
"""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.realtime.frame import Rgb

SIDE = 128
"""The longer side of the picture that is judged; smaller pictures are judged as they are."""
LEAST_LIGHT = 25
"""Mean grey level of the content area."""
LEAST_DETAIL = 3.8
"""Mean absolute Laplacian of the grey levels: 11.8 on the middle one of the pictures, 3.6 on one of a thousand."""
MOST_RED = 0.8
"""Share of pixels with 2.5 times as much red as anything else."""
MOST_GLARE = 0.5
"""Share of pixels with some channel at its end."""
MOST_WHITE = 0.3
"""Share of pixels with no channel under 200."""
MOST_GREY = 0.45
"""Share of lit pixels without colour, as of walls, linen and light."""
MOST_COLD = 0.5
"""Share of lit pixels of a strong blue or green, stronger than dye gives."""
LEAST_MUCOSA = 0.15
"""Share of lit pixels that are redder than anything else, in a picture that is grey; dyed mucosa has less, but is not
grey."""

STEADY_S = 0.3
"""A verdict that changes faster is not read, and annoys."""

_SMOOTH_RED, _SMOOTH_GLARE, _SMOOTH_LIGHT = 0.35, 0.3, 160
"""What makes a picture without detail red-out or washed, and not just blurred."""
_LIT = 40
_RIM = 7
"""Pixels around the content area's edge, whose contrast is no detail, are left out."""


class Sight(Enum):
    """What a picture lets one see; the value is for the user."""

    CLEAR = ""
    DARK = "dark picture"
    BLURRED = "blurred"
    RED_OUT = "red-out: lens on the wall"
    WASHED = "washed or overexposed"
    OUTSIDE = "outside the body"


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """The figures from which a picture is judged; shares are of its content area."""

    light: float
    """Mean grey level."""
    detail: float
    """Mean absolute Laplacian."""
    red: float
    """Share with 2.5 times as much red as green or blue."""
    glare: float
    """Share with some channel at its end."""
    white: float
    grey: float
    cold: float
    mucosa: float

    @property
    def sight(self) -> Sight:
        """The verdict."""
        if self.light < LEAST_LIGHT:
            return Sight.DARK
        if self.white > MOST_WHITE:
            return Sight.WASHED
        if self.cold > MOST_COLD or (self.grey > MOST_GREY and self.mucosa < LEAST_MUCOSA):
            return Sight.OUTSIDE
        smooth = self.detail < LEAST_DETAIL
        if self.red > (_SMOOTH_RED if smooth else MOST_RED):
            return Sight.RED_OUT
        if self.glare > (_SMOOTH_GLARE if smooth else MOST_GLARE):
            return Sight.WASHED
        if smooth:
            return Sight.WASHED if self.light > _SMOOTH_LIGHT else Sight.BLURRED
        return Sight.CLEAR


class SteadySight:
    """What to tell of a row of verdicts, such that it does not flicker. Times are seconds, and grow.

    Trouble is told at once, its end when it has stayed away for `STEADY_S`, and so long one reason stays after it was
    last seen, whatever else is wrong meanwhile.
    """

    def __init__(self) -> None:
        self._told = Sight.CLEAR
        self._seen_s = self._trouble_s = float("-inf")

    def told(self, sight: Sight, *, at_s: float) -> Sight:
        """The verdict to tell, given that on the picture of this time."""
        since_s = self._trouble_s if sight is Sight.CLEAR else self._seen_s
        if self._told is Sight.CLEAR or at_s - since_s >= STEADY_S:
            self._told = sight
        if sight is self._told:
            self._seen_s = at_s
        if sight is not Sight.CLEAR:
            self._trouble_s = at_s
        return self._told


def sight_of(rgb: Rgb, content: NDArray[np.bool_]) -> Sight:
    """Judge a picture, uint8 RGB (H, W, 3), by what is in its content area, bool (H, W)."""
    return appearance_of(rgb, content).sight


def appearance_of(rgb: Rgb, content: NDArray[np.bool_]) -> Appearance:
    """Measure a picture, uint8 RGB (H, W, 3), over its content area, bool (H, W)."""
    area = content.astype(np.uint8)
    scale = SIDE / max(area.shape)
    if scale < 1:
        rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        area = np.asarray(cv2.resize(area, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    red, green, blue = cv2.split(rgb)
    most = cv2.max(cv2.max(red, green), blue)
    least = cv2.min(cv2.min(red, green), blue)
    others = cv2.max(green, blue)
    lit = (most > _LIT) & (area > 0)
    pixels = max(cv2.countNonZero(area), 1)

    def share(chosen: NDArray[np.bool_]) -> float:
        return float(np.count_nonzero(chosen & (area > 0))) / pixels

    return Appearance(
        light=float(cv2.mean(grey, area)[0]),
        detail=_detail(np.asarray(grey, np.uint8), area),
        red=share(_exceeds(red, others, 2.5)),
        glare=share(np.asarray(most > 245)),
        white=share(np.asarray(least > 200)),
        grey=share(lit & ~_exceeds(most, least, 1.25)),
        cold=share(lit & _exceeds(others, red, 4 / 3) & _exceeds(most, least, 2)),
        mucosa=share(lit & _exceeds(red, others, 1.1)),
    )


def _exceeds(channel: cv2.typing.MatLike, other: cv2.typing.MatLike, times: float) -> NDArray[np.bool_]:
    return np.asarray(channel > np.multiply(other, np.float32(times), dtype=np.float32))


def _detail(grey: NDArray[np.uint8], area: NDArray[np.uint8]) -> float:
    """Mean absolute Laplacian within the content area, its rim left out."""
    rim = np.ones((_RIM, _RIM), np.uint8)
    inner = cv2.erode(area, rim, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    return float(cv2.mean(cv2.absdiff(laplacian, np.zeros_like(laplacian)), inner)[0])
