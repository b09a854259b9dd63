"""Frames of a live feed with one round polyp marked, for tests of viewers and recorders."""

from fractions import Fraction
from time import monotonic

import av
import numpy as np

from polypstream.realtime.live.display_frame import DisplayFrame, Light, Marker, Status
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour
from polypstream.realtime.video.frame import Frame
from tests.clips import picture


def round_polyp(*, x: float = 32, y: float = 24, radius: float = 12) -> Polyp:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contour = np.column_stack((x + radius * np.cos(angle), y + radius * np.sin(angle))).astype(np.float32)
    return polyp_from_contour(contour, score=0.9)


def marker(*, identity: int = 1, opacity: float = 1.0) -> Marker:
    return Marker(identity=identity, polyp=round_polyp(), opacity=opacity)


def live_frame(
    index: int,
    *,
    markers: tuple[Marker, ...] = (),
    captured_at: float | None = None,
    size: tuple[int, int] = (64, 48),
    pixel_format: str = "yuv420p",
    image: av.VideoFrame | None = None,
) -> DisplayFrame:
    shown = image or picture(index, width=size[0], height=size[1], pixel_format=pixel_format)
    shown.pts, shown.time_base = index, Fraction(1, 25)
    frame = Frame(
        index=index,
        picture=shown,
        time_base=Fraction(1, 25),
        captured_at=monotonic() if captured_at is None else captured_at,
    )
    return DisplayFrame(frame=frame, markers=markers, status=Status(light=Light.READY), inference_age_s=0.0)
