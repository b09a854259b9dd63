"""Soft overlay: packets as in the source, and contours that libass draws at the recorded positions."""

import json
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from numpy.typing import NDArray

from polypstream.realtime.annotate.job import AnnotateConfig, annotate_video
from polypstream.realtime.annotate.soft_overlay import write_soft_overlay
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.reader import VideoReader
from polypstream.realtime.video.rotation import rotation_of_matrix
from tests.clips import make_clip, read_packets
from tests.models import write_green_finder
from tests.realtime.annotate.test_job import write_disc_clip

WITHOUT = 3
"""Index of the frame without a polyp."""
STILL = 5
"""From this frame on, the contour does not change."""


def ellipse(index: int) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    left = 60 + 5 * min(index, STILL)
    return np.stack([left + 30 * np.cos(angle), 55 + 20 * np.sin(angle)], axis=1).round(2)


def write_records(video: Path, path: Path) -> list[dict[str, Any]]:
    """Records of an ellipse that moves through the video, and rests at the end."""
    with VideoReader(video) as source:
        times_s = [(frame.index, frame.pts_s) for frame in source.frames()]
    records = []
    for index, pts_s in times_s:
        polyp = {"contour": ellipse(index).tolist(), "box": [0, 0, 1, 1], "area": 1885.0, "mean_probability": 0.9}
        records.append({"index": index, "pts_s": pts_s, "polyps": [] if index == WITHOUT else [polyp]})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def drawn(path: Path, size: tuple[int, int], *, at_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Drawing of libass on each frame, on black: uint8 RGB (frames, H, W, 3)."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs FFmpeg: apt-get install ffmpeg")
    filters = subprocess.run(["ffmpeg", "-v", "error", "-filters"], capture_output=True, text=True, check=True).stdout
    if " subtitles " not in filters:
        pytest.skip("needs an FFmpeg with libass")
    width, height = at_size or size
    chain = f"scale={width}:{height},lutyuv=y=16:u=128:v=128,subtitles={path.name}"
    command = ["ffmpeg", "-v", "error", "-i", path.name, "-vf", chain, "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, cwd=path.parent, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def check_drawn(image: NDArray[np.uint8], contour: NDArray[np.float64], *, within: float = 1.0) -> None:
    """Every pixel of the line is near the contour, and the line covers all of it."""
    height, width = image.shape[:2]
    line = image[..., 1] > 120
    fine = np.full((8 * height, 8 * width), 255, np.uint8)
    cv2.polylines(fine, [np.rint(contour * 8).astype(np.int32)], True, 0, 1)
    away = cv2.distanceTransform(fine, cv2.DIST_L2, 5)[4::8, 4::8] / 8
    assert away[line].max() <= within
    from_line = cv2.distanceTransform((~line).astype(np.uint8), cv2.DIST_L2, 5)
    column, row = np.floor(contour).astype(int).T
    assert from_line[row, column].max() <= within
    assert image[line].mean(axis=0)[1] > image[line].mean(axis=0)[[0, 2]].max() + 40


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "anamorphic": {"sample_aspect_ratio": Fraction(4, 3)},
    "rotated": {"rotation": 90},
    "rotated anamorphic": {"rotation": 270, "sample_aspect_ratio": Fraction(4, 3)},
    "upside down": {"rotation": 180},
    "cropped": {"width": 186, "height": 134},
    "variable rate": {"pts": [0, 7, 50, 66, 99, 200, 233, 240], "time_base": Fraction(1, 1000)},
    "29.97": {"pts": [1001 * i for i in range(8)], "time_base": Fraction(1, 30000)},
    "B-frames, sound before 0": {"options": {"bf": "2"}, "audio": "aac", "audio_start": -1024},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_packets_are_those_of_the_source_and_libass_draws_the_contours(tmp_path: Path, changes: dict[str, Any]) -> None:
    settings = {"width": 192, "height": 144, "frames": 8} | changes
    source = make_clip(tmp_path / "clip.mp4", **settings)
    records = write_records(source, tmp_path / "clip_polyps.jsonl")
    target = tmp_path / "clip_soft.mkv"
    assert write_soft_overlay(source, tmp_path / "clip_polyps.jsonl", target, MarkerStyle()) == []
    for stream in range(2 if "audio" in changes else 1):
        assert [data for _, data in read_packets(target, stream)] == [data for _, data in read_packets(source, stream)]
    with VideoReader(source) as before, VideoReader(target) as after:
        for name in ("width", "height", "rotation", "sample_aspect_ratio", "display_matrix"):
            assert getattr(after.info, name) == getattr(before.info, name), name
        times_s = [frame.pts_s for frame in after.frames()]
        rotation, size = rotation_of_matrix(before.info.display_matrix), (before.info.width, before.info.height)
    moved_s = times_s[0] - records[0]["pts_s"]
    assert times_s == pytest.approx([record["pts_s"] + moved_s for record in records], abs=0.0011)
    images = drawn(target, rotation.size(*size))
    for record, image in zip(records, images, strict=True):
        if not record["polyps"]:
            assert image[..., 1].max() < 40
            continue
        contour = np.float32(record["polyps"][0]["contour"])
        check_drawn(image, rotation.contour(contour, width=size[0], height=size[1]))


def test_the_drawing_follows_the_frame_to_its_size_on_screen(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "clip.mp4", width=192, height=144, frames=2, sample_aspect_ratio=Fraction(4, 3))
    records = write_records(source, tmp_path / "clip_polyps.jsonl")
    write_soft_overlay(source, tmp_path / "clip_polyps.jsonl", tmp_path / "clip_soft.mkv", MarkerStyle())
    for record, image in zip(records, drawn(tmp_path / "clip_soft.mkv", (192, 144), at_size=(256, 144)), strict=True):
        contour = np.float32(record["polyps"][0]["contour"])
        check_drawn(image, contour * (256 / 192, 1), within=256 / 192)  # a pixel of the source


@pytest.mark.parametrize(("size", "aspect"), [((192, 144), Fraction(4, 3)), ((720, 576), Fraction(16, 15))])
def test_a_shape_of_pixels_that_only_the_container_states_is_kept(
    tmp_path: Path, size: tuple[int, int], aspect: Fraction
) -> None:
    if shutil.which("ffmpeg") is None:
        pytest.skip("needs FFmpeg: apt-get install ffmpeg")
    made = make_clip(tmp_path / "made.mp4", width=size[0], height=size[1], frames=3, audio="aac")
    source, shape = tmp_path / "clip.mp4", size[0] * aspect / size[1]
    command = ["ffmpeg", "-v", "error", "-i", made, "-map", "0", "-c", "copy", "-aspect", str(shape).replace("/", ":")]
    subprocess.run([*command, source], check=True)
    write_records(source, tmp_path / "clip_polyps.jsonl")
    target = tmp_path / "clip_soft.mkv"
    assert write_soft_overlay(source, tmp_path / "clip_polyps.jsonl", target, MarkerStyle()) == []
    assert [data for _, data in read_packets(target, 0)] == [data for _, data in read_packets(source, 0)]
    with VideoReader(source) as before, VideoReader(target) as after:
        assert before.info.sample_aspect_ratio == after.info.sample_aspect_ratio == aspect
        assert before.video.codec_context.sample_aspect_ratio is None
    probed = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", target], capture_output=True, text=True, check=True
    )
    assert "stereo" not in probed.stdout.lower()


