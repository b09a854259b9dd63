"""The live pipeline: passes every frame to the caller immediately, and runs inference on the newest frame available.

The capture thread hands every frame to the caller, and the newest frame to the inference thread and to the tracking
thread, which propagates the markers to the displayed frame. Neither a slow, failing or missing model nor an error in
optical flow delays a frame or ends the session: frames are displayed with the markers known at that time.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from time import monotonic, sleep
from types import TracebackType

from polypstream.arrays import Size
from polypstream.realtime.inference.model_input import ModelInputs, segment_input
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.live.deadline import MARKER_DEADLINE_MS, VIDEO_DEADLINE_MS, AdaptiveSegmenter
from polypstream.realtime.live.display_frame import DisplayFrame, Light, Status
from polypstream.realtime.live.motion import Scene, scene_of
from polypstream.realtime.live.prediction import CutCounter, MarkerPredictor, Thumbnail, thumbnail_of
from polypstream.realtime.live.sources.decoder import Integrity, integrity_of
from polypstream.realtime.live.sources.source import ConnectionStatus, FrameSource
from polypstream.realtime.live.tracker import Tracker, View
from polypstream.realtime.outlines.content_area import ModelInput
from polypstream.realtime.statistics import Recent
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.resize import ModelInputScaler, deinterlaced_field
from polypstream.scheduling import (
    FRAME_SLICE_S,
    INFERENCE_NICENESS,
    INFERENCE_SLICE_S,
    TRACKING_NICENESS,
    lower_thread_priority,
    time_slice,
)
from polypstream.threads import Delivery, Handover, HandoverClosed, Stages

DISPLAY_CAPACITY = 8
"""Maximum number of frames that wait for a busy caller; then the oldest is dropped and counted."""
YIELD_S = 0.001
"""Pause in seconds of the capture thread after each frame: the caller then gets Python's lock and a core immediately,
instead of waiting until the frame has been scaled for the network."""
LEAST_STEP_S = 1e-6
VIDEO_DEADLINE_S, MARKER_DEADLINE_S = VIDEO_DEADLINE_MS / 1000, MARKER_DEADLINE_MS / 1000
ADAPT_EVERY_S = 1.0
"""Interval in seconds at which the network's number of threads is reconsidered."""
TICK_S = 0.2
"""Interval in seconds at which the caller gets a status while no frames arrive."""


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    frame: Frame
    at_s: float
    """Capture time, but at least just after the previous frame: with reordered frames, some arrive before their
    predecessors."""
    decoded_at: float
    thumbnail: Thumbnail
    view: View
    """Its markers, as predicted when it was captured."""

    @property
    def size(self) -> Size:
        return self.frame.picture.width, self.frame.picture.height


@dataclass(frozen=True, kw_only=True)
class _Input:
    """A frame scaled to the network's input."""

    image: ModelInput
    of: _Decoded

    cuts: int
    """Number of scene cuts in the feed up to this frame."""

    @cached_property
    def scene(self) -> Scene:
        """The frame prepared for optical flow, shared by inference and tracking."""
        return scene_of(self.image.rgb, self.image.content)


