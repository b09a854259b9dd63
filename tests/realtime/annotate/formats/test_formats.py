"""Details of exports that tools depend on: closed tracks, keyframes, holes, upright frames, timecode, whole files."""

import csv
import json
import xml.etree.ElementTree as ET
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from polypstream.content import Crop
from polypstream.errors import DatasetError, OutputError
from polypstream.metrics import Overlap
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.coco import filled_by_readers, rle_of, segmentation_of
from polypstream.realtime.annotate.formats.cvat import write_cvat
from polypstream.realtime.annotate.formats.export import EXPORTERS, export_recording
from polypstream.realtime.annotate.formats.keyframes import aligned, interpolated, keyframes_of
from polypstream.realtime.annotate.formats.markers import Timecode
from polypstream.realtime.annotate.formats.recording import Recording, open_recording
from polypstream.realtime.annotate.records import read_records
from polypstream.realtime.outlines.contours import mask_from_polyps, polyp_from_contour
from tests.clips import make_clip
from tests.recordings import CLIPS, Found, annotate, ellipse, two_polyps


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    return annotate(CLIPS["ntsc"](tmp_path), tmp_path / "out")


def polygons(path: Path) -> dict[int, list[ET.Element]]:
    return {int(track.get("id", 0)): list(track) for track in ET.parse(path).getroot().iter("track")}


def test_cvat_tracks_are_closed_where_the_polyp_is_not_found(recording: Recording, tmp_path: Path) -> None:
    write_cvat(recording, tmp_path / "cvat.xml")
    tracks = polygons(tmp_path / "cvat.xml")
    outside = {
        id: [int(s.get("frame", -1)) for s in shapes if s.get("outside") == "1"] for id, shapes in tracks.items()
    }
    assert outside == {1: [5], 2: []}  # both are found in the last frame, after which there is none
    frames = {id: [int(shape.get("frame", -1)) for shape in shapes] for id, shapes in tracks.items()}
    assert frames == {1: [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11], 2: [8, 9, 10, 11]}
    for shapes in tracks.values():
        for shape in shapes:
            assert [each.get("name") for each in shape] == ["track_id", "score"]
            assert shape.get("keyframe") == "1" or shape.get("outside") == "0"
    assert tracks[1][6].get("keyframe") == "1"  # found again


