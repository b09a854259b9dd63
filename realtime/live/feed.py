"""The public live feed: a live pipeline as an iterable of display frames."""

from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from polypstream.contract import OperatingPoint
from polypstream.realtime.inference.model import Model
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.pipeline import LivePipeline
from polypstream.realtime.live.sources.source import FrameSource
from polypstream.realtime.live.tracker import Tracker, TrackerConfig
from polypstream.scheduling import short_switch_interval


class LiveFeed:
    """A live feed as returned by `polypstream.live`: a context manager; iterate once, in the displaying thread.

    A caller that is slower than the source misses the oldest frames; `frames_dropped` counts them.
    """

    def __init__(self, pipeline: LivePipeline, model: Model, *, closes_model: bool) -> None:
        self._pipeline, self._model, self._closes_model = pipeline, model, closes_model
        self._status = Status(light=Light.LOST, reason="not started")
        self._stack = ExitStack()

    @property
    def status(self) -> Status:
        """The newest status, also while no frames arrive."""
        return self._status

    @property
    def operating_point(self) -> OperatingPoint:
        """The operating point in use; change it with `set_operating_point`."""
        return self._pipeline.tracker.operating_point

    @property
    def frames_dropped(self) -> int:
        """Number of frames dropped because the caller was busy, or because they were decoded too late."""
        return self._pipeline.dropped

    def set_operating_point(self, name: str | None = None, *, threshold: float | None = None) -> None:
        """Use another operating point of the model from the next inference on.

        Args:
            name: Name of an operating point; None for the model's first.
            threshold: Probability from which a pixel is polyp, without a minimum peak; None for the operating point's.

        Raises:
            ConfigError: The model has no such operating point, or the threshold is out of range.
        """
        self._pipeline.tracker.operating_point = _point(self._model, name, threshold)

    def close(self) -> None:
        """End the feed; may be called from any thread."""
        self._pipeline.close()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._closes_model:
                stack.enter_context(self._model)
            stack.enter_context(short_switch_interval())
            stack.enter_context(self._pipeline)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def __iter__(self) -> Iterator[DisplayFrame]:
        for item in self._pipeline:
            if isinstance(item, DisplayFrame):
                self._status = item.status
                yield item
            else:
                self._status = item


def open_feed(
    source: FrameSource,
    model: Model,
    *,
    closes_model: bool,
    operating_point: str | None,
    threshold: float | None,
    fade_ms: float,
) -> LiveFeed:
    """Combine a source and a model, without starting. Raises `ConfigError` as `set_operating_point` does."""
    point = _point(model, operating_point, threshold)
    tracker = Tracker(TrackerConfig(operating_point=point, fade_ms=fade_ms))
    return LiveFeed(LivePipeline(source, model.segmenter, tracker), model, closes_model=closes_model)


def _point(model: Model, name: str | None, threshold: float | None) -> OperatingPoint:
    return model.contract.operating_point(name).with_threshold(threshold)
