"""Synthetic frames shown to a viewer at a steady rate, with the true outlines as markers."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache
from threading import Event, Thread
from time import monotonic
from types import TracebackType
from typing import Self

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

from polypstream.realtime.live.display_frame import DisplayFrame, Light, Marker, Status
from polypstream.realtime.live.viewers.viewer import LiveStatistics, Viewer
from polypstream.realtime.outlines.contours import Polyp, polyps_from_probability
from polypstream.realtime.statistics import Delay
from polypstream.realtime.video.frame import Frame
from polypstream.synthetic import SyntheticClip, frame_at
from polypstream.synthetic.counter import draw_counter

WIDTH, HEIGHT = 640, 480
READY = Status(light=Light.READY)
STATISTICS = LiveStatistics(
    video_delay=Delay(p50_ms=2.1, p99_ms=4.2),
    marker_delay=Delay(p50_ms=61.0, p99_ms=88.0),
    fps_in=30.0,
    fps_inference=21.4,
    dropped_inference_frames=312,
    operating_point="sensitive",
    threshold=0.5,
)


@cache
def scene(index: int = 60, *, width: int = WIDTH, height: int = HEIGHT) -> tuple[NDArray[np.uint8], list[Polyp]]:
    """RGB (height, width, 3) of one synthetic frame and the outlines of its polyps."""
    synthetic = frame_at(SyntheticClip(width=width, height=height, fps=30, seconds=60, counter=True), index)
    small = cv2.resize(synthetic.mask.astype(np.float32), (256, 256), interpolation=cv2.INTER_AREA).clip(0, 1)
    return synthetic.rgb, polyps_from_probability(small, threshold=0.5, width=width, height=height)


def picture_of(rgb: NDArray[np.uint8], number: int) -> av.VideoFrame:
    """A yuv420p frame, BT.709, limited range, whose bar code is `number`."""
    rgb = rgb.copy()
    draw_counter(rgb, number)
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
        format="yuv420p",
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        dst_colorspace=Colorspace.ITU709,
    )
    picture.pts = number
    return picture


def shown(
    number: int,
    *,
    rgb: NDArray[np.uint8] | None = None,
    polyps: Sequence[Polyp] | None = None,
    status: Status = READY,
    opacity: float = 1.0,
) -> DisplayFrame:
    """The frame that a session displays; by default image and polyps of the scene."""
    rgb = scene()[0] if rgb is None else rgb
    polyps = scene()[1] if polyps is None else polyps
    markers = [Marker(identity=place + 1, polyp=polyp, opacity=opacity) for place, polyp in enumerate(polyps)]
    frame = Frame(index=number, picture=picture_of(rgb, number), time_base=Fraction(1, 30), captured_at=monotonic())
    return DisplayFrame(frame=frame, markers=markers, status=status, inference_age_s=0.04)


class Showing:
    """Displays frames on a viewer from a separate thread, until left."""

    def __init__(self, viewer: Viewer, *, fps: float = 30.0, make: Callable[[int], DisplayFrame] = shown) -> None:
        self._viewer, self._period_s = viewer, 1 / fps
        self.make = make
        """Makes each frame from its number; may be replaced."""
        self._ended, self._paused = Event(), Event()
        self._thread = Thread(target=self._run, name="test-showing")
        self.statistics = STATISTICS
        """Displayed with each frame; may be replaced at any time."""
        self.number = 0
        """Frames displayed so far."""
        self.statistics = STATISTICS
        self.show_s: list[float] = []
        """Duration of each `show`."""

    def pause(self) -> None:
        self._paused.set()

    def go_on(self) -> None:
        self._paused.clear()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        due = monotonic()
        while not self._ended.wait(max(0.0, due - monotonic())):
            due += self._period_s
            if self._paused.is_set():
                continue
            item = self.make(self.number)
            started = monotonic()
            self._viewer.show(item, self.statistics)
            self.show_s.append(monotonic() - started)
            self.number += 1
