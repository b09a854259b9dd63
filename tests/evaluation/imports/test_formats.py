"""Exports in the form that annotation tools write."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from polypstream.errors import DatasetError
from polypstream.evaluation.imports.labels import Labels
from polypstream.evaluation.imports.read import LabelOptions
from polypstream.evaluation.imports.rle import coco_runs, mask_from_brush, mask_from_coco, mask_from_runs

SIZE = (64, 48)
FRAMES = 20


def read(export: Path, *, labels: Sequence[str] = (), frames: int = FRAMES) -> Labels:
    times_s = [index / 25 for index in range(frames)]
    with LabelOptions(labels=tuple(labels)).open(export, video="clip.mp4", size=SIZE, times_s=times_s) as found:
        return found


def extent(labels: Labels, index: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right, bottom of each shape in a frame."""
    boxes = []
    for _, mask in labels.masks(index, width=SIZE[0], height=SIZE[1]):
        rows, columns = np.nonzero(mask)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    return boxes


def square(left: int, top: int, side: int = 10) -> str:
    right, bottom = left + side, top + side
    return f"{left},{top};{right},{top};{right},{bottom};{left},{bottom}"


def cvat(folder: Path, *tracks: str, task: str = "", size: tuple[int, int] = SIZE, count: int = FRAMES) -> Path:
    path = folder / "annotations.xml"
    path.write_text(
        f"<annotations><version>1.1</version><meta><task><size>{count}</size>{task}<mode>interpolation</mode>"
        f"<original_size><width>{size[0]}</width><height>{size[1]}</height></original_size></task></meta>"
        f"{''.join(tracks)}</annotations>"
    )
    return path


def polygon(frame: int, left: int, top: int, *, outside: int = 0, keyframe: int = 1) -> str:
    return (
        f'<polygon frame="{frame}" keyframe="{keyframe}" outside="{outside}" occluded="0" '
        f'points="{square(left, top)}" z_order="0"></polygon>'
    )


def track(*shapes: str, label: str = "Polyp", number: int = 0) -> str:
    return f'<track id="{number}" label="{label}" source="manual">{"".join(shapes)}</track>'


def test_cvat_polygons_move_between_keyframes_and_end_outside(tmp_path: Path) -> None:
    labels = read(cvat(tmp_path, track(polygon(2, 0, 0), polygon(6, 8, 4), polygon(9, 8, 4, outside=1))))
    assert [extent(labels, index) for index in (1, 2, 4, 6, 8, 9, 15)] == [
        [],
        [(0, 0, 10, 10)],
        [(4, 2, 14, 12)],
        [(8, 4, 18, 14)],
        [(8, 4, 18, 14)],
        [],
        [],
    ]


def test_a_cvat_track_that_is_not_ended_lasts_to_the_end(tmp_path: Path) -> None:
    labels = read(cvat(tmp_path, track(polygon(3, 5, 5))))
    assert [bool(labels.at(index)) for index in (2, 3, 4, FRAMES - 1)] == [False, True, True, True]


def test_cvat_shapes_that_are_not_keyframes_are_used_unchanged(tmp_path: Path) -> None:
    shapes = polygon(0, 0, 0), polygon(1, 20, 20, keyframe=0), polygon(2, 4, 0), polygon(3, 4, 0, outside=1)
    assert extent(read(cvat(tmp_path, track(*shapes))), 1) == [(20, 20, 30, 30)]


def test_a_cvat_polyp_that_leaves_and_returns(tmp_path: Path) -> None:
    shapes = polygon(0, 0, 0), polygon(2, 0, 0, outside=1), polygon(7, 30, 30), polygon(8, 30, 30, outside=1)
    labels = read(cvat(tmp_path, track(*shapes, number=4)))
    assert [len(labels.at(index)) for index in range(10)] == [1, 1, 0, 0, 0, 0, 0, 1, 0, 0]
    assert {shape.track for index in range(10) for shape in labels.at(index)} == {"4"}


def test_cvat_masks_stay_until_the_next_keyframe(tmp_path: Path) -> None:
    mask = (
        '<mask frame="{}" keyframe="1" outside="{}" occluded="0" rle="1, 2, 3, 1, 1" left="10" top="20" width="4" '
        'height="2" z_order="0"></mask>'
    )
    labels = read(cvat(tmp_path, track(mask.format(2, 0), mask.format(5, 1))))
    expected = np.zeros((48, 64), np.bool_)
    expected[20, 11:13] = expected[21, 12] = True
    for index in (2, 4):
        ((_, found),) = labels.masks(index, width=64, height=48)
        assert np.array_equal(found, expected)
    assert not labels.at(5)


