"""Public functions that open a model or a video, and the helpers that the other functions share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polypstream.realtime.inference.model import Model
    from polypstream.realtime.video.reader import VideoReader

PathLike = str | Path


def load_model(
    model: PathLike | None = None,
    *,
    backend: str = "auto",
    threads: int | None = None,
    accurate: bool = False,
    url: str | None = None,
) -> "Model":
    """Load a segmentation network.

    Args:
        model: ONNX file made by `polypstream.export` (or a TensorRT engine made by `polypstream build`); None for the
            network of the package.
        backend: `auto` measures every backend that works here, uses the fastest, and switches to the next if it fails
            during inference. A named backend is used or raises an error: `onnxruntime`, `openvino`, `openvino-bf16`,
            `onnxruntime-cuda`, `onnxruntime-tensorrt`, `tensorrt`, or `triton` with `url`.
        threads: CPU threads that one inference may use; None for all cores.
        accurate: Average four inferences per image, mirrored and at two scales; four times the time.
        url: `HOST:PORT/MODEL` of a Triton server's gRPC port, for the backend `triton` (extra `[triton]`).

    Returns:
        The model, which is also a context manager.

    Raises:
        ModelError: The file is missing, damaged or was not made by `polypstream.export`.
        BackendError: The backend does not work here.
        MissingExtraError: The backend is not installed.
        ConfigError: The backend is unknown, or the address is missing or malformed.
    """
    return load(model, backend=backend, threads=threads, accurate=accurate, url=url)


def open_video(path: PathLike) -> "VideoReader":
    """Open a video file, to pass it to `Model.predict_stream` or to iterate over its `frames()`.

    Args:
        path: Any file that FFmpeg reads, or a DICOM object with video (extra `[dicom]`).

    Returns:
        A context manager with `info` (size, frame rate, duration), `frames()`, `damage` and `notices`.

    Raises:
        SourceError: The file cannot be read, contains no video, or no frame can be decoded.
    """
    from polypstream.realtime.video.reader import VideoReader

    return VideoReader(path)


def load(
    model: PathLike | None,
    *,
    backend: str = "auto",
    threads: int | None,
    niceness: int = 0,
    accurate: bool = False,
    url: str | None = None,
) -> "Model":
    """Load a model as `load_model` does; its threads may have a lowered priority."""
    from polypstream.realtime.inference.model import Model
    from polypstream.realtime.inference.segmenter import segmenter_from_onnx

    segmenter = segmenter_from_onnx(model, backend=backend, threads=threads, accurate=accurate, url=url)
    return Model(segmenter, niceness=niceness)


@contextmanager
def opened(model: "Model | PathLike | None", *, threads: int | None = None) -> "Iterator[Model]":
    """Yield the given model, or load one and close it at the end of the block."""
    from polypstream.realtime.inference.model import Model

    if isinstance(model, Model):
        yield model
        return
    with load_model(model, threads=threads) as own:
        yield own


@contextmanager
def kept_on_success(
    model: "Model | PathLike | None", *, threads: int | None, niceness: int
) -> "Iterator[tuple[Model, bool]]":
    """Yield the given model, or load one and close it only if the block fails; and whether it was loaded."""
    from polypstream.realtime.inference.model import Model

    if isinstance(model, Model):
        yield model, False
        return
    own = load(model, threads=threads, niceness=niceness)
    try:
        yield own, True
    except BaseException:
        own.close()
        raise
