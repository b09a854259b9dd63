"""Export → import: the masks that were exported, on the frames that were annotated."""

import csv
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.dataset import Boxes, ImportConfig, import_labels
from polypstream.evaluation.imports.read import LabelOptions
from polypstream.evaluation.imports.video import VideoFrames, upright_frames
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import export_recording
from polypstream.realtime.annotate.formats.recording import Recording
from polypstream.realtime.outlines.contours import mask_from_polyps
from polypstream.train.image_files import read_mask, read_rgb
from tests.clips import make_clip
from tests.recordings import CLIPS, annotate, two_polyps

EVERYTHING = ImportConfig(max_clean_share=1)
WITH_OUTLINES = (ExportFormat.COCO, ExportFormat.CVAT, ExportFormat.YOLO, ExportFormat.MASKS)


def rotated(folder: Path) -> Path:
    return make_clip(folder / "rotated.mp4", width=320, height=240, rotation=90)


@pytest.fixture(params=[*CLIPS, "rotated"], scope="module")
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recording]:
    folder = tmp_path_factory.mktemp("clips")
    video = rotated(folder) if request.param == "rotated" else CLIPS[request.param](folder)
    return video, annotate(video, folder / "out")


def exported(recording: Recording, kind: ExportFormat, folder: Path) -> Path:
    return export_recording(recording, [kind], folder)[0]


def true_masks(recording: Recording) -> list[NDArray[np.bool_]]:
    width, height = recording.size
    return [
        mask_from_polyps([each.polyp for each in frame.polyps], width=width, height=height)
        for frame in recording.frames()
    ]


@pytest.mark.parametrize("kind", WITH_OUTLINES)
def test_masks_are_identical_after_export_and_import(
    recording: tuple[Path, Recording], kind: ExportFormat, tmp_path: Path
) -> None:
    video, source = recording
    report = import_labels(exported(source, kind, tmp_path), video, tmp_path / "data", EVERYTHING)
    assert (report.polyp_frames, report.clean_frames) == (10, 2)
    for index, mask in enumerate(true_masks(source)):
        name = f"{video.stem}_{index:06d}.png"
        assert np.array_equal(read_mask(tmp_path / "data" / "masks" / name), mask), name


def test_frames_are_those_of_the_video_upright_and_without_loss(
    recording: tuple[Path, Recording], tmp_path: Path
) -> None:
    video, source = recording
    import_labels(exported(source, ExportFormat.COCO, tmp_path), video, tmp_path / "data", EVERYTHING)
    for index, rgb in upright_frames(video):
        stored = read_rgb(tmp_path / "data" / "images" / f"{video.stem}_{index:06d}.png")
        assert np.array_equal(stored, rgb)
        assert stored.shape[1::-1] == source.size


@pytest.mark.parametrize("kind", [ExportFormat.CVAT, ExportFormat.YOLO, ExportFormat.MASKS])
def test_archives_are_read(recording: tuple[Path, Recording], kind: ExportFormat, tmp_path: Path) -> None:
    video, source = recording
    place = exported(source, kind, tmp_path)
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        if place.is_file():
            file.write(place, "annotations.xml")
        for path in place.rglob("*"):
            file.write(path, path.relative_to(place))
    frames = VideoFrames.of(video)
    with LabelOptions().open(archive, video=video.name, size=frames.size, times_s=frames.times_s) as labels:
        counts = [len(labels.masks(index, width=frames.size[0], height=frames.size[1])) for index in range(12)]
    assert counts == [len(two_polyps(index)) for index in range(12)]


@pytest.mark.parametrize("kind", [ExportFormat.LABEL_STUDIO, ExportFormat.VOC])
def test_boxes_are_refused_or_filled(recording: tuple[Path, Recording], kind: ExportFormat, tmp_path: Path) -> None:
    video, source = recording
    export = exported(source, kind, tmp_path)
    with pytest.raises(DatasetError, match=r"14 boxes.*--boxes fill"):
        import_labels(export, video, tmp_path / "data", EVERYTHING)
    filled = ImportConfig(max_clean_share=1, boxes=Boxes.FILL)
    report = import_labels(export, video, tmp_path / "data", filled)
    assert (report.polyp_frames, report.clean_frames) == (10, 2)
    assert any("rectangles" in notice for notice in report.notices)
    mask = read_mask(tmp_path / "data" / "masks" / f"{video.stem}_000000.png")
    rows, columns = np.nonzero(mask)
    assert mask.sum() == np.ptp(rows + 0) * np.ptp(columns) + np.ptp(rows) + np.ptp(columns) + 1