def test_cvat_frames_of_a_task_with_a_step_are_those_of_the_video(tmp_path: Path) -> None:
    task = "<start_frame>2</start_frame><stop_frame>18</stop_frame><frame_filter>step=4</frame_filter>"
    labels = read(cvat(tmp_path, track(polygon(6, 0, 0), polygon(10, 4, 0, outside=1)), task=task, count=5))
    assert [index for index in range(FRAMES) if labels.is_labeled(index)] == [2, 6, 10, 14, 18]
    assert [index for index in range(FRAMES) if labels.at(index)] == [6]


def test_cvat_labels_that_are_not_polyps_are_left_out(tmp_path: Path) -> None:
    tracks = track(polygon(0, 0, 0)), track(polygon(0, 20, 20), label="Instrument")
    export = cvat(tmp_path, *tracks)
    assert extent(read(export), 0) == [(0, 0, 10, 10)]
    assert extent(read(export, labels=["Instrument"]), 0) == [(20, 20, 30, 30)]
    with pytest.raises(DatasetError, match=r"no label Cecum; it has Instrument, Polyp"):
        read(export, labels=["Cecum"])
    other = cvat(tmp_path, track(polygon(0, 0, 0), label="A"), track(polygon(0, 0, 0), label="B"))
    with pytest.raises(DatasetError, match=r"labels A, B; say which mean polyp: --label"):
        read(other)


def test_cvat_shapes_without_an_area_are_reported(tmp_path: Path) -> None:
    line = '<polyline frame="0" keyframe="1" outside="0" occluded="0" points="0,0;5,5"></polyline>'
    labels = read(cvat(tmp_path, track(polygon(0, 0, 0)), track(line)))
    assert labels.notices == ("1 shapes of type polyline are ignored: they enclose no area",)


def test_cvat_for_images(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    image = '<image id="{0}" name="frame_{0:06d}" width="64" height="48">{1}</image>'
    shape = f'<polygon label="Polyp" points="{square(3, 4)}" z_order="0"></polygon>'
    path.write_text(f"<annotations>{image.format(5, shape)}{image.format(6, '')}</annotations>")
    labels = read(path)
    assert extent(labels, 5) == [(3, 4, 13, 14)]
    assert [index for index in range(FRAMES) if labels.is_labeled(index)] == [5, 6]


@pytest.mark.parametrize(
    "text", ["", "<a>", "<other/>", '<annotations><track label="P"><polygon/></track></annotations>']
)
def test_a_file_that_is_not_from_cvat_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(DatasetError, match="CVAT"):
        read(tmp_path / "a.xml")


@given(arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40))))
def test_compressed_run_lengths_are_those_of_pycocotools(mask: NDArray[np.bool_]) -> None:
    encoded = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = mask.shape
    text = encoded["counts"].decode()
    assert np.array_equal(mask_from_coco(text, width=width, height=height), mask)
    assert np.array_equal(mask_from_coco(coco_runs(text), width=width, height=height), mask)


def test_run_lengths_that_do_not_fill_the_mask_are_an_error() -> None:
    with pytest.raises(ValueError, match="7 pixels for a mask of 4x2"):
        mask_from_runs([3, 4], width=4, height=2)


def coco(folder: Path, **changes: object) -> Path:
    """CVAT export of a video, with frames named `frame_000000.PNG`."""
    data = {
        "images": [{"id": n + 1, "width": 64, "height": 48, "file_name": f"frame_{n:06d}.PNG"} for n in range(FRAMES)],
        "categories": [{"id": 1, "name": "Polyp", "supercategory": ""}],
        "annotations": [
            {"id": 1, "image_id": 4, "category_id": 1, "segmentation": [[0, 0, 10, 0, 10, 10, 0, 10]], "bbox": []},
        ],
    } | changes
    path = folder / "instances_default.json"
    path.write_text(json.dumps(data))
    return path


def test_coco_of_cvat(tmp_path: Path) -> None:
    labels = read(coco(tmp_path))
    assert [index for index in range(FRAMES) if labels.at(index)] == [3]
    assert extent(labels, 3) == [(0, 0, 10, 10)]


