"""Annotation jobs end to end on real files: what is added, what is preserved, and how they end."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.frame import PictureType
from numpy.typing import NDArray

from polypstream.errors import BackendError, OutputError
from polypstream.metrics import Overlap
from polypstream.models import default_model
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationProgress, AnnotationReport, annotate_video
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.outlines.contours import mask_from_polyps, polyp_from_contour
from polypstream.realtime.outlines.drawing import marker_coverage
from polypstream.realtime.video.writer import Encoding
from polypstream.synthetic import SyntheticClip, write_clip
from tests.clips import make_clip, plane_bytes, read_packets, times_of
from tests.models import write_green_finder

WIDTH, HEIGHT = 192, 144
LOSSLESS = AnnotateConfig(temporal=False, encoding=Encoding(quality="lossless", preset="ultrafast"))


def disc(index: int) -> NDArray[np.bool_]:
    """Position of the green disc in frame `index`; every fourth frame has none."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if index % 4 != 3:
        cv2.circle(mask, (60 + 3 * index, 70), 24, 1, -1)
    return mask.astype(bool)


def write_disc_clip(
    path: Path,
    *,
    frames: int = 24,
    pts: list[int] | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Red noise with a green disc that moves; ticks of 1 ms."""
    rng = np.random.default_rng(1)
    noise = rng.integers(90, 160, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    container = av.open(str(path), "w")
    video = container.add_stream(
        "libx264", rate=25, options={"crf": "8", **(options or {})}, time_base=Fraction(1, 1000)
    )
    video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    sound = container.add_stream("aac", rate=48000, layout="mono") if audio else None
    for index, time in enumerate(pts or [40 * i for i in range(frames)]):
        rgb = noise.copy()
        rgb[disc(index)] = (30, 190, 60)
        picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
        picture.pts, picture.time_base = time, Fraction(1, 1000)
        container.mux(video.encode(picture))
        if sound is not None:
            tone = (np.sin(np.arange(1024) / 9) * 0.3).astype(np.float32)[None]
            heard = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48000, 1024 * index, Fraction(1, 48000)
            container.mux(sound.encode(heard))
    container.mux(video.encode(None))
    if sound is not None:
        container.mux(sound.encode(None))
    container.close()
    return path


def overlay_of(result: AnnotationReport) -> Path:
    assert result.overlay is not None
    return result.overlay


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_green_finder(tmp_path / "green.onnx")


def records_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def decoded(path: Path) -> list[av.VideoFrame]:
    with av.open(str(path)) as container:
        return list(container.decode(video=0))


def polyps_in(record: dict[str, Any]) -> list[Any]:
    contours = [np.array(polyp["contour"], np.float32) for polyp in record["polyps"]]
    return [polyp_from_contour(contour, score=1.0) for contour in contours]


def annotated(video: Path, model: Path, out: Path, config: AnnotateConfig = LOSSLESS) -> AnnotationReport:
    return annotate_video(video, out, segmenter_from_onnx(model, backend="onnxruntime"), config)


def test_every_frame_is_recorded_and_the_contours_lie_on_the_polyps(tmp_path: Path, model: Path) -> None:
    result = annotated(write_disc_clip(tmp_path / "clip.mp4"), model, tmp_path / "out")
    records = records_of(result.records)
    assert [record["index"] for record in records] == list(range(24))
    assert [record["pts_s"] for record in records] == pytest.approx([0.04 * i for i in range(24)])
    assert (result.frames, result.frames_with_polyp, result.polyps) == (24, 18, 18)
    for record in records:
        truth = disc(record["index"])
        found = mask_from_polyps(polyps_in(record), width=WIDTH, height=HEIGHT)
        assert Overlap.of(truth, found).dice > 0.9
        for polyp in record["polyps"]:
            assert polyp["area"] == pytest.approx(truth.sum(), rel=0.15)
            assert 0.5 <= polyp["mean_probability"] <= 1


def test_records_alone_are_those_of_the_whole_job(tmp_path: Path, model: Path) -> None:
    source = write_disc_clip(tmp_path / "clip.mp4", audio=True)
    whole, alone = (
        annotate_video(source, tmp_path / name, segmenter_from_onnx(model), AnnotateConfig(encoding=encoding))
        for name, encoding in (("whole", Encoding()), ("alone", None))
    )
    assert sorted(path.name for path in alone.records.parent.iterdir()) == ["clip_polyps.jsonl", "clip_summary.json"]
    assert alone.overlay is None
    assert alone.records.read_text() == whole.records.read_text()
    assert (alone.frames, alone.polyps) == (whole.frames, whole.polyps)


def test_the_last_frame_plays_where_it_is_displayed_long_after_it_is_decoded(tmp_path: Path, model: Path) -> None:
    pts = np.cumsum(np.random.default_rng(3).integers(7, 90, 400)).tolist()
    source = write_disc_clip(tmp_path / "vfr.mp4", frames=400, pts=pts, options={"bf": "2", "g": "50"})
    result = annotated(source, model, tmp_path / "out", AnnotateConfig())
    assert times_of(overlay_of(result)) == times_of(source)


def test_variable_rate_sound_and_b_frames_are_kept_and_the_rest_is_bit_exact(tmp_path: Path, model: Path) -> None:
    pts = np.cumsum(np.random.default_rng(3).integers(7, 90, 24)).tolist()
    source = write_disc_clip(tmp_path / "vfr.mp4", pts=pts, audio=True, options={"bf": "3", "b-pyramid": "normal"})
    types = {PictureType(frame.pict_type) for frame in decoded(source)}
    assert PictureType.B in types
    result = annotated(source, model, tmp_path / "out")
    assert times_of(overlay_of(result)) == times_of(source)
    assert read_packets(overlay_of(result), 1) == read_packets(source, 1)
    changed = 0
    for before, after, record in zip(
        decoded(source), decoded(overlay_of(result)), records_of(result.records), strict=True
    ):
        coverages = marker_coverage(before, polyps_in(record), LOSSLESS.style)
        planes = zip(plane_bytes(before), plane_bytes(after), coverages, strict=True)
        for original, drawn, coverage in planes:
            differs = np.frombuffer(original, np.uint8) != np.frombuffer(drawn, np.uint8)
            near = cv2.dilate(coverage, np.ones((3, 3)))  # the record rounds contours to 1/100 pixel
            assert not differs[near.ravel() == 0].any()
            changed += int(differs.sum())
    assert changed > 1000


@pytest.mark.parametrize(
    ("changes", "suffix"),
    [
        ({"width": 127, "height": 97, "codec": "ffv1"}, ".mkv"),
        ({"pixel_format": "yuv420p10le", "codec": "ffv1"}, ".mkv"),
        ({"pixel_format": "gray", "codec": "ffv1"}, ".mkv"),
        ({"pixel_format": "yuv422p"}, ".mp4"),
        ({"rotation": 90, "sample_aspect_ratio": Fraction(4, 3)}, ".mp4"),
    ],
)
def test_unusual_frames_are_annotated(tmp_path: Path, model: Path, changes: dict[str, Any], suffix: str) -> None:
    source = make_clip(tmp_path / f"odd{suffix}", frames=5, **changes)
    result = annotated(source, model, tmp_path / "out", AnnotateConfig())
    assert result.frames == 5
    before, after = decoded(source)[0], decoded(overlay_of(result))[0]
    assert (before.width, before.height, before.rotation) == (after.width, after.height, after.rotation)
    assert times_of(overlay_of(result)) == times_of(source)


def test_a_damaged_interval_is_reported_and_the_rest_annotated(tmp_path: Path, model: Path) -> None:
    path = write_disc_clip(tmp_path / "hurt.mp4", frames=60, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 1500] = bytes(1500)
    path.write_bytes(data)
    result = annotated(path, model, tmp_path / "out")
    assert result.damage
    assert 30 <= result.frames <= 60
    assert len(records_of(result.records)) == result.frames == len(decoded(overlay_of(result)))


def test_a_network_that_returns_nan_draws_nothing_and_leaves_no_final_file(tmp_path: Path) -> None:
    nan = write_green_finder(tmp_path / "nan.onnx", gain=float("nan"))
    before = threading.active_count()
    with pytest.raises(BackendError, match="nan"):
        annotated(write_disc_clip(tmp_path / "clip.mp4"), nan, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert threading.active_count() == before


def test_an_existing_result_survives_a_run_that_fails(tmp_path: Path, model: Path) -> None:
    clip = write_disc_clip(tmp_path / "clip.mp4", frames=6)
    first = annotated(clip, model, tmp_path / "out")
    overlay, records = first.overlay.read_bytes(), first.records.read_bytes()
    nan = write_green_finder(tmp_path / "nan.onnx", gain=float("nan"))
    with pytest.raises(BackendError):
        annotated(clip, nan, tmp_path / "out")
    assert (first.overlay.read_bytes(), first.records.read_bytes()) == (overlay, records)


def test_a_full_disk_is_one_clear_error(tmp_path: Path, model: Path) -> None:
    clip = write_disc_clip(tmp_path / "clip.mp4", frames=60)
    code = f"""
import resource, signal
from pathlib import Path
from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
segmenter = segmenter_from_onnx({str(model)!r}, backend='onnxruntime')
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
annotate_video(Path({str(clip)!r}), Path({str(tmp_path / "out")!r}), segmenter, AnnotateConfig())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert OutputError.__name__ in done.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*_overlay.mp4"))
    assert not list((tmp_path / "out").glob("*_polyps.jsonl"))


def _heed_ctrl_c() -> None:
    """Background processes of a shell ignore Ctrl-C, and so do their children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_leaves_playable_files_up_to_the_frame_reached(tmp_path: Path, model: Path) -> None:
    clip = write_disc_clip(tmp_path / "long.mp4", frames=4000, options={"preset": "ultrafast"})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "polypstream", "annotate", str(clip), "-o", str(out), "--model", str(model)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=_heed_ctrl_c)
    partial = out / "long_overlay.partial.mp4"
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 50_000):
        threading.Event().wait(0.02)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in message
    assert "Traceback" not in message
    frames = decoded(partial)
    records = records_of(out / "long_polyps.partial.jsonl")
    assert 0 < len(frames) < 4000
    assert abs(len(frames) - len(records)) <= 1
    assert {path.name for path in out.iterdir()} == {
        partial.name,
        "long_polyps.partial.jsonl",
        "long_polyps.detections",
    }


def test_jobs_that_overlap_leave_opencv_its_threads(tmp_path: Path, model: Path) -> None:
    """The second job starts while the first one runs, and ends after it."""
    before = cv2.getNumThreads()
    video = write_disc_clip(tmp_path / "clip.mp4")
    second_started, first_ended = threading.Event(), threading.Event()
    during: list[int] = []

    def job(name: str, on_progress: Callable[[AnnotationProgress], None]) -> None:
        segmenter = segmenter_from_onnx(model, backend="onnxruntime")
        annotate_video(video, tmp_path / name, segmenter, AnnotateConfig(encoding=None), on_progress=on_progress)

    def in_second(_: AnnotationProgress) -> None:
        second_started.set()
        assert first_ended.wait(60)
        during.append(cv2.getNumThreads())

    second = threading.Thread(target=job, args=("second", in_second))
    started: list[bool] = []

    def in_first(_: AnnotationProgress) -> None:
        if not started:
            started.append(True)
            second.start()
            assert second_started.wait(60)

    cv2.setNumThreads(2)
    try:
        job("first", in_first)
        first_ended.set()
        second.join()
        assert set(during) == {1}
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("temporal", [True, False])
def test_detections_that_confirm_nothing_are_a_notice(tmp_path: Path, temporal: bool) -> None:
    segmenter = segmenter_from_onnx(write_green_finder(tmp_path / "tiny.onnx"), backend="onnxruntime")
    gray = make_clip(tmp_path / "gray.mp4")
    report = annotate_video(gray, tmp_path / "out", segmenter, AnnotateConfig(temporal=temporal))
    is_told = any("cannot be assessed (mostly outside the body)" in notice for notice in report.notices)
    assert is_told is temporal
    assert bool(report.frames_with_polyp) is not temporal


def test_clear_detections_are_no_notice(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(clip, SyntheticClip(width=320, height=256, seconds=1))
    segmenter = segmenter_from_onnx(default_model(), backend="onnxruntime")
    report = annotate_video(clip, tmp_path / "out", segmenter, AnnotateConfig())
    assert report.frames_with_polyp
    assert not report.notices
