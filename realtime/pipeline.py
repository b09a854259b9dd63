"""Capture thread → inference thread → the caller, over bounded hand-overs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

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


class Pipeline:
    """Segments every frame of a source; packets of other streams pass through in their place.

    Use it as a context manager and iterate over it once, in one thread. Whatever goes wrong in a thread ends both
    threads, and the first error is raised from the iteration or on leaving the `with` block.
    """

    def __init__(
        self,
        source: Iterable[Frame | StreamPacket],
        segmenter: Segmenter,
        *,
        delivery: Delivery = Delivery.LOSSLESS,
        capacity: int = CAPACITY,
    ) -> None:
        self._source, self._segmenter = source, segmenter
        self._captured: Handover[_Prepared | StreamPacket] = Handover(capacity=capacity, delivery=delivery)
        self._segmented: Handover[Segmented | StreamPacket] = Handover(capacity=capacity)
        self._stages = Stages(cancel=self._cancel)

    @property
    def dropped(self) -> int:
        """Frames that were not segmented because newer ones came; always 0 when lossless."""
        return self._captured.dropped

    def __enter__(self) -> "Pipeline":
        self._stages.start("capture", self._capture)
        self._stages.start("inference", self._infer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.cancel_and_join()
        if error is None:
            self._stages.join()

    def __iter__(self) -> Iterator[Segmented | StreamPacket]:
        yield from self._segmented
        self._stages.join()

    def _capture(self) -> None:
        small = SmallPicture(height=self._segmenter.height, width=self._segmenter.width)
        for item in self._source:
            self._captured.put(_Prepared(frame=item, rgb=small.of(item.picture)) if isinstance(item, Frame) else item)
        self._captured.close()

    def _infer(self) -> None:
        with self._segmenter:
            for item in self._captured:
                if isinstance(item, _Prepared):
                    probability = within_content(self._segmenter.segment(item.rgb), item.rgb)
                    self._segmented.put(Segmented(frame=item.frame, probability=probability))
                else:
                    self._segmented.put(item)
        self._segmented.close()

    def _cancel(self) -> None:
        self._captured.cancel()
        self._segmented.cancel()