def test_coco_boxes_run_lengths_and_several_polygons(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), np.uint8, order="F")
    mask[4:9, 30:33] = 1
    counts = coco_masks.encode(mask)["counts"].decode()
    common = {"image_id": 1, "category_id": 1}
    annotations = [
        {**common, "segmentation": {"size": [48, 64], "counts": counts}, "bbox": [30, 4, 3, 5]},
        {**common, "segmentation": [], "bbox": [1, 2, 3, 4]},
        {**common, "segmentation": [[0, 0, 4, 0, 4, 4], [10, 20, 20, 20, 20, 30, 10, 30]], "bbox": []},
    ]
    labels = read(coco(tmp_path, annotations=annotations))
    assert [shape.is_box for shape in labels.at(0)] == [False, True, False]
    assert extent(labels, 0)[:2] == [(30, 4, 33, 9), (1, 2, 4, 6)]
    assert extent(labels, 0)[2][2:] == (20, 30)


def test_coco_of_several_videos(tmp_path: Path) -> None:
    names = [f"{stem}_{number:06d}.png" for stem in ("clip", "other") for number in range(3)]
    images = [{"id": n, "width": 64, "height": 48, "file_name": name} for n, name in enumerate(names)]
    annotation = {"category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    annotations = [{**annotation, "image_id": 1}, {**annotation, "image_id": 5}]
    labels = read(coco(tmp_path, images=images, annotations=annotations))
    assert [index for index in range(FRAMES) if labels.at(index)] == [1]
    assert [index for index in range(FRAMES) if labels.is_labeled(index)] == [0, 1, 2]
    for image in images[:3]:
        image["file_name"] = str(image["file_name"]).replace("clip", "third")
    with pytest.raises(DatasetError, match=r"2 videos \(other, third\), none of which is clip; rename"):
        read(coco(tmp_path, images=images))


def test_shapes_that_only_end_a_track_are_left_out(tmp_path: Path) -> None:
    annotation = {"category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]}
    annotations = [{**annotation, "image_id": n, "attributes": {"outside": n == 2}} for n in (1, 2)]
    labels = read(coco(tmp_path, annotations=annotations))
    assert [index for index in range(FRAMES) if labels.at(index)] == [0]
    path = tmp_path / "annotations.xml"
    shape = f'<polygon label="Polyp" outside="1" points="{square(3, 4)}"></polygon>'
    path.write_text(f'<annotations><image id="5" name="frame_000005.png">{shape}</image></annotations>')
    assert not read(path).at(5)


def test_coco_without_sizes(tmp_path: Path) -> None:
    images = [{"id": n + 1, "width": 0, "height": 0, "file_name": f"frame_{n:06d}"} for n in range(FRAMES)]
    assert extent(read(coco(tmp_path, images=images)), 3) == [(0, 0, 10, 10)]


def test_files_without_a_frame_number_are_refused(tmp_path: Path) -> None:
    images = [{"id": 1, "width": 64, "height": 48, "file_name": "polyp.png"}]
    with pytest.raises(DatasetError, match=r"polyp.png does not end with a frame number"):
        read(coco(tmp_path, images=images))


def yolo(folder: Path, files: dict[str, str], names: str = "names: [Polyp]\n") -> Path:
    (folder / "labels" / "train").mkdir(parents=True)
    (folder / "data.yaml").write_text(f"path: .\n{names}")
    for name, text in files.items():
        (folder / "labels" / "train" / f"{name}.txt").write_text(text)
    return folder


def test_yolo_polygons_boxes_tracks_and_negatives(tmp_path: Path) -> None:
    files = {
        "clip_000001": "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5 7\n",
        "clip_000002": "",
        "clip_000003": "0 0.5 0.5 0.25 0.5\n\n1 0.1 0.1 0.2 0.2 3\n",
    }
    labels = read(yolo(tmp_path, files, "names:\n  0: polyp\n  1: 'tool'\n"))
    assert extent(labels, 1) == [(16, 12, 32, 24)]
    assert [(shape.track, shape.is_box) for shape in (*labels.at(1), *labels.at(3))] == [("7", False), (None, True)]
    assert extent(labels, 3) == [(24, 12, 40, 36)]
    assert [index for index in range(FRAMES) if labels.is_labeled(index)] == [1, 2, 3]


def test_a_damaged_line_of_yolo_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"line 2 of .*clip_000001.txt"):
        read(yolo(tmp_path, {"clip_000001": "0 0.1 0.1 0.2 0.1 0.2 0.2\n0 0.1 x 0.2 0.2\n"}))


def label_studio(folder: Path, *sequence: dict[str, object], count: int = FRAMES, **task: object) -> Path:
    value = {"framesCount": count, "duration": count / 25, "labels": ["Polyp"], "sequence": list(sequence)}
    region = {"type": "videorectangle", "id": "a1", "from_name": "box", "to_name": "video", "value": value}
    path = folder / "project.json"
    annotations = {"annotations": [{"result": [region], "updated_at": "2026-01-02"}]}
    path.write_text(json.dumps([{"data": {"video": "/data/upload/1/8f2a-clip.mp4"}, **(task or annotations)}]))
    return path


def keyframe(frame: int, x: float, *, enabled: bool) -> dict[str, object]:
    return {"frame": frame, "x": x, "y": 25, "width": 25, "height": 50, "rotation": 0, "enabled": enabled, "time": 0}


def test_label_studio_counts_from_1_and_interpolates_while_enabled(tmp_path: Path) -> None:
    sequence = keyframe(1, 0, enabled=True), keyframe(5, 50, enabled=False), keyframe(9, 50, enabled=True)
    labels = read(label_studio(tmp_path, *sequence))
    assert [index for index in range(FRAMES) if labels.at(index)] == [0, 1, 2, 3, 4, *range(8, FRAMES)]
    assert extent(labels, 0) == [(0, 12, 16, 36)]
    assert extent(labels, 2) == [(16, 12, 32, 36)]
    assert all(shape.is_box for shape in labels.at(2))


def test_label_studio_with_the_default_rate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"19 frames, clip.mp4 has 20"):
        read(label_studio(tmp_path, keyframe(1, 0, enabled=False), count=19))


