"""A live source and models controlled by a test, frame by frame."""

import threading
from collections.abc import Iterator, Sequence
from fractions import Fraction
from time import monotonic
from types import TracebackType

import av
import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import OperatingPoint
from polypstream.errors import BackendError
from polypstream.realtime.live.sources.source import ConnectionState, ConnectionStatus, PacketTap
from polypstream.realtime.video.frame import Frame
from polypstream.threads import Delivery, Handover
from tests.models import contract

SIZE = 64
EAGER = OperatingPoint(name="eager", threshold=0.5, appear_ms=0, vanish_ms=0)
PATIENT = OperatingPoint(name="patient", threshold=0.75, appear_ms=240, vanish_ms=400)
DISC_CENTRE, DISC_RADIUS = (32, 30), 14


def tissue(index: int = 0) -> av.VideoFrame:
    """A textured pinkish image, 256×192, with a paler disc at four times the coordinates of the model's."""
    rng = np.random.default_rng(3)
    rgb = np.empty((192, 256, 3), np.uint8)
    rgb[...] = (190, 110, 95)
    noise = rng.integers(-30, 30, (24, 32, 1)).repeat(8, axis=0).repeat(8, axis=1)
    rgb = np.clip(rgb.astype(np.int16) + noise, 0, 255).astype(np.uint8)
    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
    picture.pts, picture.time_base = index, Fraction(1, 25)
    return picture


class ScriptedSource:
    """Frames provided by a test."""

    label = "scripted"
    has_packets = False
    skipped = 0

    def __init__(self) -> None:
        self._frames: Handover[Frame] = Handover(capacity=1000, delivery=Delivery.LOSSLESS)
        self._state = ConnectionState(status=ConnectionStatus.CONNECTING)
        self._given = 0
        self.picture = tissue
        """Makes the picture of each frame from its index."""
        self.taps: list[PacketTap | None] = []

    @property
    def state(self) -> ConnectionState:
        return self._state

    def give(self, count: int = 1) -> None:
        self._state = ConnectionState(status=ConnectionStatus.RUNNING)
        for _ in range(count):
            self._frames.put(Frame(index=self._given, picture=self.picture(self._given), time_base=Fraction(1, 25)))
            self._given += 1

    def lose(self, reason: str) -> None:
        self._state = ConnectionState(status=ConnectionStatus.LOST, reason=reason)

    def end(self) -> None:
        self._state = ConnectionState(status=ConnectionStatus.ENDED)
        self._frames.close()

    def attach(self, tap: PacketTap | None) -> None:
        self.taps.append(tap)

    def close(self) -> None:
        self._frames.cancel()

    def __enter__(self) -> "ScriptedSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        for frame in self._frames:
            yield Frame(index=frame.index, picture=frame.picture, time_base=frame.time_base, captured_at=monotonic())


class DiscFinder:
    """Finds a polyp at the same place in every frame; fails, is slow or waits as a test requests."""

    height = width = SIZE
    contract = contract(height=SIZE, width=SIZE)

    def __init__(self) -> None:
        self.calls = 0
        self.problem: Exception | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.is_nan = False

    def __enter__(self) -> "DiscFinder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def in_parallel(self) -> Sequence["DiscFinder"]:
        return (self,)

    def segment(self, rgb: Rgb) -> Probability:
        self.go_on.wait()
        self.calls += 1
        if self.problem is not None:
            raise self.problem
        if self.is_nan:
            raise BackendError("the network returned values from nan to nan instead of probabilities")
        rows, columns = np.mgrid[:SIZE, :SIZE]
        inside = np.hypot(columns - DISC_CENTRE[0], rows - DISC_CENTRE[1]) < DISC_RADIUS
        return np.where(inside, np.float32(0.97), np.float32(0.01))
