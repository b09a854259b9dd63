"""The public `Model`: predicts on images and videos with any backend."""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np

from polypstream.arrays import Probability, Rgb
from polypstream.contract import ModelContract, OperatingPoint
from polypstream.errors import BackendError, ConfigError, SourceError
from polypstream.realtime.annotate.pipeline import Pipeline, Segmented
from polypstream.realtime.inference.base import ContractSize
from polypstream.realtime.inference.model_input import probability_of_still
from polypstream.realtime.inference.result import Result
from polypstream.realtime.inference.segmenter import Segmenter
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import VideoReader
from polypstream.scheduling import lower_thread_priority


class Model:
    """A loaded segmentation network; returned by `polypstream.load_model`.

    It is thread-safe and a context manager. `close` frees the backend; results stay valid.
    """

    def __init__(self, segmenter: Segmenter, *, niceness: int = 0) -> None:
        self._lanes = ThreadedSegmenter.around(segmenter, niceness=niceness)

    @property
    def contract(self) -> ModelContract:
        """Metadata of the model file: name, version, input size, threshold, training data, license."""
        return self._lanes.contract

    @property
    def backend(self) -> str:
        """Name of the inference backend in use, such as `onnxruntime`."""
        return self._lanes.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Backends that were rejected, timed or replaced, one line each."""
        return self._lanes.notices

    @property
    def threshold(self) -> float:
        """Default probability from which a pixel is polyp."""
        return self.contract.threshold

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """The model's settings for live feeds; the first is the default."""
        return self.contract.operating_points

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter that internal pipelines use."""
        return self._lanes

    def predict(self, image: str | Path | Rgb, *, threshold: float | None = None) -> Result:
        """Find the polyps in one image.

        Args:
            image: Path of an image file, or uint8 RGB (H, W, 3) of any size. OpenCV reads BGR: convert it with
                `image[..., ::-1]`.
            threshold: Probability from which a pixel is polyp, between 0 and 1; None for the model's
                threshold and minimum peak; a given one applies without a minimum peak.

        Returns:
            Polyps, mask and probability in pixels of the image. The result keeps a reference to the image for `plot`.

        Raises:
            SourceError: The file is missing or not an image.
            ConfigError: The array is not uint8 RGB (H, W, 3), or the threshold is out of range.
            BackendError: Inference failed, or the model is closed.
        """
        rgb = _read_image(Path(image)) if isinstance(image, str | Path) else _checked_image(image)
        point = self._point(threshold)
        probability = probability_of_still(self._lanes, rgb, crop=self.contract.crop)
        height, width = rgb.shape[:2]
        return Result(
            model_probability=probability,
            threshold=point.threshold,
            min_peak=point.min_peak,
            width=width,
            height=height,
            source=rgb,
        )

    def predict_stream(
        self, video: VideoReader | str | Path, *, threshold: float | None = None
    ) -> Iterator[tuple[Frame, Result]]:
        """Find the polyps in every frame of a video, in order.

        Decoding and inference run a few frames ahead in other threads. Closing the iterator early ends them.

        Args:
            video: Result of `polypstream.open_video`, or a path.
            threshold: As for `predict`.

        Yields:
            Each frame (`frame.image` is uint8 RGB (H, W, 3), `frame.pts_s` its time in seconds) and its result, in the
            pixels of the coded frame, before rotation and pixel aspect ratio are applied.

        Raises:
            SourceError: The video cannot be read.
            BackendError: Inference failed, or the model is closed.
        """
        point = self._point(threshold)
        with ExitStack() as stack:
            reader = video if isinstance(video, VideoReader) else stack.enter_context(VideoReader(video))
            pipeline = stack.enter_context(Pipeline(reader, *self._lanes.in_parallel()))
            for item in pipeline:
                if isinstance(item, Segmented):
                    frame = item.frame
                    result = Result(
                        model_probability=item.probability,
                        threshold=point.threshold,
                        min_peak=point.min_peak,
                        width=frame.picture.width,
                        height=frame.picture.height,
                        source=frame,
                    )
                    yield frame, result

    def close(self) -> None:
        """Free the backend, and end its threads. May be called twice."""
        self._lanes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        contract = self.contract
        return f"<Model {contract.name} {contract.version}, {contract.width}x{contract.height}, {self.backend}>"

    def _point(self, threshold: float | None) -> OperatingPoint:
        return self.contract.recording_point().with_threshold(threshold)


class ThreadedSegmenter(ContractSize):
    """Runs a segmenter in a dedicated thread, where it is entered and used for calls from any thread.

    Backends on a GPU belong to the thread that opened them.

    Args:
        segmenter: The segmenter to run.
        niceness: Amount by which the thread's priority is lowered.
    """

    def __init__(self, segmenter: Segmenter, *, niceness: int = 0) -> None:
        self._segmenter, self.contract, self._niceness = segmenter, segmenter.contract, niceness
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._entered: Future[Segmenter]
        self._is_closed = False
        self._others: Sequence[ThreadedSegmenter] | None = None

    @classmethod
    def around(cls, segmenter: Segmenter, *, niceness: int = 0) -> "ThreadedSegmenter":
        """Wrap a segmenter, unless it has a thread already."""
        return segmenter if isinstance(segmenter, cls) else cls(segmenter, niceness=niceness)

    @property
    def backend(self) -> str:
        """Name of the backend in use."""
        return self._segmenter.backend

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices of the segmenter."""
        return self._segmenter.notices

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: the segmenter remains open until `close`."""

    def segment(self, rgb: Rgb) -> Probability:
        """Probability (height, width) of a uint8 RGB image (height, width, 3)."""
        with self._lock:
            if self._is_closed:
                raise BackendError("the model is closed; open it again with polypstream.load_model")
            if self._thread is None:
                self._thread = ThreadPoolExecutor(
                    1,
                    thread_name_prefix="polypstream-model",
                    initializer=lower_thread_priority,
                    initargs=(self._niceness,),
                )
                self._entered = self._thread.submit(self._segmenter.__enter__)
            answer = self._thread.submit(self._segmenter.segment, rgb)
        self._entered.result()  # an error of the thread came first
        return answer.result()

    def in_parallel(self) -> "Sequence[ThreadedSegmenter]":
        """The parallel segmenters of the backend, each with a thread; the same objects on each call."""
        with self._lock:
            if self._others is None:
                several = self._segmenter.in_parallel()
                self._others = (
                    (self,)
                    if len(several) == 1
                    else [ThreadedSegmenter(each, niceness=self._niceness) for each in several]
                )
            return self._others

    def close(self) -> None:
        """Exit the segmenter in its thread, and end the thread after pending calls."""
        with self._lock:
            self._is_closed = True
            thread, self._thread = self._thread, None
            others = self._others or ()
        if thread is not None:
            with suppress(Exception):  # a lost GPU: there is nothing left to release
                thread.submit(self._segmenter.__exit__, None, None, None).result()
            thread.shutdown()
        for each in others:
            if each is not self:
                each.close()


def _read_image(path: Path) -> Rgb:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); give the path of an image file") from None
    bgr = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if bgr is None:
        raise SourceError(f"{path} is not an image that OpenCV reads; for a video, use predict_stream or annotate")
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _checked_image(image: object) -> Rgb:
    """Return the array if it is uint8 RGB (H, W, 3), else raise `ConfigError`."""
    array = np.asarray(image)
    received = f"{array.dtype} {array.shape}"
    shape = array.shape
    if array.ndim == 2:
        advice = "gray: repeat the channel with np.repeat(image[..., None], 3, axis=2)"
    elif array.ndim == 3 and shape[2] == 4:
        advice = "an alpha channel: drop it with image[..., :3]; note that OpenCV's order is BGRA"
    elif array.ndim == 3 and shape[2] != 3 and shape[0] == 3:
        advice = "channels first: move them with image.transpose(1, 2, 0)"
    elif array.ndim == 4:
        advice = "a batch: call predict for each image"
    elif array.ndim != 3 or shape[2] != 3:
        advice = "not an image: give an array of shape (height, width, 3), or a path"
    elif not array.size:
        advice = "empty: check how it was read or cropped"
    elif array.dtype != np.uint8:
        advice = "of the wrong type: values from 0 to 1 become (image * 255).round().astype(np.uint8)"
    else:
        return array
    raise ConfigError(f"predict takes uint8 RGB (height, width, 3); received {received}, {advice}")
