"""The network beside somebody else's pipeline: it judges what it has time for, and never holds a picture up."""

from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from polypstream.errors import ConfigError
from polypstream.models import default_model
from polypstream.realtime.frame import Rgb
from polypstream.realtime.gstreamer.mapped import MappedPicture, SmallMapped
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.alarm import OPERATING_POINTS
from polypstream.realtime.live.setup import INFERENCE_NICENESS, give_way, live_threads
from polypstream.realtime.live.shown import Light, Status
from polypstream.realtime.live.tracker import Tracker, View
from polypstream.realtime.segmenter import AUTO, segmenter_from_onnx
from polypstream.realtime.stage import Stages


class Mode(Enum):
    """Which frames the network judges."""

    LIVE = "live"
    """The newest, whenever it has finished one: the pipeline is never held up."""
    EVERY_FRAME = "every-frame"
    """Each, before it goes on: for files."""


@dataclass(frozen=True, kw_only=True)
class JudgingConfig:
    """What is fixed while a pipeline runs."""

    model: Path | None = None
    """None for the one that comes with the package."""
    backend: str = AUTO
    mode: Mode = Mode.LIVE


@dataclass(frozen=True, kw_only=True)
class _Item:
    rgb: Rgb
    at_s: float
    size: tuple[int, int]


class Judging:
    """A segmenter in a thread of its own, and the tracker that it feeds.

    Between `start` and `close`, call `look` from one thread, for every frame; settings may change from any. Raises
    `ModelError`, `BackendError`, `MissingExtraError` or `ConfigError` on construction. An error of the model later on
    is told in the status.
    """

    def __init__(self, config: JudgingConfig) -> None:
        threads = live_threads() if config.mode is Mode.LIVE else None
        self._segmenter = segmenter_from_onnx(config.model or default_model, backend=config.backend, threads=threads)
        self._small = SmallMapped(height=self._segmenter.height, width=self._segmenter.width)
        self._tracker = Tracker()
        self._mode = config.mode
        self._to_judge: Handover[_Item] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._judged: Handover[_Item] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._stages = Stages(cancel=self._cancel)
        self._problem: str | None = None
        self._last_s = float("-inf")

    @property
    def not_judged(self) -> int:
        """Frames that the network did not see, since a newer one came."""
        return self._to_judge.dropped

    def set_operating_point(self, name: str, threshold: float | None) -> None:
        """Take another operating point, with a threshold in place of its own where one is given."""
        if name not in OPERATING_POINTS:
            names = ", ".join(OPERATING_POINTS)
            raise ConfigError(f"there is no operating point {name!r}; set operating-point to one of {names}")
        point = OPERATING_POINTS[name]
        self._tracker.operating_point = point if threshold is None else replace(point, threshold=threshold)

    def look(self, picture: MappedPicture, *, at_s: float) -> View:
        """What is to be drawn on this picture, shown at `at_s` seconds. Nothing of it is kept."""
        if at_s < self._last_s:
            self._tracker.forget()
        self._last_s = at_s
        item = _Item(rgb=self._small.of(picture), at_s=at_s, size=picture.size)
        self._to_judge.put(item)
        if self._mode is Mode.EVERY_FRAME:
            self._judged.get()
        view = self._tracker.view(rgb=item.rgb, at_s=at_s, size=item.size)
        if self._problem is None:
            return view
        reason = f"the model does not work: {self._problem}"
        return replace(view, status=Status(light=Light.LOST, reason=reason))

    def start(self) -> None:
        """Start the thread."""
        self._stages.start("judging", self._infer)

    def close(self) -> None:
        """End the thread; whoever waits in `look` is woken by `HandoverClosed`."""
        self._stages.cancel_and_join()

    def _cancel(self) -> None:
        self._to_judge.cancel()
        self._judged.cancel()

    def _infer(self) -> None:
        if self._mode is Mode.LIVE:
            give_way(INFERENCE_NICENESS)
        try:
            with self._segmenter:
                for item in self._to_judge:
                    self._judge(item)
                    self._judged.put(item)
        except HandoverClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a model that does not start must not stop the picture
            self._problem = str(error) or type(error).__name__
            for item in self._to_judge:
                self._judged.put(item)

    def _judge(self, item: _Item) -> None:
        try:
            probability = self._segmenter.segment(item.rgb)
            self._tracker.judge(probability, rgb=item.rgb, at_s=item.at_s, size=item.size)
        except Exception as error:  # noqa: BLE001 - whatever the model does, the picture goes on
            self._problem = str(error) or type(error).__name__
            self._tracker.forget()
        else:
            self._problem = None


def judging_config(*, model: str, backend: str, mode: str) -> JudgingConfig:
    """From the element's properties. Raises `ConfigError`."""
    modes = {one.value: one for one in Mode}
    if mode not in modes:
        raise ConfigError(f"there is no mode {mode!r}; set mode to one of {', '.join(modes)}")
    return JudgingConfig(model=Path(model) if model else None, backend=backend, mode=modes[mode])