def test_the_track_is_on_by_default_and_runs_of_equal_contours_are_one_event(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "clip.mkv", width=192, height=144, frames=10, subtitles="subrip", attachment=True)
    write_records(source, tmp_path / "clip_polyps.jsonl")
    write_soft_overlay(source, tmp_path / "clip_polyps.jsonl", tmp_path / "clip_soft.mkv", MarkerStyle())
    with av.open(str(tmp_path / "clip_soft.mkv")) as container:
        words, track = container.streams.subtitles
        assert (track.codec_context.name, track.metadata["title"], track.metadata["language"]) == (
            "ssa",
            "Polyps",
            "zxx",
        )
        assert track.disposition & Disposition.default
        assert not words.disposition & Disposition.default
        assert any(stream.type == "attachment" for stream in container.streams)
        events = [packet for packet in container.demux(track) if packet.size]
    assert len(events) == 2 * 5  # frames 0, 1, 2, 4 and the run from 5 on, an edge and a line each
    starts_ms = [0, 30, 70, 150, 190]
    assert [packet.pts for packet in events[::2]] == starts_ms
    assert events[-1].pts + events[-1].duration == 400
    assert b"fn" not in bytes(events[0])


def test_annotate_writes_a_soft_overlay_beside_its_records(tmp_path: Path) -> None:
    source = write_disc_clip(tmp_path / "clip.mp4", audio=True, options={"bf": "3"})
    model = write_green_finder(tmp_path / "green.onnx")
    config = AnnotateConfig(encoding=None, soft_overlay=True)
    report = annotate_video(source, tmp_path / "out", segmenter_from_onnx(model), config)
    assert report.overlay is None
    assert report.soft_overlay == tmp_path / "out" / "clip_soft.mkv"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "clip_polyps.jsonl",
        "clip_soft.mkv",
        "clip_summary.json",
    ]
    lines = [json.loads(line) for line in report.records.read_text().splitlines()]
    for record, image in zip(lines, drawn(report.soft_overlay, (192, 144)), strict=True):
        for polyp in record["polyps"]:
            check_drawn(image, np.float32(polyp["contour"]))
        assert bool(record["polyps"]) == bool((image[..., 1] > 120).any())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("bframes.avi", {"codec": "mpeg4", "options": {"bf": "2"}}),
        ("h264.avi", {"options": {"bf": "2"}}),
        ("stream.ts", {"options": {"bf": "2"}, "audio": "mp2"}),
        ("clip.mov", {"codec": "mjpeg", "pixel_format": "yuvj420p", "audio": "pcm_s16le"}),
    ],
)
def test_other_containers_keep_their_times(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    source = make_clip(tmp_path / name, width=192, height=144, **changes)
    write_records(source, tmp_path / "clip_polyps.jsonl")
    write_soft_overlay(source, tmp_path / "clip_polyps.jsonl", tmp_path / "clip_soft.mkv", MarkerStyle())
    with VideoReader(source) as before, VideoReader(tmp_path / "clip_soft.mkv") as after:
        expected = [(frame.pts_s, frame.image.tobytes()) for frame in before.frames()]
        copied = [(frame.pts_s, frame.image.tobytes()) for frame in after.frames()]
    assert [time_s for time_s, _ in copied] == pytest.approx([time_s for time_s, _ in expected], abs=0.0011)
    assert [pixels for _, pixels in copied] == [pixels for _, pixels in expected]
