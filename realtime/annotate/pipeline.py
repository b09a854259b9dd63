"""Capture thread → inference threads → the caller, over bounded hand-overs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from types import TracebackType

from polypstream.arrays import Probability
from polypstream.errors import ConfigError
from polypstream.realtime.inference.model_input import ModelInputs, segment_part
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.outlines.content_area import ModelInput, within_content
from polypstream.realtime.outlines.contours import Polyp
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket
from polypstream.realtime.video.resize import ModelInputScaler
from polypstream.threads import Delivery, Handover, Stages

CAPACITY = 4
"""Capacity of each hand-over: enough to smooth jitter between stages, few enough for 4K frames."""


@dataclass(frozen=True, kw_only=True)
class Segmented:
    """A frame and its probability map, zero outside the content area."""

    frame: Frame
    part: Probability
    """The map (h, w) of the crop that the network received, `image.shown`."""
    image: ModelInput
    """The scaled frame from which the input of the network was cropped."""

    @property
    def probability(self) -> Probability:
        """The map (H, W) of the whole frame, scaled; its size may change if the network receives a crop."""
        height, width = self.image.rgb.shape[:2]
        return self.image.shown.placed(self.part, height=height, width=width)


@dataclass(frozen=True, kw_only=True)
class Recalled:
    """A frame whose polyps are known from an earlier run, without inference."""

    frame: Frame
    polyps: tuple[Polyp, ...]
    image: ModelInput


Recall = Callable[[int, ModelInput], tuple[Polyp, ...] | None]
"""Returns the known polyps of a frame, by presentation time and scaled frame, or None. Called from any thread."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    frame: Frame
    image: ModelInput


class _Lane:
    """One segmenter with the hand-overs before and after it."""

    def __init__(self, segmenter: Segmenter, *, recall: Recall | None, delivery: Delivery, capacity: int) -> None:
        self._segmenter, self._recall = segmenter, recall
        self.captured: Handover[_Prepared | StreamPacket] = Handover(capacity=capacity, delivery=delivery)
        self.segmented: Handover[Segmented | Recalled | StreamPacket] = Handover(capacity=capacity)

    def infer(self) -> None:
        with self._segmenter:
            for item in self.captured:
                if isinstance(item, _Prepared):
                    known = None if self._recall is None else self._recall(item.frame.pts, item.image)
                    if known is not None:
                        self.segmented.put(Recalled(frame=item.frame, polyps=known, image=item.image))
                        continue
                    content = item.image.shown.of(item.image.content)
                    part = within_content(segment_part(self._segmenter, item.image), content)
                    self.segmented.put(Segmented(frame=item.frame, part=part, image=item.image))
                else:
                    self.segmented.put(item)
        self.segmented.close()

    def cancel(self) -> None:
        self.captured.cancel()
        self.segmented.cancel()


class Pipeline:
    """Segments every frame of a source; packets of other streams pass through in order.

    Several segmenters of the same model and size process frames in turn, each in its own thread; the order is kept.
    Use it as a context manager and iterate over it once, in one thread. An error in any thread ends all of them, and
    the first error is raised from the iteration or on leaving the `with` block.
    """

    def __init__(
        self,
        source: Iterable[Frame | StreamPacket],
        *segmenters: Segmenter,
        delivery: Delivery = Delivery.LOSSLESS,
        capacity: int = CAPACITY,
        recall: Recall | None = None,
        inputs: ModelInputs | None = None,
    ) -> None:
        if not segmenters or (delivery is Delivery.NEWEST and len(segmenters) > 1):
            raise ConfigError(
                f"{delivery.value} frames for {len(segmenters)} segmenters; give one, or more if lossless"
            )
        self._source = source
        first = segmenters[0]
        self._inputs = inputs or ModelInputs(height=first.height, width=first.width, crop=first.contract.crop)
        self._lanes = [
            _Lane(segmenter, recall=recall, delivery=delivery, capacity=capacity) for segmenter in segmenters
        ]
        self._stages = Stages(cancel=self._cancel)

    @property
    def dropped(self) -> int:
        """Number of frames skipped in favor of newer ones; always 0 if lossless."""
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

    def __iter__(self) -> Iterator[Segmented | Recalled | StreamPacket]:
        for lane in cycle(self._lanes):  # a frame ends each lane's turn, here and in `_capture`
            for item in lane.segmented:
                yield item
                if isinstance(item, Segmented | Recalled):
                    break
            else:
                break
        self._stages.join()

    def _capture(self) -> None:
        lanes = cycle(self._lanes)
        lane = next(lanes)
        with closing(ModelInputScaler()) as scaler:
            for item in self._source:
                if isinstance(item, Frame):
                    image = self._inputs.of(partial(scaler.scale, item.picture))
                    lane.captured.put(_Prepared(frame=item, image=image))
                    lane = next(lanes)
                else:
                    lane.captured.put(item)
        for each in self._lanes:
            each.captured.close()

    def _cancel(self) -> None:
        for lane in self._lanes:
            lane.cancel()
