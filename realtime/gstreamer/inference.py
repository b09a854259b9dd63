"""Inference for a GStreamer pipeline: on as many frames as possible, without delaying any."""

from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

from polypstream.arrays import Size
from polypstream.errors import ConfigError
from polypstream.models import default_model
from polypstream.realtime.gstreamer.mapped import MappedInputScaler, MappedPicture
from polypstream.realtime.inference.model_input import ModelInputs, segment_input
from polypstream.realtime.inference.segmenter import AUTO, segmenter_from_onnx
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.events import Event
from polypstream.realtime.live.motion import Scene, scene_of
from polypstream.realtime.live.prediction import CutCounter, thumbnail_of_rgb
from polypstream.realtime.live.tracker import Tracker, TrackerConfig, View
from polypstream.realtime.outlines.content_area import ModelInput
from polypstream.scheduling import INFERENCE_NICENESS, live_inference_threads, lower_thread_priority
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

JUMP_S = 0.5
"""Backward step of timestamps, in seconds, that counts as a restart; smaller ones are disorder or duplicates."""
LEAST_STEP_S = 1e-6


class Mode(Enum):
    """Selection of the frames for inference."""

    LIVE = "live"
    """The newest frame whenever the network is idle; the pipeline is never delayed."""
    EVERY_FRAME = "every-frame"
    """Every frame, before it is passed on; for files."""


@dataclass(frozen=True, kw_only=True)
class InferenceConfig:
    """Settings that are fixed while a pipeline runs."""

    model: Path | None = None
    """Model file; None for the one in the package."""
    backend: str = AUTO
    mode: Mode = Mode.LIVE


@dataclass(frozen=True, kw_only=True)
class _Item:
    image: ModelInput
    at_s: float
    pts_s: float | None
    size: Size
    cuts: int
    beginning: int
    """Number of restarts of the stream before this frame."""

    @cached_property
    def scene(self) -> Scene:
        return scene_of(self.image.rgb, self.image.content)


class ElementInference:
    """Runs a segmenter in a thread, and the tracker that uses its results.

    Between `start` and `close`, call `process` for every frame and `reset` at every jump of the stream, both from one
    thread; settings may be changed from any thread. Inference errors are reported in the status.

    Raises:
        ModelError: If the file is not a model of this package.
        BackendError: If the backend cannot run it.
        MissingExtraError: If a package for the backend is not installed.
        ConfigError: If a setting is invalid.
    """

    def __init__(self, config: InferenceConfig) -> None:
        threads = live_inference_threads() if config.mode is Mode.LIVE else None
        self._segmenter = segmenter_from_onnx(config.model or default_model, backend=config.backend, threads=threads)
        self._scaler = MappedInputScaler()
        self._inputs = ModelInputs(
            height=self._segmenter.height, width=self._segmenter.width, crop=self._segmenter.contract.crop
        )
        self._tracker = Tracker(TrackerConfig(operating_point=self._segmenter.contract.operating_point()))
        self._mode = config.mode
        self._to_infer: Handover[_Item] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._inferred: Handover[_Item] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._stages = Stages(cancel=self._cancel)
        self._problem: str | None = None
        self._cuts = CutCounter()
        self._last_s = float("-inf")
        self._beginning = 0
        self._lock = Lock()

    @property
    def not_inferred(self) -> int:
        """Number of frames skipped by inference in favor of newer ones."""
        return self._to_infer.dropped

    def set_operating_point(self, name: str | None, threshold: float | None) -> None:
        """Use an operating point of the model, None for its first, optionally with another threshold."""
        self._tracker.operating_point = self._segmenter.contract.operating_point(name).with_threshold(threshold)

    def process(self, picture: MappedPicture, *, at_s: float, pts_s: float | None) -> View:
        """Return the markers for a frame. No reference to the frame is kept.

        Args:
            picture: The frame, mapped.
            at_s: Its time in seconds. A jump back restarts; a small step back counts as zero.
            pts_s: Its presentation time for events, if it has one.
        """
        if at_s < self._last_s - JUMP_S:
            self.reset()
        at_s = self._last_s = max(at_s, self._last_s + LEAST_STEP_S)
        image = self._inputs.of(partial(self._scaler.scale, picture))
        cuts = self._cuts.count(thumbnail_of_rgb(image.rgb))
        item = _Item(image=image, at_s=at_s, pts_s=pts_s, size=picture.size, cuts=cuts, beginning=self._beginning)
        self._to_infer.put(item)
        if self._mode is Mode.EVERY_FRAME:
            self._inferred.get()
        view = self._tracker.view(scene=item.scene, at_s=at_s, size=item.size)
        if self._problem is None:
            return view
        return replace(view, markers=(), status=Status(light=Light.LOST, reason=self._problem))

    def reset(self) -> None:
        """Restart, as after a seek, a loop or in a new segment: the next frame may have any time."""
        with self._lock:
            self._beginning += 1
            self._last_s = float("-inf")
            self._tracker.reset()

    def take_events(self) -> list[Event]:
        """Polyps that appeared or vanished since the last call, oldest first."""
        return self._tracker.take_events()

    def start(self) -> None:
        """Start the thread."""
        self._stages.start("inference", self._infer)

    def close(self) -> None:
        """End the thread; a waiting `process` raises `HandoverClosed`."""
        self._stages.cancel_and_join()

    def _cancel(self) -> None:
        self._to_infer.cancel()
        self._inferred.cancel()

    def _infer(self) -> None:
        if self._mode is Mode.LIVE:
            lower_thread_priority(INFERENCE_NICENESS)
        try:
            with self._segmenter:
                for item in self._to_infer:
                    self._infer_one(item)
                    self._inferred.put(item)
        except HandoverClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a model that fails to start must not stop the pipeline
            self._problem = _problem(error)
            for item in self._to_infer:
                self._inferred.put(item)

    def _infer_one(self, item: _Item) -> None:
        try:
            probability = segment_input(self._segmenter, item.image)
            with self._lock:
                if item.beginning == self._beginning:
                    self._tracker.update(
                        probability,
                        scene=item.scene,
                        at_s=item.at_s,
                        size=item.size,
                        pts_s=item.pts_s,
                        cuts=item.cuts,
                    )
        except Exception as error:  # noqa: BLE001 - an inference error must not stop the pipeline
            self._problem = _problem(error)
            self._tracker.reset()
        else:
            self._problem = None


def _problem(error: Exception) -> str:
    return f"the model does not work: {error or type(error).__name__}"


def inference_config(*, model: str, backend: str, mode: str) -> InferenceConfig:
    """Create the configuration from the element's properties.

    Raises:
        ConfigError: If there is no such mode.
    """
    modes = {one.value: one for one in Mode}
    if mode not in modes:
        raise ConfigError(f"there is no mode {mode!r}; set mode to one of {', '.join(modes)}")
    return InferenceConfig(model=Path(model) if model else None, backend=backend, mode=modes[mode])
