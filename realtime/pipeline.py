"""Capture thread → inference threads → the caller, over bounded hand-overs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType

from polypstream.errors import ConfigError
from polypstream.realtime.content import within_content
from polypstream.realtime.frame import Frame, Probability, Rgb
from polypstream.realtime.handover import Delivery, Handover
from polypstream.realtime.preprocess import SmallPicture
from polypstream.realtime.segmenter import Segmenter
from polypstream.realtime.source import StreamPacket
from polypstream.realtime.stage import Stages

CAPACITY = 4
"""Items each hand-over may hold: enough to smooth the stages' jitter, few enough for 4K frames."""


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A frame and the probability map (height, width) that the network made of it, zero outside the content area."""

    frame: Frame
    probability: Probability


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    frame: Frame
    rgb: Rgb


class _Lane:
    """One segmenter with the hand-overs before and after it."""

    def __init__(self, segmenter: Segmenter, *, delivery: Delivery, capacity: int) -> None:
        self._segmenter = segmenter
        self.captured: Handover[_Prepared | StreamPacket] = Handover(capacity=capacity, delivery=delivery)
        self.segmented: Handover[Segmented | StreamPacket] = Handover(capacity=capacity)

    def infer(self) -> None:
        with self._segmenter:
            for item in self.captured:
                if isinstance(item, _Prepared):
                    probability = within_content(self._segmenter.segment(item.rgb), item.rgb)
                    self.segmented.put(Segmented(frame=item.frame, probability=probability))
                else:
                    self.segmented.put(item)
        self.segmented.close()

    def cancel(self) -> None:
        self.captured.cancel()
        self.segmented.cancel()


class Pipeline:
    """Segments every frame of a source; packets of other streams pass through in their place.

    Several segmenters, which must be of one model and size, take the frames in turn, each in a thread of its own; the
    order stays. Use it as a context manager and iterate over it once, in one thread. Whatever goes wrong in a thread
    ends them all, and the first error is raised from the iteration or on leaving the `with` block.
    """

    def __init__(
        self,
        source: Iterable[Frame | StreamPacket],
        *segmenters: Segmenter,
        delivery: Delivery = Delivery.LOSSLESS,
        capacity: int = CAPACITY,
    ) -> None:
        if not segmenters or (delivery is Delivery.NEWEST and len(segmenters) > 1):
            raise ConfigError(
                f"{delivery.value} frames for {len(segmenters)} segmenters; give one, or more if lossless"
            )
        self._source = source
        self._height, self._width = segmenters[0].height, segmenters[0].width
        self._lanes = [_Lane(segmenter, delivery=delivery, capacity=capacity) for segmenter in segmenters]
        self._stages = Stages(cancel=self._cancel)

    @property
    def dropped(self) -> int:
        """Frames that were not segmented because newer ones came; always 0 when lossless."""
        return sum(lane.captured.dropped for lane in self._lanes)

    def __enter__(self) -> "Pipeline":
        self._stages.start("capture", self._capture)
        for lane in self._lanes:
            self._stages.start("inference", lane.infer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.cancel_and_join()
        if error is None:
            self._stages.join()

    def __iter__(self) -> Iterator[Segmented | StreamPacket]:
        for lane in cycle(self._lanes):  # a frame ends each lane's turn, here and in `_capture`
            for item in lane.segmented:
                yield item
                if isinstance(item, Segmented):
                    break
            else:
                break
        self._stages.join()

    def _capture(self) -> None:
        small = SmallPicture(height=self._height, width=self._width)
        lanes = cycle(self._lanes)
        lane = next(lanes)
        for item in self._source:
            if isinstance(item, Frame):
                lane.captured.put(_Prepared(frame=item, rgb=small.of(item.picture)))
                lane = next(lanes)
            else:
                lane.captured.put(item)
        for each in self._lanes:
            each.captured.close()

    def _cancel(self) -> None:
        for lane in self._lanes:
            lane.cancel()
