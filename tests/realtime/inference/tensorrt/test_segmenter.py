"""The segmenter on simulated GPU and TensorRT: order of calls, cleanup, one clear line per failure."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.realtime.inference import shared as shared_module
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.realtime.inference.shared import Lane, SharedSegmenter
from polypstream.realtime.inference.tensorrt import segmenter as segmenter_module
from polypstream.realtime.inference.tensorrt.adapter import TensorRt
from polypstream.realtime.inference.tensorrt.builder import LARGEST_BATCH, BuildConfig, plan_build
from polypstream.realtime.inference.tensorrt.cache import default_folder
from polypstream.realtime.inference.tensorrt.device_frame import DeviceFrame
from polypstream.realtime.inference.tensorrt.engine_file import write_engine_file
from polypstream.realtime.inference.tensorrt.segmenter import TensorRtSegmenter
from tests.models import SIZE
from tests.realtime.inference.tensorrt.fakes import (
    ENGINE,
    ILLEGAL_ADDRESS,
    OUT_OF_MEMORY,
    FakeCuda,
    expected,
    write_fake_engine,
)

Pictures = Callable[[int], NDArray[np.uint8]]


@pytest.fixture
def segmenter(tmp_path: Path, fake_trt: TensorRt) -> TensorRtSegmenter:
    return TensorRtSegmenter(write_fake_engine(tmp_path).path)


def same(actual: NDArray[np.float32], pictures: NDArray[np.uint8]) -> bool:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected(pictures), atol=1e-6)
    return True


def test_it_is_a_segmenter_of_the_pipeline(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    of_the_protocol: Segmenter = segmenter
    (picture,) = pictures(1)
    with of_the_protocol as opened:
        probability = opened.segment(picture)
    assert probability.shape == (opened.height, opened.width) == (SIZE, SIZE)
    assert same(probability, picture)


def test_the_first_run_is_plain_the_second_captured_the_others_replayed(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures
) -> None:
    with segmenter:
        for index, picture in enumerate(pictures(5)):
            assert same(segmenter.segment(picture), picture)
            assert segmenter.uses_graph == (index > 0)
    assert fake_cuda.calls.count("begin_building") == 1
    assert fake_cuda.calls.count("launch") == 4


def test_another_batch_drops_the_graph_and_warms_up_again(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures
) -> None:
    with segmenter:
        for count, graph in ((1, False), (1, True), (8, False), (8, True), (3, False), (1, False), (1, True)):
            batch = pictures(count)
            assert same(segmenter.segment_batch(batch), batch)
            assert segmenter.uses_graph == graph
    assert not fake_cuda.live


def test_two_streams_share_an_engine_built_for_batches(
    fake_cuda: FakeCuda,
    fake_trt: TensorRt,
    green: Path,
    pictures: Pictures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `live` opens it for several sources; the engine is in the cache, since the stand-in builds none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(shared_module, "LONGEST_WAIT_S", 60)
    plan = plan_build(green, BuildConfig(batch=LARGEST_BATCH))
    engine = write_fake_engine(tmp_path, onnx_sha256=plan.onnx.sha256, largest=LARGEST_BATCH)
    assert engine.sidecar.key == plan.key
    write_engine_file(plan.path(default_folder()), ENGINE, engine.sidecar, reason="for a test")
    both_have_turns, answers = threading.Barrier(2), {}

    def stream(number: int, lane: Lane, picture: NDArray[np.uint8]) -> None:
        with lane.turn():
            both_have_turns.wait(60)
            answers[number] = lane.segment(picture)

    batch = pictures(2)
    with SharedSegmenter(segmenter_from_onnx(green, backend="tensorrt", batches=True)) as shared:
        threads = [threading.Thread(target=stream, args=(each, shared.lane(), batch[each])) for each in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert same(np.stack([answers[0], answers[1]]), batch)
    assert fake_cuda.calls.count("copy_to") == 2, "one inference: to the GPU and back"


def test_without_a_graph_the_answers_are_the_same(tmp_path: Path, fake_trt: TensorRt, pictures: Pictures) -> None:
    plain = TensorRtSegmenter(write_fake_engine(tmp_path).path, cuda_graph=False)
    with plain:
        for picture in pictures(3):
            assert same(plain.segment(picture), picture)
            assert not plain.uses_graph


def test_inference_runs_without_a_graph_that_cannot_be_captured(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures
) -> None:
    fake_cuda.fail["end_building"] = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: no"
    with segmenter:
        for picture in pictures(4):
            assert same(segmenter.segment(picture), picture)
    assert fake_cuda.calls.count("begin_building") == 1
    assert "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED" in (segmenter.graph_refusal or "")


def test_rtx_is_asked_before_each_capture(
    segmenter: TensorRtSegmenter, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False, False, True])
    monkeypatch.setattr(TensorRt, "rtx", property(lambda _: object()))
    monkeypatch.setattr(
        "tests.realtime.inference.tensorrt.fakes.FakeContext.is_stream_capturable",
        lambda _self, _stream: next(answers),
        raising=False,
    )
    graphs = []
    with segmenter:
        for picture in pictures(5):
            segmenter.segment(picture)
            graphs.append(segmenter.uses_graph)
    assert graphs == [False, False, False, True, True]


def test_everything_is_freed_and_can_be_opened_again(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures
) -> None:
    assert not fake_cuda.live, "nothing is held before it is entered"
    for _ in range(3):
        with segmenter:
            taken = []
            for picture in pictures(20):
                segmenter.segment(picture)
                taken.append(len(fake_cuda.live))
            assert len(set(taken[1:])) == 1, "no call leaves anything behind"
        assert not fake_cuda.live


def test_everything_is_freed_when_the_work_fails(segmenter: TensorRtSegmenter, fake_cuda: FakeCuda) -> None:
    with pytest.raises(ZeroDivisionError), segmenter:
        raise ZeroDivisionError
    assert not fake_cuda.live


@pytest.mark.parametrize("function", ["create_stream", "allocate", "allocate_pinned", "set_current"])
def test_failed_allocations_are_reported_and_leave_nothing(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures, function: str
) -> None:
    fake_cuda.fail[function] = OUT_OF_MEMORY
    with pytest.raises(BackendError, match=r"OUT_OF_MEMORY.*smaller batch.*lower precision.*onnxruntime"):
        segmenter.__enter__()
    assert not fake_cuda.live
    fake_cuda.fail.clear()
    with segmenter:
        segmenter.segment(pictures(1)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("deserialize_cuda_engine", r"cannot load .*\(the stand-in cannot read"),
        ("create_execution_context", "64 MiB free"),
    ],
)
def test_unreadable_engines_are_reported_and_leave_nothing(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, refuse: set[str], call: str, message: str
) -> None:
    refuse.add(call)
    with pytest.raises(BackendError, match=message) as caught:
        segmenter.__enter__()
    assert "\n" not in str(caught.value)
    assert not fake_cuda.live


def test_a_failing_inference_is_reported_and_ends_cleanly(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, refuse: set[str], pictures: Pictures
) -> None:
    (picture,) = pictures(1)
    refuse.add("execute_async_v3")
    with pytest.raises(BackendError, match="could not run the network"), segmenter:
        segmenter.segment(picture)
    refuse.clear()
    fake_cuda.fail["sync"] = ILLEGAL_ADDRESS
    with pytest.raises(BackendError, match=r"ILLEGAL_ADDRESS.*start the program again"), segmenter:
        segmenter.segment(picture)
    assert not fake_cuda.live


def test_nan_is_refused(
    tmp_path: Path, fake_cuda: FakeCuda, fake_trt: TensorRt, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.realtime.inference.tensorrt.fakes.expected", lambda pictures: np.where(pictures[..., 0] < 4, np.nan, 0.5)
    )
    segmenter = TensorRtSegmenter(write_fake_engine(tmp_path).path)
    with segmenter, pytest.raises(BackendError, match="nan"):
        segmenter.segment(pictures(1)[0])


def test_a_batch_larger_than_the_profile_is_refused(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    assert segmenter.largest_batch == 8
    with segmenter:
        with pytest.raises(BackendError, match=r"a batch of 9 is larger than the 8 .* --batch 9"):
            segmenter.segment_batch(pictures(9))
        with pytest.raises(BackendError, match="no images"):
            segmenter.segment_batch(pictures(0))


def test_images_of_the_wrong_kind_are_refused(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    with segmenter:
        with pytest.raises(BackendError, match="received float32"):
            segmenter.segment(np.zeros((SIZE, SIZE, 3), np.float32))
        with pytest.raises(BackendError, match="received uint8"):
            segmenter.segment(np.zeros((SIZE, SIZE + 1, 3), np.uint8))
        with pytest.raises(BackendError, match=r"\(n, 64, 64, 3\), received uint8 \(64, 64, 3\)"):
            segmenter.segment_batch(pictures(1)[0])


def test_a_noncontiguous_image_is_read_correctly(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    mirrored = pictures(1)[0][::-1, ::-1]
    with segmenter:
        assert same(segmenter.segment(mirrored), mirrored)


def test_a_result_is_unchanged_by_the_next_one(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    first, second = pictures(2)
    with segmenter:
        kept = segmenter.segment(first)
        segmenter.segment(second)
    assert same(kept, first)


def test_it_must_be_open_and_in_its_own_thread(segmenter: TensorRtSegmenter, pictures: Pictures) -> None:
    (picture,) = pictures(1)
    with pytest.raises(BackendError, match="use it in a with block"):
        segmenter.segment(picture)
    caught: list[BaseException] = []

    def use() -> None:
        try:
            segmenter.segment(picture)
        except BackendError as error:
            caught.append(error)

    with segmenter:
        with pytest.raises(BackendError, match="already open"):
            segmenter.__enter__()
        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        segmenter.segment(picture)
    assert "opened in another thread" in str(caught[0])


def test_two_threads_with_a_segmenter_each(
    tmp_path: Path, fake_cuda: FakeCuda, fake_trt: TensorRt, pictures: Pictures
) -> None:
    path = write_fake_engine(tmp_path).path
    segmenters = [TensorRtSegmenter(path, cuda_graph=False) for _ in range(2)]
    wrong: list[object] = []

    def use(one: TensorRtSegmenter, seed: int) -> None:
        with one:
            for picture in pictures(seed):
                if not np.allclose(one.segment(picture), expected(picture), atol=1e-6):
                    wrong.append(picture)

    threads = [threading.Thread(target=use, args=(one, 10 + seed)) for seed, one in enumerate(segmenters)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not fake_cuda.live


def test_a_frame_on_the_gpu_is_read_without_a_copy(
    segmenter: TensorRtSegmenter, fake_cuda: FakeCuda, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def as_frame(array: Any, **_: object) -> DeviceFrame:
        single = array.ndim == 3
        return DeviceFrame(address=array.ctypes.data, batch=1 if single else len(array), is_single=single, owner=array)

    monkeypatch.setattr(segmenter_module, "device_frame", as_frame)
    batch, (picture,) = pictures(4), pictures(1)
    with segmenter:
        fake_cuda.calls.clear()
        assert same(segmenter.segment_device(picture), picture)
        assert fake_cuda.calls.count("copy_to") == 1, "the answer comes back, the frame is not copied"
        assert same(segmenter.segment_device(batch), batch)
        assert not segmenter.uses_graph
        batch[:] = batch[::-1].copy()
        assert same(segmenter.segment_device(batch), batch)
        assert segmenter.uses_graph, "the same address again"
        assert same(segmenter.segment(picture), picture), "and back to host pictures"
        with pytest.raises(BackendError, match="a batch of 9"):
            segmenter.segment_device(pictures(9))
    assert not fake_cuda.live


def test_an_engine_of_another_network_is_refused(
    tmp_path: Path, fake_cuda: FakeCuda, fake_trt: TensorRt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tests.realtime.inference.tensorrt.fakes.FakeEngine.get_tensor_dtype", lambda _self, _name: "half"
    )
    segmenter = TensorRtSegmenter(write_fake_engine(tmp_path).path)
    with pytest.raises(ModelError, match="not an engine of polypstream"):
        segmenter.__enter__()
    assert not fake_cuda.live


def test_an_engine_exchanged_after_it_was_checked_is_refused(segmenter: TensorRtSegmenter) -> None:
    segmenter.engine.path.write_bytes(b"x" * segmenter.engine.sidecar.engine_bytes)
    with pytest.raises(ModelError, match="was changed since it was built"):
        segmenter.__enter__()


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, fake_trt: TensorRt) -> None:
    with pytest.raises(ConfigError, match="no GPU 3; this machine has 1"):
        TensorRtSegmenter(write_fake_engine(tmp_path).path, config=BuildConfig(device=3))
