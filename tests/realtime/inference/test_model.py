"""Public model: results in pixels of the images and videos, from any thread, and its threads end."""

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

import polypstream as ps
from polypstream.arrays import Probability, Rgb
from polypstream.realtime.inference.model import Model
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from tests.clips import make_clip
from tests.models import SIZE, contract, write_green_finder

WIDTH, HEIGHT = 320, 200


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with ps.load_model(write_green_finder(tmp_path / "m.onnx"), backend="onnxruntime", threads=2) as model:
        yield model


def image(x: int = 200, y: int = 90, radius: int = 40) -> Rgb:
    """Red with a green disc."""
    rgb = np.full((HEIGHT, WIDTH, 3), (150, 90, 80), np.uint8)
    cv2.circle(rgb, (x, y), radius, (40, 220, 40), -1)
    return rgb


def test_a_polyp_has_the_position_of_the_image(model: Model) -> None:
    result = model.predict(image())
    (polyp,) = result.polyps
    assert polyp.box == pytest.approx((160, 50, 80, 80), abs=3)
    assert polyp.area == pytest.approx(np.pi * 40**2, rel=0.03)
    assert 0.9 < polyp.score <= 1
    assert (result.width, result.height) == (WIDTH, HEIGHT)


def test_a_file_and_its_array_give_the_same(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "Bild mit Ümlaut.png"
    path.write_bytes(cv2.imencode(".png", image()[..., ::-1])[1].tobytes())
    from_file, from_array = model.predict(str(path)), model.predict(image())
    np.testing.assert_array_equal(from_file.probability, from_array.probability)
    bgr = np.ascontiguousarray(image()[..., ::-1])
    np.testing.assert_array_equal(model.predict(bgr[..., ::-1]).mask, from_array.mask)


def test_nothing_is_found_in_the_dark_border(model: Model) -> None:
    dark = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    dark[20:180, 40:280] = image()[20:180, 40:280]
    dark[5:15, 5:15] = (40, 220, 40)
    result = model.predict(dark)
    assert len(result.polyps) == 1
    assert not result.mask[:18].any()
    assert not result.probability[:15, :30].any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (image().astype(np.float32) / 255, "float32 .*wrong type"),
        (image()[..., 0], "gray"),
        (np.dstack((image(), image()[..., 0])), "alpha channel"),
        (image().transpose(2, 0, 1), "channels first"),
        (image()[None], "a batch"),
        (image()[:0], "empty"),
        (image()[..., :2], "not an image"),
        (None, "not an image"),
        ([], "not an image"),
    ],
)
def test_an_array_that_is_not_rgb_is_rejected_with_what_to_do(model: Model, wrong: object, message: str) -> None:
    with pytest.raises(ps.ConfigError, match=f"predict takes uint8 RGB .*{message}"):
        model.predict(wrong)  # type: ignore[arg-type]


def test_a_file_that_is_not_an_image_is_rejected(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ps.SourceError, match="give the path of an image"):
        model.predict(tmp_path / "absent.png")
    with pytest.raises(ps.SourceError, match="for a video, use predict_stream"):
        model.predict(make_clip(tmp_path / "clip.mp4"))
    (tmp_path / "empty.png").touch()
    with pytest.raises(ps.SourceError, match="is not an image"):
        model.predict(tmp_path / "empty.png")


def test_a_custom_threshold(model: Model) -> None:
    assert model.threshold == model.predict(image()).threshold == 0.5
    faint = np.full((HEIGHT, WIDTH, 3), (150, 200, 80), np.uint8)  # a probability of 0.88
    assert len(model.predict(faint).polyps) == 1
    assert model.predict(faint, threshold=0.9).polyps == ()
    with pytest.raises(ps.ConfigError, match="between 0 and 1"):
        model.predict(image(), threshold=50)


def test_the_models_minimum_peak_applies_unless_a_threshold_is_given(tmp_path: Path) -> None:
    faint = np.full((HEIGHT, WIDTH, 3), (150, 200, 80), np.uint8)  # a probability of 0.88
    model = write_green_finder(tmp_path / "m.onnx", metadata=contract(min_peak=0.9).to_metadata())
    with ps.load_model(model, backend="onnxruntime") as loaded:
        assert loaded.predict(faint).polyps == ()
        assert not loaded.predict(faint).mask.any()
        assert len(loaded.predict(image()).polyps) == 1
        assert len(loaded.predict(faint, threshold=0.5).polyps) == 1
        clip = make_clip(tmp_path / "clip.mp4", frames=3)
        assert [result.min_peak for _, result in loaded.predict_stream(clip)] == [0.9] * 3