def test_cvat_computes_the_frames_between_keyframes_to_within_the_tolerance(tmp_path: Path) -> None:
    def found(index: int) -> Found:
        return {1: polyp_from_contour(ellipse(60 + index, 50, across=20 + index, down=15, count=30), score=0.5)}

    recording = annotate(make_clip(tmp_path / "clip.mp4", frames=40, width=160, height=120), tmp_path / "out", found)
    for tolerance in (0.0, 0.5):
        write_cvat(recording, tmp_path / "cvat.xml", tolerance_px=tolerance)
        (shapes,) = polygons(tmp_path / "cvat.xml").values()
        keyframes = [number for number, shape in enumerate(shapes) if shape.get("keyframe") == "1"]
        assert (keyframes[0], keyframes[-1]) == (0, 39)
        assert len(keyframes) == 40 if tolerance == 0 else len(keyframes) < 10
    points = [
        np.array([pair.split(",") for pair in shape.get("points", "").split(";")], np.float32) for shape in shapes
    ]
    for before, after in pairwise(keyframes):
        for number in range(before + 1, after):
            seen = interpolated(points[before], points[after], (number - before) / (after - before))
            (real,) = found(number).values()
            assert distance(seen, real.contour) < 0.55


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest distance of a vertex of one polygon from the other polygon, measured by OpenCV."""
    return max(abs(cv2.pointPolygonTest(other, (float(x), float(y)), True)) for x, y in one)


def test_contours_that_cvat_cannot_interpolate_are_keyframes() -> None:
    rng = np.random.default_rng(0)
    contours = [ellipse(60, 60, across=20, down=20) + rng.normal(0, 3, 2).astype(np.float32) for _ in range(10)]
    assert keyframes_of(contours, tolerance_px=0.5) == list(range(10))


@given(st.integers(3, 60), st.integers(0, 59))
def test_aligned_contours_are_the_same_polygons(count: int, shift: int) -> None:
    contour = ellipse(30, 30, across=12, down=8, count=count)
    rolled = np.roll(contour, shift, axis=0) + np.float32(5)
    np.testing.assert_allclose(aligned(rolled, contour), contour + np.float32(5), atol=1e-4)


def c_shape() -> NDArray[np.float32]:
    """A ring whose ends overlap: its interior has a hole, which no polygon without crossings can represent."""
    angle = np.linspace(0.1, 2 * np.pi + 0.4, 80)
    outer = np.column_stack((np.cos(angle), np.sin(angle))) * 40
    inner = np.column_stack((np.cos(angle[::-1]), np.sin(angle[::-1]))) * 20
    return (np.vstack((outer, inner)) + np.array([70, 60])).astype(np.float32)


def test_coco_has_run_lengths_where_there_are_holes_and_polygons_elsewhere() -> None:
    mask_tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    ring = segmentation_of(c_shape(), width=160, height=120)
    assert isinstance(ring, dict)
    mask = mask_from_polyps([polyp_from_contour(c_shape(), score=0)], width=160, height=120)
    assert not mask[60, 70]
    np.testing.assert_array_equal(mask_tools.decode(mask_tools.frPyObjects(ring, 120, 160)) > 0, mask)
    assert isinstance(segmentation_of(ellipse(60, 60, across=30, down=20), width=160, height=120), list)


@given(st.integers(0, 2**32 - 1), st.floats(1.5, 90), st.integers(3, 60))
def test_coco_polygons_are_filled_as_pycocotools_fills_them(seed: int, radius: float, count: int) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    rng, width, height = np.random.default_rng(seed), 160, 120
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = radius * rng.uniform(0.7, 1.3, count)
    x = rng.uniform(0, width) + radii * np.cos(angles)
    y = rng.uniform(0, height) + radii * np.sin(angles)
    contour = np.round(np.clip(np.column_stack((x, y)), 0, (width, height)), 2).astype(np.float32)
    polygon = np.round(contour.astype(np.float64), 2)
    (runs,) = mask_tools.frPyObjects([polygon.ravel().tolist()], height, width)
    filled = mask_tools.decode(runs) > 0
    left, top = np.floor(polygon.min(axis=0)).astype(int).tolist()
    box = Crop(left=min(left, width - 1), top=min(top, height - 1), right=width, bottom=height)
    np.testing.assert_array_equal(filled_by_readers(polygon, box), box.of(filled))
    assert filled.sum() == box.of(filled).sum()

    mask = mask_from_polyps([polyp_from_contour(contour, score=0)], width=width, height=height)
    segmentation = segmentation_of(contour, width=width, height=height)
    if mask.any():
        runs = mask_tools.frPyObjects(segmentation, height, width)
        found = mask_tools.decode(runs if isinstance(segmentation, dict) else runs[0]) > 0
        assert Overlap.of(mask, found).iou >= 0.99


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (7, 5), (30, 20)]), st.sampled_from([0.0, 0.3, 1.0]))
def test_run_lengths_are_the_mask(seed: int, shape: tuple[int, int], share: float) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    mask = np.random.default_rng(seed).random(shape) < share
    np.testing.assert_array_equal(mask_tools.decode(mask_tools.frPyObjects(rle_of(mask), *shape)) > 0, mask)


@pytest.mark.parametrize("side_px", [40, 200])
def test_polygons_and_run_lengths_agree(side_px: int) -> None:
    mask_tools = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    contour = ellipse(320.3, 240.7, across=side_px / 2, down=side_px * 0.4)
    polygon = segmentation_of(contour, width=640, height=480)
    from_polygon = mask_tools.decode(mask_tools.merge(mask_tools.frPyObjects(polygon, 480, 640))) > 0
    mask = mask_from_polyps([polyp_from_contour(contour, score=0)], width=640, height=480)
    from_runs = mask_tools.decode(mask_tools.frPyObjects(rle_of(mask), 480, 640)) > 0
    np.testing.assert_array_equal(from_runs, mask)
    assert Overlap.of(from_runs, from_polygon).iou >= 0.99


@pytest.mark.parametrize("rotation", [0, 90, 180, -90])
def test_exports_lie_on_the_frame_as_players_rotate_it(tmp_path: Path, rotation: int) -> None:
    """OpenCV rotates images on reading; the exported mask must be rotated like the brightest corner."""
    video = make_clip(tmp_path / "clip.mp4", frames=2, width=160, height=120, rotation=rotation)
    corner = {1: polyp_from_contour(ellipse(25, 20, across=20, down=15), score=0.5)}
    recording = annotate(video, tmp_path / "out", lambda index: corner)
    (folder, _) = export_recording(recording, [ExportFormat.MASKS], tmp_path / "out")
    mask = cv2.imread(str(folder / "clip_000000.png"), cv2.IMREAD_UNCHANGED)
    capture = cv2.VideoCapture(str(video))
    _, upright = capture.read()
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 0)
    capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
    _, coded = capture.read()
    assert mask is not None
    assert (mask.shape[1], mask.shape[0]) == recording.size == (upright.shape[1], upright.shape[0])
    coded_mask = mask_from_polyps(corner.values(), width=160, height=120)
    np.testing.assert_allclose(upright[mask > 0].mean(axis=0), coded[coded_mask].mean(axis=0), atol=1)


def test_yolo_labels_are_relative_and_negatives_are_empty(recording: Recording, tmp_path: Path) -> None:
    (folder, _) = export_recording(recording, [ExportFormat.YOLO], tmp_path)
    labels = sorted((folder / "labels" / "train").glob("*.txt"))
    assert [path.stem for path in labels] == [recording.frame_name(index) for index in range(12)]
    assert [len(path.read_text().splitlines()) for path in labels] == [len(two_polyps(index)) for index in range(12)]
    values = np.array(
        [float(word) for path in labels for line in path.read_text().splitlines() for word in line.split()[1:]]
    )
    assert values.min() >= 0
    assert values.max() == 1  # the second polyp lies at the edge


@pytest.mark.parametrize(
    ("rate", "frame", "text"),
    [
        (Fraction(25), 0, "00:00:00:00"),
        (Fraction(25), 90_000, "01:00:00:00"),
        (Fraction(24000, 1001), 24, "00:00:01:00"),
        (Fraction(30000, 1001), 1799, "00:00:59;29"),
        (Fraction(30000, 1001), 1800, "00:01:00;02"),
        (Fraction(30000, 1001), 17981, "00:09:59;29"),
        (Fraction(30000, 1001), 17982, "00:10:00;00"),
        (Fraction(30000, 1001), 107_892, "01:00:00;00"),
        (Fraction(60000, 1001), 3600, "00:01:00;04"),
        (Fraction(30), 1800, "00:01:00:00"),
    ],
)
def test_timecode(rate: Fraction, frame: int, text: str) -> None:
    clock = Timecode.of(rate)
    assert clock.text(frame) == text


@given(st.integers(0, 200_000), st.sampled_from([Fraction(30000, 1001), Fraction(60000, 1001)]))
def test_drop_frame_timecode_follows_the_clock(frame: int, rate: Fraction) -> None:
    clock = Timecode.of(rate)
    hours, minutes, seconds, frames = (int(part) for part in clock.text(frame).replace(";", ":").split(":"))
    shown_s = hours * 3600 + minutes * 60 + seconds + frames / clock.frames_per_second
    assert abs(shown_s - frame / rate) < 0.08  # four numbers at 59.94 are 67 ms
    assert not (frames < clock.drops and seconds == 0 and minutes % 10)


def test_edl_markers(recording: Recording, tmp_path: Path) -> None:
    (path, _) = export_recording(recording, [ExportFormat.EDL], tmp_path)
    lines = path.read_text().splitlines()
    assert lines[:2] == ["TITLE: ntsc", "FCM: DROP FRAME"]
    assert [line for line in lines if " C " in line] == [
        "001  AX       V     C        00:00:00;00 00:00:00;12 01:00:00;00 01:00:00;12",
        "002  AX       V     C        00:00:00;08 00:00:00;12 01:00:00;08 01:00:00;12",
    ]
    assert sum(line.startswith(" |C:ResolveColor") for line in lines) == 2


def test_edl_markers_of_a_variable_rate_follow_the_times(tmp_path: Path) -> None:
    recording = annotate(CLIPS["vfr"](tmp_path), tmp_path / "out")
    (path, _) = export_recording(recording, [ExportFormat.EDL], tmp_path)
    second = [line for line in path.read_text().splitlines() if " C " in line][1].split()[4]
    frame = round(recording.times_s[8] * float(recording.rate))
    assert second == f"00:00:00:{frame:02d}"


def test_records_without_tracks_can_be_exported(recording: Recording, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in recording.records.read_text().splitlines()]
    for line in lines:
        for polyp in line["polyps"]:
            del polyp["track"]
    recording.records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert {track for record in read_records(recording.records) for track in record.tracks} == {None}
    written = export_recording(recording, set(ExportFormat) - {ExportFormat.DICOM_SEG}, tmp_path)
    assert len(written) == len(EXPORTERS)  # the table of frames too, but no Segmentation
    values = np.unique([cv2.imread(str(path)) for path in (tmp_path / "ntsc_masks").glob("*.png")])
    assert values.tolist() == [0, 255]


def test_contours_that_were_moved_from_other_frames_are_marked(recording: Recording, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in recording.records.read_text().splitlines()]
    lines[3]["polyps"][0]["interpolated"] = True
    recording.records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    table, folder, _ = export_recording(recording, [ExportFormat.CSV, ExportFormat.COCO], tmp_path)
    with table.open(newline="") as file:
        assert [row["frame"] for row in csv.DictReader(file) if row["interpolated"] == "1"] == ["3"]
    coco = json.loads((folder / "annotations" / "instances_default.json").read_text())
    marked = [each["image_id"] for each in coco["annotations"] if each["attributes"]["interpolated"]]
    assert marked == [4]


def test_a_failed_export_leaves_the_earlier_one(recording: Recording, tmp_path: Path) -> None:
    (folder, _) = export_recording(recording, [ExportFormat.MASKS], tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    text = recording.records.read_text()
    recording.records.write_text(text[: len(text) // 2] + "\n")
    with pytest.raises(DatasetError, match="is not a record"):
        export_recording(recording, [ExportFormat.MASKS], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    assert len(list(folder.iterdir())) == 12
    with pytest.raises(OutputError, match="cannot be written"):
        export_recording(recording, [ExportFormat.MASKS], recording.records)


def test_records_and_summary_that_do_not_belong_together_are_refused(recording: Recording) -> None:
    lines = recording.records.read_text().splitlines(keepends=True)
    recording.records.write_text("".join(lines[:-1]))
    with pytest.raises(DatasetError, match="11 frames, its summary 12"):
        open_recording(recording.records)
    recording.records.write_text("".join([*lines[:3], *lines[4:]]))
    with pytest.raises(DatasetError, match=r"line 4 of .* is frame 4"):
        open_recording(recording.records)
