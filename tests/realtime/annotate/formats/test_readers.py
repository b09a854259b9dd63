"""The target tool of each export reads the same polyps at the same frames: real clips, real readers."""

import csv
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.metrics import Overlap
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import EXPORTERS, export_recording
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.outlines.contours import mask_from_polyps, polyp_from_contour
from polypstream.realtime.video.reader import VideoReader
from tests.recordings import CLIPS, annotate, two_polyps

READERS = os.environ.get("POLYPSTREAM_TEST_READERS")
"""A Python with Datumaro and label-studio-sdk."""
SCRIPT = Path(__file__).parents[3] / "readers" / "read_export.py"
needs_readers = pytest.mark.skipif(READERS is None, reason="POLYPSTREAM_TEST_READERS names no Python with readers")
WIDTH, HEIGHT = 320, 240


@pytest.fixture(params=CLIPS, scope="module")
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return CLIPS[request.param](tmp_path_factory.mktemp("clips"))


@pytest.fixture
def recording(video: Path, tmp_path: Path) -> Recording:
    return annotate(video, tmp_path)


def export(recording: Recording, wanted: ExportFormat) -> Path:
    return export_recording(recording, [wanted], recording.records.parent)[0]


def read_elsewhere(kind: str, path: Path) -> dict[int, dict[int, list[float]]]:
    """Result of another library: values of each polyp by frame and track."""
    assert READERS is not None
    done = subprocess.run([READERS, SCRIPT, kind, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen: dict[str, list[list[float]]] = json.loads(done.stdout.splitlines()[-1])
    return {int(frame): {int(track): numbers for track, *numbers in found} for frame, found in seen.items()}


def frames_and_tracks(seen: dict[int, dict[int, Any]]) -> dict[int, set[int]]:
    return {frame: set(tracks) for frame, tracks in sorted(seen.items()) if tracks}


EXPECTED = {index: set(two_polyps(index)) for index in range(12) if two_polyps(index)}


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return Overlap.of(one, other).iou


def mask_of(index: int, track: int) -> NDArray[np.bool_]:
    """The mask of a polyp whose contour is rounded as records round it."""
    contour = two_polyps(index)[track].contour.round(2)
    return mask_from_polyps([polyp_from_contour(contour, score=0)], width=WIDTH, height=HEIGHT)


def test_the_clips_have_the_intended_properties(tmp_path: Path) -> None:
    recordings = {name: annotate(make(tmp_path), tmp_path / name) for name, make in CLIPS.items()}
    assert [each.is_constant_rate for each in recordings.values()] == [False, True, True]
    assert str(recordings["ntsc"].rate) == "30000/1001"
    assert [len(each.warnings) for each in recordings.values()] == [1, 0, 0]
    with av.open(str(tmp_path / "negative.ts")) as container:
        frames = list(container.decode(video=0))
    assert (frames[0].pts or 0) < 0
    assert {int(frame.pict_type) for frame in frames} == {1, 2, 3}  # I, P and B


def test_the_frame_table_has_the_times_of_the_file(video: Path, recording: Recording) -> None:
    table = export_recording(recording, [ExportFormat.CSV], recording.records.parent)[-1]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with VideoReader(video) as reader:
        offset_s = reader.info.start_offset_s
        frames = [(frame.index, frame.pts, frame.pts_s, str(frame.time_base)) for frame in reader.frames()]
    assert [(int(r["frame"]), int(r["pts"]), r["time_base"]) for r in rows] == [(i, pts, b) for i, pts, _, b in frames]
    assert [float(r["seconds"]) for r in rows] == pytest.approx([pts_s for _, _, pts_s, _ in frames], abs=1e-9)
    assert float(rows[0]["file_seconds"]) == pytest.approx(offset_s, abs=1e-6)
    assert rows[7]["name"] == f"{video.stem}_000007"


def test_csv(recording: Recording) -> None:
    with export(recording, ExportFormat.CSV).open(newline="") as file:
        rows = list(csv.DictReader(file))
    seen: dict[int, set[int]] = {}
    for row in rows:
        index, track = int(row["frame"]), int(row["track"])
        seen.setdefault(index, set()).add(track)
        contour = np.array(row["contour"].split(), np.float32).reshape(-1, 2)
        np.testing.assert_allclose(contour, two_polyps(index)[track].contour, atol=0.006)
    assert seen == EXPECTED


def test_coco_in_pycocotools(recording: Recording) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    coco = pycocotools.COCO(export(recording, ExportFormat.COCO) / "annotations" / "instances_default.json")
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [
        f"{recording.name}_{index:06d}.png" for index in range(12)
    ]
    seen: dict[int, set[int]] = {}
    for annotation in coco.loadAnns(coco.getAnnIds()):
        index, track = coco.imgs[annotation["image_id"]]["frame_id"], annotation["instance_id"]
        seen.setdefault(index, set()).add(track)
        assert annotation["attributes"]["track_id"] == track
        assert annotation["category_id"] == 1
        assert iou(coco.annToMask(annotation) > 0, mask_of(index, track)) >= 0.99
    assert seen == EXPECTED
    assert len({annotation["id"] for annotation in coco.dataset["annotations"]}) == sum(map(len, EXPECTED.values()))


@needs_readers
def test_coco_in_datumaro(recording: Recording) -> None:
    compare_polygons(read_elsewhere("coco", export(recording, ExportFormat.COCO)))


@needs_readers
def test_cvat_in_datumaro(recording: Recording) -> None:
    path = export(recording, ExportFormat.CVAT)
    alone = path.with_name("alone")
    alone.mkdir()
    path.rename(alone / path.name)
    compare_polygons(read_elsewhere("cvat", alone))


def compare_polygons(seen: dict[int, dict[int, list[float]]]) -> None:
    assert frames_and_tracks(seen) == EXPECTED
    for index, tracks in seen.items():
        for track, numbers in tracks.items():
            contour = np.array(numbers, np.float32).reshape(-1, 2)
            mask = mask_from_polyps([polyp_from_contour(contour, score=0)], width=WIDTH, height=HEIGHT)
            assert iou(mask, mask_of(index, track)) >= 0.99


def test_yolo_in_supervision(video: Path, recording: Recording) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    folder = export(recording, ExportFormat.YOLO)
    with VideoReader(video) as reader:
        for frame in reader.frames():
            name = folder / "images" / "train" / f"{recording.frame_name(frame.index)}.png"
            cv2.imwrite(str(name), frame.image[:, :, ::-1])
    places = (folder / "images" / "train", folder / "labels" / "train", folder / "data.yaml")
    dataset = supervision.DetectionDataset.from_yolo(*map(str, places), force_masks=True)
    assert dataset.classes == ["Polyp"]
    assert len(dataset) == 12
    for name, _, detections in dataset:
        index = int(Path(name).stem.rpartition("_")[2])
        assert len(detections) == len(two_polyps(index))
        for mask, track in zip(detections.mask if len(detections) else (), two_polyps(index), strict=True):
            assert iou(mask, mask_of(index, track)) >= 0.95  # its polygons are rounded to pixels


@needs_readers
def test_label_studio_in_its_sdk(recording: Recording) -> None:
    path = export(recording, ExportFormat.LABEL_STUDIO)
    seen = read_elsewhere("label-studio", path)
    assert frames_and_tracks(seen) == EXPECTED
    for index, tracks in seen.items():
        for track, (left, top, right, bottom) in tracks.items():
            x, y, across, down = two_polyps(index)[track].box
            shares = np.array([x / WIDTH, y / HEIGHT, (x + across) / WIDTH, (y + down) / HEIGHT])
            np.testing.assert_allclose([left, top, right, bottom], 100 * shares, atol=0.01)
    (task,) = json.loads(path.read_text(encoding="utf-8"))
    assert task["data"]["fps"] == pytest.approx(float(recording.rate), abs=1e-5)
    assert task["predictions"][0]["result"][0]["value"]["framesCount"] == 12


def test_voc(recording: Recording) -> None:
    cv2_boxes = {}
    for path in sorted(export(recording, ExportFormat.VOC).glob("*.xml")):
        import xml.etree.ElementTree as ET

        root = ET.parse(path).getroot()
        assert root.findtext("filename") == f"{path.stem}.png"
        assert (root.findtext("size/width"), root.findtext("size/height")) == ("320", "240")
        index = int(path.stem.rpartition("_")[2])
        cv2_boxes[index] = {
            int((each.findtext("unique_id") or "").rpartition("_")[2]): [
                int(each.findtext(f"bndbox/{side}") or -1) for side in ("xmin", "ymin", "xmax", "ymax")
            ]
            for each in root.iter("object")
        }
    assert list(cv2_boxes) == list(range(12))
    assert frames_and_tracks(cv2_boxes) == EXPECTED
    for index, found in cv2_boxes.items():
        for track, (left, top, right, bottom) in found.items():
            x, y, across, down = two_polyps(index)[track].box
            edges = np.array([x, y, min(x + across, WIDTH - 1), min(y + down, HEIGHT - 1)])
            np.testing.assert_allclose([left, top, right, bottom], edges, atol=0.51)


def test_masks(recording: Recording) -> None:
    paths = sorted(export(recording, ExportFormat.MASKS).glob("*.png"))
    assert [path.stem for path in paths] == [recording.frame_name(index) for index in range(12)]
    for index, path in enumerate(paths):
        values = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert values is not None
        assert (values.shape, values.dtype) == ((HEIGHT, WIDTH), np.uint8)
        assert set(np.unique(values)) == {0, *two_polyps(index)}
        for track in two_polyps(index):
            np.testing.assert_array_equal(values == track, mask_of(index, track))


def test_webvtt_in_ffmpeg(recording: Recording) -> None:
    with av.open(str(export(recording, ExportFormat.WEBVTT))) as container:
        (stream,) = container.streams.subtitles
        cues = [
            (float(packet.pts * packet.time_base), float(packet.duration * packet.time_base), bytes(packet).decode())
            for packet in container.demux(stream)
            if packet.size and packet.pts is not None and packet.duration is not None
        ]
    (first_s, first_length_s, first), (second_s, second_length_s, second) = cues
    assert "Polyp 1" in first
    assert "Polyp 2" in second
    assert (first_s, second_s) == pytest.approx((0, recording.times_s[8]), abs=0.001)
    end = recording.duration_s
    assert (first_s + first_length_s, second_s + second_length_s) == pytest.approx((end, end), abs=0.002)


def test_every_format_has_its_own_name() -> None:
    suffixes = [exporter.suffix for exporter in EXPORTERS.values()]
    assert len({Path(f"clip{suffix}").name for suffix in suffixes}) == len(ExportFormat) - 1