def test_label_studio_predictions_are_used_where_nothing_is_annotated(tmp_path: Path) -> None:
    labels = read(label_studio(tmp_path, predictions=[{"result": []}], annotations=[]))
    assert labels.notices == ("the export has no annotations: its predictions are used",)


def test_label_studio_polygons_and_brushes_on_frames(tmp_path: Path) -> None:
    common = {"original_width": 64, "original_height": 48}
    points = [[25, 25], [50, 25], [50, 50], [25, 50]]
    polygon_region = {**common, "type": "polygonlabels", "value": {"points": points, "polygonlabels": ["Polyp"]}}
    brush = {"format": "rle", "rle": brush_of(np.eye(48, 64, dtype=np.bool_)), "brushlabels": ["Polyp"]}
    brush_region = {**common, "type": "brushlabels", "value": brush}
    tasks = [
        {"data": {"image": f"/data/upload/clip_{index:06d}.png"}, "annotations": [{"result": [region]}]}
        for index, region in ((3, polygon_region), (8, brush_region))
    ]
    path = tmp_path / "project.json"
    path.write_text(json.dumps(tasks))
    labels = read(path)
    assert extent(labels, 3) == [(16, 12, 32, 24)]
    ((_, mask),) = labels.masks(8, width=64, height=48)
    assert np.array_equal(mask, np.eye(48, 64, dtype=np.bool_))


def brush_of(mask: NDArray[np.bool_]) -> list[int]:
    """A mask as Label Studio stores it: pixels of RGBA in runs of equal values, or listed one by one."""
    pixels = np.repeat(np.where(mask.ravel(), 255, 0), 4)
    sizes = (3, 4, 8, 16)
    bits = f"{len(pixels):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    starts = [0, *(np.flatnonzero(np.diff(pixels)) + 1).tolist(), len(pixels)]
    for number, (start, end) in enumerate(pairwise(starts)):
        length = end - start - 1
        kind = next(each for each, size in enumerate(sizes) if length < 1 << size)
        is_run = number % 3 != 1
        values = f"{pixels[start]:08b}" * (1 if is_run else end - start)
        bits += f"{is_run:b}{kind:02b}{length:0{sizes[kind]}b}{values}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]


def test_a_brush_of_another_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="4 pixels for an image of 3x2"):
        mask_from_brush(brush_of(np.ones((2, 2), np.bool_)), width=3, height=2)


def test_unknown_exports_are_refused_with_the_supported_formats(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DatasetError, match="neither COCO nor an export of Label Studio"):
        read(tmp_path / "a.json")
    with pytest.raises(DatasetError, match="there is no export"):
        read(tmp_path / "none.xml")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"annotations\.xml of CVAT, a COCO"):
        read(tmp_path / "empty")
