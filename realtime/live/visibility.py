"""Visibility: whether inference on a frame is meaningful, or it is dark, blurred, red, washed out or outside the body.

Thresholds apply to an image scaled to `SIDE` pixels, regardless of the network's input. They were set on 2685 published
training and validation images, including dyed mucosa; 99.8% of these pass.
"""

from dataclasses import dataclass
from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Rgb

SIDE = 128
"""Maximum length of the longer side of the measured image, in pixels; smaller images are not scaled."""
LEAST_LIGHT = 25
"""Minimum mean gray level of the content area."""
LEAST_DETAIL = 3.8
"""Minimum mean absolute Laplacian; over those images, its median is 11.8 and its 0.1% quantile 3.6."""
MOST_RED = 0.8
"""Maximum share of pixels with 2.5 times as much red as green or blue."""
MOST_GLARE = 0.5
"""Maximum share of pixels with a saturated channel."""
MOST_WHITE = 0.3
"""Maximum share of pixels with all channels at 200 or more."""
MOST_GRAY = 0.45
"""Maximum share of lit pixels without color, as of walls, linen and lamps."""
MOST_COLD = 0.5
"""Maximum share of lit pixels in a strong blue or green, stronger than from dye."""
LEAST_MUCOSA = 0.15
"""Minimum share of lit pixels dominated by red in a gray image; dyed mucosa has less, but is not gray."""

STEADY_S = 0.3
"""Minimum time in seconds for which a reason is displayed; faster changes are unreadable."""

_SMOOTH_RED, _SMOOTH_GLARE, _SMOOTH_LIGHT = 0.35, 0.3, 160
"""Limits above which an image without detail is reported as red-out or washed out instead of blurred."""
_LIT = 40
_RIM = 7
"""Pixels along the edge of the content area that are ignored, as the contrast there is not detail."""


class Visibility(Enum):
    """Visibility of a frame; the value is a text for the user."""

    CLEAR = ""
    DARK = "dark image"
    BLURRED = "blurred"
    RED_OUT = "red-out: lens on the wall"
    WASHED = "washed or overexposed"
    OUTSIDE = "outside the body"


@dataclass(frozen=True, kw_only=True)
class VisibilityMeasures:
    """Measurements of an image; shares refer to its content area."""

    light: float
    """Mean gray level."""
    detail: float
    """Mean absolute Laplacian."""
    red: float
    """Share of pixels with 2.5 times as much red as green or blue."""
    glare: float
    """Share of pixels with a saturated channel."""
    white: float
    gray: float
    cold: float
    mucosa: float

    @property
    def visibility(self) -> Visibility:
        """The visibility that follows from the measurements."""
        if self.light < LEAST_LIGHT:
            return Visibility.DARK
        if self.white > MOST_WHITE:
            return Visibility.WASHED
        if self.cold > MOST_COLD or (self.gray > MOST_GRAY and self.mucosa < LEAST_MUCOSA):
            return Visibility.OUTSIDE
        smooth = self.detail < LEAST_DETAIL
        if self.red > (_SMOOTH_RED if smooth else MOST_RED):
            return Visibility.RED_OUT
        if self.glare > (_SMOOTH_GLARE if smooth else MOST_GLARE):
            return Visibility.WASHED
        if smooth:
            return Visibility.WASHED if self.light > _SMOOTH_LIGHT else Visibility.BLURRED
        return Visibility.CLEAR


class SteadyVisibility:
    """Smooths the visibility of successive frames, so that the displayed reason does not flicker.

    A problem is reported immediately; its end is reported once it has been absent for `STEADY_S`. A reason is kept for
    the same time after it last occurred, even if another problem occurs meanwhile.
    """

    def __init__(self) -> None:
        self._reported = Visibility.CLEAR
        self._seen_s = self._trouble_s = float("-inf")

    def smoothed(self, visibility: Visibility, *, at_s: float) -> Visibility:
        """Return what to report, given the visibility of the frame at this time (increasing seconds)."""
        since_s = self._trouble_s if visibility is Visibility.CLEAR else self._seen_s
        if self._reported is Visibility.CLEAR or at_s - since_s >= STEADY_S:
            self._reported = visibility
        if visibility is self._reported:
            self._seen_s = at_s
        if visibility is not Visibility.CLEAR:
            self._trouble_s = at_s
        return self._reported


def visibility_of(rgb: Rgb, content: NDArray[np.bool_]) -> Visibility:
    """Determine the visibility of an image, uint8 RGB (H, W, 3), with its content area, bool (H, W)."""
    return visibility_measures_of(rgb, content).visibility


def visibility_measures_of(rgb: Rgb, content: NDArray[np.bool_]) -> VisibilityMeasures:
    """Measure an image, uint8 RGB (H, W, 3), over its content area, bool (H, W)."""
    area = content.astype(np.uint8)
    scale = SIDE / max(area.shape)
    if scale < 1:
        rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
        area = np.asarray(cv2.resize(area, rgb.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
    gray = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    red, green, blue = cv2.split(rgb)
    most = cv2.max(cv2.max(red, green), blue)
    least = cv2.min(cv2.min(red, green), blue)
    others = cv2.max(green, blue)
    lit = (most > _LIT) & (area > 0)
    pixels = max(cv2.countNonZero(area), 1)

    def share(chosen: NDArray[np.bool_]) -> float:
        return float(np.count_nonzero(chosen & (area > 0))) / pixels

    return VisibilityMeasures(
        light=float(cv2.mean(gray, area)[0]),
        detail=_detail(np.asarray(gray, np.uint8), area),
        red=share(_exceeds(red, others, 2.5)),
        glare=share(np.asarray(most > 245)),
        white=share(np.asarray(least > 200)),
        gray=share(lit & ~_exceeds(most, least, 1.25)),
        cold=share(lit & _exceeds(others, red, 4 / 3) & _exceeds(most, least, 2)),
        mucosa=share(lit & _exceeds(red, others, 1.1)),
    )


def _exceeds(channel: cv2.typing.MatLike, other: cv2.typing.MatLike, times: float) -> NDArray[np.bool_]:
    return np.asarray(channel > np.multiply(other, np.float32(times), dtype=np.float32))


def _detail(gray: NDArray[np.uint8], area: NDArray[np.uint8]) -> float:
    """Compute the mean absolute Laplacian within the content area, without its rim."""
    rim = np.ones((_RIM, _RIM), np.uint8)
    inner = cv2.erode(area, rim, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    laplacian = cv2.Laplacian(gray, cv2.CV_32F, borderType=cv2.BORDER_REPLICATE)
    return float(cv2.mean(cv2.absdiff(laplacian, np.zeros_like(laplacian)), inner)[0])
