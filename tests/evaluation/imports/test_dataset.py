"""The data set that an import adds to: one part per video, other rows kept, repeated imports."""

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from polypstream.cli import app
from polypstream.errors import DatasetError
from polypstream.evaluation.imports.dataset import ImportConfig, import_labels
from polypstream.realtime.annotate.formats import ExportFormat
from polypstream.realtime.annotate.formats.export import export_recording
from polypstream.train.data import pairs_from_folder
from polypstream.train.splits import split_pairs, splits_from_csv
from tests.clips import make_clip
from tests.recordings import annotate


def labeled(folder: Path, name: str) -> tuple[Path, Path]:
    """A video and its export."""
    folder.mkdir(exist_ok=True)
    video = make_clip(folder / f"{name}.mp4", width=320, height=240)
    return export_recording(annotate(video, folder / "out"), [ExportFormat.COCO], folder)[0], video


def parts(dataset: Path) -> dict[str, set[str]]:
    with (dataset / "splits.csv").open(newline="") as lines:
        found: dict[str, set[str]] = {}
        for row in csv.DictReader(lines):
            assert row["grouped"] == row["random"]
            found.setdefault(row["image"].rsplit("_", 1)[0], set()).add(row["grouped"])
    return found


def test_videos_fill_the_parts_and_none_straddles_two(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    for name in "abcdefgh":
        import_labels(*labeled(tmp_path, name), dataset)
    found = parts(dataset)
    assert all(len(each) == 1 for each in found.values())
    order = [next(iter(found[name])) for name in "abcdefgh"]
    assert order[0] == "train"
    assert order.count("train") >= 5
    assert "val" in order


def test_the_data_set_is_read_by_training_and_evaluation(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    for name, split in (("a", "train"), ("b", "val"), ("c", "test")):
        import_labels(*labeled(tmp_path, name), dataset, ImportConfig(split=split))  # type: ignore[arg-type]
    pairs, splits = pairs_from_folder(dataset), splits_from_csv(dataset / "splits.csv", "grouped")
    for name, split in (("a", "train"), ("b", "val"), ("c", "test")):
        chosen = split_pairs(pairs, splits, split)  # type: ignore[arg-type]
        assert {pair.image.stem.split("_")[0] for pair in chosen} == {name}
        assert len(chosen) == 12


def test_importing_again_replaces_the_frames_and_keeps_the_part(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    export, video = labeled(tmp_path, "a")
    other = labeled(tmp_path, "a_2")
    import_labels(export, video, dataset, ImportConfig(split="test"))
    import_labels(*other, dataset, ImportConfig(split="train"))
    report = import_labels(export, video, dataset, ImportConfig(every=2))
    assert report.split == "test"
    assert parts(dataset) == {"a": {"test"}, "a_2": {"train"}}
    names = sorted(path.stem for path in (dataset / "images").iterdir())
    assert [name for name in names if name.startswith("a_0")] == [f"a_{index:06d}" for index in (0, 2, 4, 6, 8, 10)]
    assert sum(name.startswith("a_2_") for name in names) == 12


def test_rows_of_other_data_sets_and_columns_stay(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    dataset.mkdir()
    (dataset / "splits.csv").write_text("dataset,image,grouped,random,patient\nkvasir-seg,x,val,train,7\n")
    import_labels(*labeled(tmp_path, "a"), dataset)
    with (dataset / "splits.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert rows[0] == {"dataset": "kvasir-seg", "image": "x", "grouped": "val", "random": "train", "patient": "7"}
    assert len(rows) == 13


def test_another_video_of_the_same_name_is_refused(tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    import_labels(*labeled(tmp_path / "one", "clip"), dataset)
    export, video = labeled(tmp_path / "two", "clip")
    video.write_bytes(video.read_bytes() + b"\0" * 64)
    with pytest.raises(DatasetError, match=r"another video named clip .*rename"):
        import_labels(export, video, dataset)


def test_the_command(tmp_path: Path) -> None:
    export, video = labeled(tmp_path, "clip")
    arguments = ["import", str(export), "--video", str(video), "--output", str(tmp_path / "data")]
    result = CliRunner().invoke(app, [*arguments, "--split", "val", "--json"])
    assert result.exit_code == 0, result.output
    reported = json.loads(result.stdout)
    assert (reported["polyp_frames"], reported["clean_frames"], reported["split"], reported["format"]) == (
        10,
        2,
        "val",
        "COCO",
    )
    shown = CliRunner().invoke(app, [*arguments, "--every", "3"])
    assert "3 frames with a polyp and 1 without (of 12) from COCO" in shown.output
    assert CliRunner().invoke(app, arguments[:2]).exit_code == 2