def test_every_frame_of_a_stream_comes_in_order_with_its_result(model: Model, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=40, audio="aac")
    with ps.open_video(clip) as video:
        pairs = [
            (frame.index, round(frame.pts_s * 25), result.width, result.height)
            for frame, result in model.predict_stream(video)
        ]
    assert pairs == [(index, index, 64, 48) for index in range(40)]
    assert [frame.index for frame, _ in model.predict_stream(str(clip))] == list(range(40))


def test_a_stream_reads_only_a_few_frames_ahead_and_ends_its_threads_when_left(model: Model, tmp_path: Path) -> None:
    read: list[int] = []

    class Counting(VideoReader):
        def __iter__(self) -> Iterator[Frame | StreamPacket]:
            for item in super().__iter__():
                read.append(len(read))
                yield item

    with Counting(make_clip(tmp_path / "clip.mp4", frames=100)) as video:
        before = threading.active_count()
        stream = model.predict_stream(video)
        assert [next(stream)[0].index for _ in range(3)] == [0, 1, 2]
        assert threading.active_count() > before
        stream.close()  # type: ignore[attr-defined]
        assert len(read) < 30
        model.close()
        assert threading.active_count() <= before


def test_errors_of_the_source_and_the_network_reach_the_caller(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ps.SourceError):
        next(model.predict_stream(tmp_path / "absent.mp4"))
    broken = write_green_finder(tmp_path / "nan.onnx", gain=float("nan"))
    with (
        ps.load_model(broken, backend="onnxruntime") as wrong,
        pytest.raises(ps.BackendError, match="nan"),
    ):
        list(wrong.predict_stream(make_clip(tmp_path / "clip.mp4")))


def test_images_may_be_predicted_while_a_stream_runs(model: Model, tmp_path: Path) -> None:
    for frame, result in model.predict_stream(make_clip(tmp_path / "clip.mp4")):
        alone = model.predict(frame.image)
        assert (alone.width, alone.height) == (result.width, result.height)


def test_many_threads_may_share_a_model(model: Model) -> None:
    images = [image(x=60 + 10 * number) for number in range(16)]
    expected = [model.predict(each).polyps[0].box for each in images]
    with ThreadPoolExecutor(8) as pool:
        assert [result.polyps[0].box for result in pool.map(model.predict, images)] == expected


def test_the_backend_is_entered_and_used_in_one_thread_only(tmp_path: Path) -> None:
    class Owned(OnnxRuntimeSegmenter):
        threads: set[int] = set()  # noqa: RUF012 - shared by all that it opens

        def __enter__(self) -> "Owned":
            self.threads.add(threading.get_ident())
            return self

        def __exit__(self, *_: object) -> None:
            self.threads.add(threading.get_ident())

        def segment(self, rgb: Rgb) -> "ps.Result":  # type: ignore[override]
            self.threads.add(threading.get_ident())
            return super().segment(rgb)  # type: ignore[return-value]

        def in_parallel(self) -> list["Owned"]:
            return [self]

    with Model(Owned(write_green_finder(tmp_path / "m.onnx"))) as model:
        model.predict(image())
        for frame, _ in model.predict_stream(make_clip(tmp_path / "clip.mp4")):
            model.predict(frame.image)
        assert threading.get_ident() not in Owned.threads
    assert len(Owned.threads) == 1


def test_results_outlive_the_model_which_cannot_be_used_again(model: Model) -> None:
    result = model.predict(image())
    model.close()
    model.close()
    assert result.mask.sum() == pytest.approx(result.polyps[0].area, rel=0.01)
    assert result.plot().shape == image().shape
    with pytest.raises(ps.BackendError, match="closed"):
        model.predict(image())


def test_it_says_what_it_is(model: Model) -> None:
    assert repr(model) == f"<Model tiny 1, {SIZE}x{SIZE}, onnxruntime>"
    assert model.contract.license == "Apache-2.0"
    assert [point.name for point in model.operating_points] == ["default"]
    with ps.load_model(backend="onnxruntime") as shipped:
        assert [point.name for point in shipped.operating_points] == ["sensitive", "specific"]


def test_the_thread_of_a_model_has_the_priority_that_it_is_given(tmp_path: Path) -> None:
    found: list[int] = []

    class Observed(OnnxRuntimeSegmenter):
        def segment(self, rgb: Rgb) -> Probability:
            found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
            return super().segment(rgb)

    inherited = os.getpriority(os.PRIO_PROCESS, 0)
    for niceness in (0, 3):
        with Model(Observed(write_green_finder(tmp_path / "green.onnx")), niceness=niceness) as model:
            model.predict(np.zeros((48, 64, 3), np.uint8))
    assert found == [inherited, min(inherited + 3, 19)]
