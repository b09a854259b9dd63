"""Automatic backend: another runtime takes over from one that rejects the file, or that fails while running.

Both failures are real: ONNX Runtime rejects files of a future IR version and indices out of bounds, OpenVINO does not.
"""

import logging
from pathlib import Path

import av
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from polypstream.arrays import Rgb
from polypstream.errors import BackendError, ModelError
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference import segmenter as choosing
from polypstream.realtime.inference.fallback import Candidate, FallbackSegmenter, Notices
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.inference.openvino import OpenVinoSegmenter
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from tests.models import SIZE, write_green_finder

FRAMES, BAD = 12, 5


@pytest.fixture(autouse=True)
def openvino() -> None:
    pytest.importorskip("openvino", reason="needs the extra [openvino]")


@pytest.fixture
def future_file(tmp_path: Path) -> Path:
    """A file that only OpenVINO reads."""
    path = write_green_finder(tmp_path / "future.onnx")
    model = onnx.load(path)
    model.ir_version = 99
    onnx.save(model, path)
    return path


@pytest.fixture
def brittle(tmp_path: Path) -> Path:
    """A model on which ONNX Runtime fails if the second pixel of the diagonal is white."""
    path = write_green_finder(tmp_path / "brittle.onnx")
    model = onnx.load(path)
    nodes, graph = list(model.graph.node), model.graph
    del graph.node[:]
    nodes[-2].input[1] = "bias and zero"
    look_up = [
        helper.make_node("Slice", ["image", "start", "end"], ["sample"]),
        helper.make_node("Cast", ["sample"], ["sample of 64 bits"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["sample of 64 bits", "shape"], ["index"]),
        helper.make_node("Gather", ["zeros", "index"], ["zero"]),
        helper.make_node("Add", ["bias", "zero"], ["bias and zero"]),
    ]
    constants = {
        "start": np.array([0, 1, 1, 0], np.int64),
        "end": np.array([1, 2, 2, 1], np.int64),
        "shape": np.array([1], np.int64),
        "zeros": np.zeros(240, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.node.extend(look_up + nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def images() -> list[Rgb]:
    """Red frames with a green disc; one is white except for the disc."""
    row, column = np.indices((SIZE, SIZE))
    disc = np.hypot(row - 30, column - 34) < 12
    background = [(255, 255, 255) if index == BAD else (150, 90, 80) for index in range(FRAMES)]
    return [np.where(disc[..., None], (40, 220, 40), rgb).astype(np.uint8) for rgb in background]


def falling_back(path: Path, *rest: str, threads: int | None = None) -> FallbackSegmenter:
    openers = {"openvino": OpenVinoSegmenter, "onnxruntime": OnnxRuntimeSegmenter}

    def opener(name: str) -> Candidate:
        return Candidate(name=name, open=lambda count: openers[name](path, threads=count))

    first = OnnxRuntimeSegmenter(path, threads=threads)
    return FallbackSegmenter(first, [opener(name) for name in rest], notices=Notices(), threads=threads)


def test_auto_uses_a_runtime_that_reads_the_file_when_another_rejects_it(future_file: Path) -> None:
    with pytest.raises(ModelError):
        segmenter_from_onnx(future_file, backend="onnxruntime")
    with segmenter_from_onnx(future_file) as segmenter:
        assert segmenter.backend == "openvino"
        assert (segmenter.segment(images()[0]) >= 0.5).sum() > 400
    assert "backend onnxruntime is not used: " in segmenter.notices[0]
    assert "Unsupported model IR version: 99" in segmenter.notices[0]


@pytest.mark.parametrize("error", [OSError("libtbb.so.12: cannot open"), KeyError("device"), ZeroDivisionError()])
def test_auto_survives_any_error_of_a_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def broken(path: Path, threads: int | None) -> Segmenter:
        raise error

    monkeypatch.setattr(choosing, "BACKENDS", {**choosing.BACKENDS, "tensorrt": broken})
    monkeypatch.setattr(choosing, "CANDIDATES", ("tensorrt", "onnxruntime"))
    segmenter = segmenter_from_onnx(write_green_finder(tmp_path / "m.onnx"))
    assert segmenter.backend == "onnxruntime"
    assert segmenter.notices[0].startswith("backend tensorrt is not used: ")


def test_a_file_that_no_runtime_reads_is_an_error_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_text("I am a text file")
    with pytest.raises(ModelError, match=r"text\.onnx cannot be loaded"):
        segmenter_from_onnx(path)


def test_another_backend_takes_over_while_running_and_infers_the_failed_frame_again(
    brittle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with OnnxRuntimeSegmenter(brittle) as alone, pytest.raises(BackendError, match="out of data bounds"):
        alone.segment(images()[BAD])
    with falling_back(brittle, "openvino") as segmenter, caplog.at_level(logging.WARNING):
        found = [(segmenter.segment(rgb) >= 0.5) for rgb in images()]
    np.testing.assert_array_equal(found, np.broadcast_to(found[0], np.shape(found)))
    assert segmenter.backend == "openvino"
    (notice,) = segmenter.notices
    assert notice.startswith("backend onnxruntime failed (ONNX Runtime")
    assert notice.endswith("; continuing with openvino")
    assert [record.message for record in caplog.records] == [notice]


def test_a_failing_candidate_is_skipped_and_the_last_error_is_raised(brittle: Path) -> None:
    with falling_back(brittle, "onnxruntime", "openvino") as segmenter:
        assert segmenter.segment(images()[BAD]).max() > 0.5
        assert segmenter.backend == "openvino"
    with falling_back(brittle, "onnxruntime") as hopeless:
        with pytest.raises(BackendError, match="out of data bounds"):
            hopeless.segment(images()[BAD])
        assert hopeless.segment(images()[0]).max() > 0.5


def test_a_wrong_image_is_the_callers_mistake_and_changes_nothing(brittle: Path) -> None:
    with falling_back(brittle, "openvino") as segmenter, pytest.raises(BackendError, match="received float32"):
        segmenter.segment(np.zeros((SIZE, SIZE, 3), np.float32))  # type: ignore[arg-type]
    assert segmenter.backend == "onnxruntime"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_recording_is_annotated_completely_when_a_backend_fails_on_the_way(
    brittle: Path, tmp_path: Path, threads: int
) -> None:
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0", "preset": "ultrafast"})
        stream.width = stream.height = SIZE
        stream.pix_fmt = "yuv444p"
        for rgb in images():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))
    segmenter = falling_back(brittle, "openvino", threads=threads)
    assert len(segmenter.in_parallel()) == threads
    done = annotate_video(clip, tmp_path, segmenter, AnnotateConfig(encoding=None, temporal=False))
    assert (done.frames, done.frames_with_polyp) == (FRAMES, FRAMES)
    assert [notice for notice in segmenter.notices if notice.endswith("continuing with openvino")]
    assert set(segmenter.notices) <= set(done.notices)