@pytest.mark.parametrize("kind", WITH_OUTLINES)
def test_polyps_keep_their_tracks(recording: tuple[Path, Recording], kind: ExportFormat, tmp_path: Path) -> None:
    if kind is ExportFormat.YOLO:
        pytest.skip("Ultralytics' format has no tracks")
    video, source = recording
    frames = VideoFrames.of(video)
    export = exported(source, kind, tmp_path)
    with LabelOptions().open(export, video=video.name, size=frames.size, times_s=frames.times_s) as labels:
        assert [sorted(shape.track or "" for shape in labels.at(index)) for index in (4, 5, 8)] == [
            ["1"],
            [],
            ["1", "2"],
        ]


@pytest.mark.parametrize("kind", [ExportFormat.COCO, ExportFormat.CVAT, ExportFormat.LABEL_STUDIO])
def test_labels_of_a_longer_video_are_refused(kind: ExportFormat, tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240)
    export = exported(annotate(video, tmp_path / "out"), kind, tmp_path / "export")
    (tmp_path / "export" / "clip_frames.csv").unlink()
    make_clip(video, width=320, height=240, frames=11)
    with pytest.raises(DatasetError, match=r"12 frames, clip\.mp4 has 11|labels frame 11"):
        import_labels(export, video, tmp_path / "data", ImportConfig(boxes=Boxes.FILL))
    assert not (tmp_path / "data" / "images").exists()


@pytest.mark.parametrize("kind", [ExportFormat.COCO, ExportFormat.CVAT, ExportFormat.MASKS])
def test_labels_of_another_size_are_refused(kind: ExportFormat, tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240)
    export = exported(annotate(video, tmp_path / "out"), kind, tmp_path / "export")
    make_clip(video, width=240, height=320)
    with pytest.raises(DatasetError, match="320x240"):
        import_labels(export, video, tmp_path / "data")


def test_a_video_whose_frames_have_other_times_than_the_table_is_refused(tmp_path: Path) -> None:
    video = CLIPS["vfr"](tmp_path)
    export = exported(annotate(video, tmp_path / "out"), ExportFormat.YOLO, tmp_path / "export")
    make_clip(video, width=320, height=240)
    with pytest.raises(DatasetError, match=r"frame 3 \(vfr_000003\) is at 0.100 s .* 0.120 s"):
        import_labels(export, video, tmp_path / "data")


def test_another_file_with_the_name_of_the_table_is_ignored(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240)
    export = exported(annotate(video, tmp_path / "out"), ExportFormat.YOLO, tmp_path / "export")
    (tmp_path / "export" / "clip_frames.csv").write_text("frame,polyp\n0,1\n")
    assert import_labels(export, video, tmp_path / "data").polyp_frames == 10


def test_clean_frames_are_thinned_evenly(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240, frames=40)
    source = annotate(video, tmp_path / "out", lambda index: two_polyps(0) if index < 6 else {})
    export = exported(source, ExportFormat.COCO, tmp_path)

    def clean(**changes: object) -> list[int]:
        folder = tmp_path / "data"
        report = import_labels(export, video, folder, ImportConfig(**changes))  # type: ignore[arg-type]
        files = sorted(path.stem for path in (folder / "masks").iterdir())
        assert len(files) == report.polyp_frames + report.clean_frames
        with (folder / "splits.csv").open(newline="") as lines:
            assert sorted(row["image"] for row in csv.DictReader(lines)) == files
        numbers = [int(name.rsplit("_", 1)[1]) for name in files]
        return [number for number in numbers if number >= 6]

    assert len(clean(max_clean_share=1.0)) == 34
    assert len(half := clean(max_clean_share=0.5)) == 6
    assert max(np.diff(half)) <= 7
    assert len(clean(max_clean_share=0.25)) == 2
    assert clean(max_clean_share=0.0) == []
    assert clean(every=10, max_clean_share=1.0) == [10, 20, 30]


def test_masks_are_black_and_white_png(tmp_path: Path) -> None:
    video = make_clip(tmp_path / "clip.mp4", width=320, height=240)
    export = exported(annotate(video, tmp_path / "out"), ExportFormat.COCO, tmp_path)
    import_labels(export, video, tmp_path / "data")
    mask = cv2.imread(str(tmp_path / "data" / "masks" / "clip_000000.png"), cv2.IMREAD_UNCHANGED)
    assert (mask.dtype, mask.ndim, np.unique(mask).tolist()) == (np.uint8, 2, [0, 255])