class LivePipeline:
    """Runs a source and a segmenter in parallel. A context manager; iterate once, in the displaying thread.

    Iterating yields a `DisplayFrame` for every frame of the source and, while there is none, a `Status` every
    `TICK_S` seconds. It ends when the source does, or after `close`. Errors of the model and of tracking do not end it:
    the status states what is wrong, frames keep coming without markers, and the next one is tried again.

    Args:
        source: The source; entered and closed by the pipeline.
        segmenter: The network; its thread enters and leaves it.
        tracker: Receives the network's outputs and provides the markers.
        turn: Context in which the network is used; entering it waits for other streams that share the network.
    """

    def __init__(
        self,
        source: FrameSource,
        segmenter: Segmenter,
        tracker: Tracker,
        *,
        turn: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._source, self._segmenter, self.tracker, self._turn = source, segmenter, tracker, turn
        self._superseded = self._unusable = self._late_frames = self._late_markers = self._timed_markers = 0
        self._to_display: Handover[_Decoded] = Handover(capacity=DISPLAY_CAPACITY, delivery=Delivery.NEWEST)
        self._to_infer: Handover[_Input] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._to_track: Handover[_Input] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._newest: _Input | None = None
        self._predictor = MarkerPredictor()
        self._stages = Stages(cancel=self.close)
        self._input_problem: str | None = None
        self._model_problem: str | None = None
        self._tracking_problem: str | None = None
        self._displayed_inference: float | None = None
        self._inferences = 0
        self.captured, self.inferred, self.video_delay, self.marker_delay = Recent(), Recent(), Recent(), Recent()
        self._display_delay, self._adapted_at = Recent(), float("-inf")

    @property
    def dropped(self) -> int:
        """Number of frames not displayed: the caller was busy, or they were decoded too late."""
        return self._to_display.dropped + self._source.skipped

    @property
    def inferences(self) -> int:
        """Number of frames with valid network output."""
        return self._inferences

    @property
    def not_inferred(self) -> int:
        """Number of frames skipped by inference in favor of newer ones."""
        return self._to_infer.dropped + self._superseded

    @property
    def unusable(self) -> int:
        """Number of frames without visibility, on which inference was skipped."""
        return self._unusable

    @property
    def late_frames(self) -> int:
        """Number of frames displayed later than `VIDEO_DEADLINE_S` after their capture."""
        return self._late_frames

    @property
    def late_markers(self) -> tuple[int, int]:
        """Number of inferred frames displayed later than `MARKER_DEADLINE_S` after their capture, and of all."""
        return self._late_markers, self._timed_markers

    @property
    def inference_threads(self) -> int | None:
        """Number of CPU threads of the network, if it follows the delays."""
        return self._segmenter.threads if isinstance(self._segmenter, AdaptiveSegmenter) else None

    @property
    def is_late(self) -> bool:
        """Whether markers miss their deadline on this machine, whatever the number of threads."""
        return isinstance(self._segmenter, AdaptiveSegmenter) and self._segmenter.is_late

    def close(self) -> None:
        """End everything; may be called from any thread."""
        self._source.close()
        self._to_display.cancel()
        self._to_infer.cancel()
        self._to_track.cancel()

    def __enter__(self) -> "LivePipeline":
        self._stages.start("capture", self._capture)
        self._stages.start("inference", self._infer)
        self._stages.start("tracking", self._track)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.cancel_and_join()
        if error is None:
            self._stages.join()

    def __iter__(self) -> Iterator[DisplayFrame | Status]:
        with time_slice(FRAME_SLICE_S):
            yield from self._items()
        self._stages.join()

    def _items(self) -> Iterator[DisplayFrame | Status]:
        while True:
            try:
                item = self._to_display.get(timeout_s=TICK_S)
            except TimeoutError:
                self.tracker.expire(monotonic())
                yield self._status_without_frame()
            except HandoverClosed:
                break
            else:
                yield self._displayed(item)

    def _capture(self) -> None:
        scaler, segmenter = ModelInputScaler(), self._segmenter
        inputs = ModelInputs(height=segmenter.height, width=segmenter.width, crop=segmenter.contract.crop)
        at_s, cuts = 0.0, CutCounter()
        with time_slice(FRAME_SLICE_S), self._source:
            for frame in self._source:
                decoded_at = monotonic()
                at_s = max(frame.captured_at, at_s + LEAST_STEP_S)
                thumbnail, size = thumbnail_of(frame.picture), (frame.picture.width, frame.picture.height)
                decoded = _Decoded(
                    frame=frame,
                    at_s=at_s,
                    decoded_at=decoded_at,
                    thumbnail=thumbnail,
                    view=self._predictor.predict(at_s=at_s, size=size, thumbnail=thumbnail),
                )
                self._to_display.put(decoded)
                sleep(YIELD_S)
                self.captured.add(at_s=at_s)
                self._hand_to_model(decoded, scaler, inputs, cuts.count(thumbnail))
        self._to_display.close()
        self._to_infer.close()
        self._to_track.close()

    def _hand_to_model(self, decoded: _Decoded, scaler: ModelInputScaler, inputs: ModelInputs, cuts: int) -> None:
        frame = decoded.frame
        try:
            image = inputs.of(partial(scaler.scale, deinterlaced_field(frame.picture)))
        except Exception as error:  # noqa: BLE001 - a frame that cannot be scaled can still be displayed
            self._input_problem = _text(error)
            return
        self._input_problem = None
        self._newest = _Input(image=image, of=decoded, cuts=cuts)
        self._to_track.put(self._newest)
        if integrity_of(frame) is Integrity.WHOLE:
            self._to_infer.put(self._newest)

    def _track(self) -> None:
        lower_thread_priority(TRACKING_NICENESS)
        with time_slice(FRAME_SLICE_S):
            for item in self._to_track:
                self._track_one(item)

    def _track_one(self, item: _Input) -> None:
        frame = item.of
        try:
            view = self.tracker.view(scene=item.scene, at_s=frame.at_s, size=frame.size)
        except Exception as error:  # noqa: BLE001 - frames continue without markers
            self._tracking_problem = _text(error)
            self._predictor.reset()
        else:
            self._tracking_problem = None
            self._predictor.update(view, at_s=frame.at_s, size=frame.size, thumbnail=frame.thumbnail)

    def _infer(self) -> None:
        lower_thread_priority(INFERENCE_NICENESS)
        try:
            with time_slice(INFERENCE_SLICE_S), self._segmenter:
                for item in self._to_infer:
                    self._infer_one(item)
                    self._adapt()
        except HandoverClosed:
            raise
        except Exception as error:  # noqa: BLE001 - frames continue without a model
            self._model_problem = _text(error)

    def _infer_one(self, item: _Input) -> None:
        try:
            if self._passes_over(item):
                return
            with self._turn():
                item = self._newer_than(item)
                probability = segment_input(self._segmenter, item.image)
            frame = item.of
            self.tracker.update(
                probability,
                scene=item.scene,
                at_s=frame.at_s,
                size=frame.size,
                pts_s=frame.frame.pts_s,
                cuts=item.cuts,
            )
        except Exception as error:  # noqa: BLE001 - an error of the model must not stop the video
            self._model_problem = _text(error)
            self.tracker.reset()
            self._predictor.reset()
        else:
            self._model_problem = None
            self._inferences += 1
            self.inferred.add()
            if self._newest is not None:
                self._to_track.put(self._newest)  # the new detections also apply to the displayed frame

    def _adapt(self) -> None:
        """Let the network follow the delays, at most once per `ADAPT_EVERY_S`."""
        now = monotonic()
        if isinstance(self._segmenter, AdaptiveSegmenter) and now >= self._adapted_at + ADAPT_EVERY_S:
            self._adapted_at = now
            self._segmenter.adapt(marker=self.marker_delay.delay(), video=self._display_delay.delay(), at_s=now)

    def _passes_over(self, item: _Input) -> bool:
        """Skip inference on a frame without visibility, which leaves the time to the other frames and streams."""
        if not self.tracker.passes_over(item.scene, at_s=item.of.at_s):
            return False
        self._unusable += 1
        if self._newest is not None:
            self._to_track.put(self._newest)
        return True

    def _newer_than(self, item: _Input) -> _Input:
        """The newest frame, which may have come while other streams used the network."""
        with suppress(TimeoutError, HandoverClosed):
            newer = self._to_infer.get(timeout_s=0)
            self._superseded += 1
            return newer
        return item

    def _displayed(self, item: _Decoded) -> DisplayFrame:
        frame = item.frame
        view = item.view
        if (problem := self._problem()) is not None:
            view = replace(view, markers=(), status=problem)
        now = monotonic()
        self.video_delay.add(now - frame.captured_at, at_s=now)
        in_pipeline_s = now - (item.decoded_at or frame.captured_at)
        self._display_delay.add(in_pipeline_s, at_s=now)
        self._late_frames += in_pipeline_s > VIDEO_DEADLINE_S
        if view.inferred_at_s is not None and view.inferred_at_s != self._displayed_inference:
            self._displayed_inference = view.inferred_at_s
            self.marker_delay.add(now - view.inferred_at_s, at_s=now)
            self._timed_markers += 1
            self._late_markers += now - view.inferred_at_s > MARKER_DEADLINE_S
        age_s = None if view.inferred_at_s is None else item.at_s - view.inferred_at_s
        return DisplayFrame(
            frame=frame, markers=view.markers, status=view.status, inference_age_s=age_s, decoded_at=item.decoded_at
        )

    def _problem(self) -> Status | None:
        """Current problem that prevents markers, if any."""
        if self._input_problem is not None:
            return Status(light=Light.LOST, reason=f"the frame cannot be given to the model: {self._input_problem}")
        if self._model_problem is not None:
            return Status(light=Light.LOST, reason=f"the model does not work: {self._model_problem}")
        if self._tracking_problem is not None:
            return Status(light=Light.LOST, reason=f"markers cannot be tracked: {self._tracking_problem}")
        return None

    def _status_without_frame(self) -> Status:
        state = self._source.state
        if state.status is ConnectionStatus.RUNNING:
            return Status(light=Light.UNCERTAIN, reason="waiting for the next frame")
        return Status(light=Light.LOST, reason=state.reason or state.status.value)


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__
