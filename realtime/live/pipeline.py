"""Two clocks: every picture goes from the source to the caller at once, and the network judges the newest it can.

Capture thread → the caller. Beside it, newest frame only: capture thread → inference thread, and capture thread →
following thread, which carries the markers to the frame on display. Neither a slow, failing or missing model nor
optical flow ever holds a picture up: a frame goes out with what is known by then.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType

from polypstream.realtime.content import within_content
from polypstream.realtime.frame import Frame, Rgb
from polypstream.realtime.handover import Delivery, Handover, HandoverClosed
from polypstream.realtime.live.deinterlace import progressive
from polypstream.realtime.live.feed import FrameSource, Line
from polypstream.realtime.live.gauges import Recent
from polypstream.realtime.live.outlook import Glance, Outlook, glance_of
from polypstream.realtime.live.setup import FOLLOWING_NICENESS, INFERENCE_NICENESS, give_way
from polypstream.realtime.live.shown import Light, LiveFrame, Status
from polypstream.realtime.live.sources.decoder import Integrity, integrity_of
from polypstream.realtime.live.tracker import Size, Tracker
from polypstream.realtime.preprocess import SmallPicture
from polypstream.realtime.segmenter import Segmenter
from polypstream.realtime.stage import Stages

DISPLAY_CAPACITY = 8
"""Frames that wait for a caller that is busy; then the oldest is dropped, and counted."""
LEAST_STEP_S = 1e-6
TICK_S = 0.2
"""Without a picture for so long, the caller is told how things stand."""


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    frame: Frame
    at_s: float
    """When the frame was captured, or just after the frame before it: where frames are sent in another order than they
    are shown, some arrive before their predecessors."""
    decoded_at: float
    glance: Glance

    @property
    def size(self) -> Size:
        return self.frame.picture.width, self.frame.picture.height


@dataclass(frozen=True, kw_only=True)
class _Small:
    """A frame as the network takes it."""

    rgb: Rgb
    of: _Decoded


class LivePipeline:
    """Runs a source and a segmenter side by side. A context manager; iterate once, in the thread that shows.

    Iterating yields a `LiveFrame` for every frame of the source and, while there is none, a `Status` every
    `TICK_S` seconds. It ends when the source does, or after `close`. An error of the model is no end: the light says
    what is wrong, the picture goes on, and the next frame is tried.
    """

    def __init__(self, source: FrameSource, segmenter: Segmenter, tracker: Tracker) -> None:
        self._source, self._segmenter, self.tracker = source, segmenter, tracker
        self._to_show: Handover[_Decoded] = Handover(capacity=DISPLAY_CAPACITY, delivery=Delivery.NEWEST)
        self._to_judge: Handover[_Small] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._to_follow: Handover[_Small] = Handover(capacity=1, delivery=Delivery.NEWEST)
        self._newest: _Small | None = None
        self._outlook = Outlook()
        self._stages = Stages(cancel=self.close)
        self._model_problem: str | None = None
        self._shown_evidence: float | None = None
        self.captured, self.judged, self.video_delay, self.marker_delay = Recent(), Recent(), Recent(), Recent()

    @property
    def dropped(self) -> int:
        """Frames that were never shown, since the caller was busy."""
        return self._to_show.dropped

    @property
    def not_judged(self) -> int:
        """Frames that the network did not see, since a newer one came."""
        return self._to_judge.dropped

    def close(self) -> None:
        """End everything; may be called from any thread."""
        self._source.close()
        self._to_show.cancel()
        self._to_judge.cancel()
        self._to_follow.cancel()

    def __enter__(self) -> "LivePipeline":
        self._stages.start("capture", self._capture)
        self._stages.start("inference", self._infer)
        self._stages.start("following", self._follow)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stages.cancel_and_join()
        if error is None:
            self._stages.join()

    def __iter__(self) -> Iterator[LiveFrame | Status]:
        while True:
            try:
                item = self._to_show.get(timeout_s=TICK_S)
            except TimeoutError:
                yield self._status_without_picture()
            except HandoverClosed:
                break
            else:
                yield self._shown(item)
        self._stages.join()

    def _capture(self) -> None:
        small = SmallPicture(height=self._segmenter.height, width=self._segmenter.width)
        at_s = 0.0
        with self._source:
            for frame in self._source:
                decoded_at = monotonic()
                at_s = max(frame.captured_at, at_s + LEAST_STEP_S)
                self.captured.add(at_s=at_s)
                decoded = _Decoded(frame=frame, at_s=at_s, decoded_at=decoded_at, glance=glance_of(frame.picture))
                self._to_show.put(decoded)
                self._newest = _Small(rgb=small.of(progressive(frame.picture)), of=decoded)
                self._to_follow.put(self._newest)
                if integrity_of(frame) is Integrity.WHOLE:
                    self._to_judge.put(self._newest)
        self._to_show.close()
        self._to_judge.close()
        self._to_follow.close()

    def _follow(self) -> None:
        give_way(FOLLOWING_NICENESS)
        for item in self._to_follow:
            frame = item.of
            view = self.tracker.view(rgb=item.rgb, at_s=frame.at_s, size=frame.size)
            self._outlook.know(view, at_s=frame.at_s, size=frame.size, glance=frame.glance)

    def _infer(self) -> None:
        give_way(INFERENCE_NICENESS)
        try:
            with self._segmenter:
                for item in self._to_judge:
                    self._judge(item)
        except HandoverClosed:
            raise
        except Exception as error:  # noqa: BLE001 - a model that does not start must not stop the picture
            self._model_problem = str(error)

    def _judge(self, item: _Small) -> None:
        try:
            probability = within_content(self._segmenter.segment(item.rgb), item.rgb)
            self.tracker.judge(probability, rgb=item.rgb, at_s=item.of.at_s, size=item.of.size)
        except Exception as error:  # noqa: BLE001 - whatever the model does, the picture goes on
            self._model_problem = str(error) or type(error).__name__
            self.tracker.forget()
            self._outlook.forget()
        else:
            self._model_problem = None
            self.judged.add()
            if self._newest is not None:
                self._to_follow.put(self._newest)  # what was found now belongs on the frame on display too

    def _shown(self, item: _Decoded) -> LiveFrame:
        frame = item.frame
        view = self._outlook.on(at_s=item.at_s, size=item.size, glance=item.glance)
        if self._model_problem is not None:
            view = replace(view, markers=(), status=self._without_model())
        now = monotonic()
        self.video_delay.add(now - frame.captured_at, at_s=now)
        if view.evidence_at_s is not None and view.evidence_at_s != self._shown_evidence:
            self._shown_evidence = view.evidence_at_s
            self.marker_delay.add(now - view.evidence_at_s, at_s=now)
        age_s = None if view.evidence_at_s is None else item.at_s - view.evidence_at_s
        return LiveFrame(
            frame=frame, markers=view.markers, status=view.status, evidence_age_s=age_s, decoded_at=item.decoded_at
        )

    def _without_model(self) -> Status:
        return Status(light=Light.LOST, reason=f"the model does not work: {self._model_problem}")

    def _status_without_picture(self) -> Status:
        state = self._source.state
        if state.line is Line.RUNNING:
            return Status(light=Light.UNCERTAIN, reason="waiting for the next picture")
        return Status(light=Light.LOST, reason=state.reason or state.line.value)
