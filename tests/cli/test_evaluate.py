import csv
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from polypstream.cli import app
from polypstream.errors import DatasetError, ModelError, OutputError
from polypstream.train.data import Pair
from polypstream.train.splits import splits_by_hash
from tests.discs import write_discs, write_picture
from tests.evaluation.test_evaluate import write_clip
from tests.models import contract, write_green_finder

runner = CliRunner()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_green_finder(tmp_path / "green.onnx")


@pytest.fixture
def green(tmp_path: Path) -> Path:
    """Ten images of a green square on black, of the model's own size and of others."""
    folder = tmp_path / "green"
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(10):
        side = 64 + 32 * (index % 3)
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : side // 2, side // 4 : side // 2] = 255
        write_picture(folder / "images" / f"{index}.png", np.dstack([np.zeros_like(mask), mask, np.zeros_like(mask)]))
        write_picture(folder / "masks" / f"{index}.png", mask)
    return folder


def test_a_table_of_data_sets(green: Path, model: Path) -> None:
    result = runner.invoke(app, ["evaluate", str(green), "--model", str(model)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    for part in ("data set", "images", "Dice", "IoU", "class-mean IoU", "green", "10", "threshold 0.5"):
        assert part in result.output


def test_json_and_csv_hold_the_same(tmp_path: Path, green: Path, model: Path) -> None:
    table = tmp_path / "scores.csv"
    result = runner.invoke(app, ["evaluate", str(green), "--model", str(model), "--json", "--csv", str(table)])
    reported = json.loads(result.output)
    assert (reported["model"], reported["threshold"]) == ("green.onnx", 0.5)
    (row,) = reported["datasets"]
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["dataset", "image", "dice", "iou", "class_mean_iou", "precision", "recall", "polyp_pixels"]
    assert row["dice"]["count"] == len(rows) == 10
    assert row["dice"]["mean"] == pytest.approx(np.mean([float(score["dice"]) for score in rows]))
    assert row["dice"]["low"] <= row["dice"]["mean"] <= row["dice"]["high"]
    assert row["dice"]["mean"] > 0.9
    assert float(rows[0]["dice"]) == 1  # at the model's own size nothing is scaled


def test_the_threshold_can_be_given(green: Path, model: Path) -> None:
    arguments = ["evaluate", str(green), "--model", str(model), "--json", "--threshold", "0.9"]
    assert json.loads(runner.invoke(app, arguments).output)["threshold"] == 0.9


def test_the_minimum_peak_of_the_model_applies_unless_a_threshold_is_given(tmp_path: Path, green: Path) -> None:
    strict = write_green_finder(
        tmp_path / "strict.onnx", metadata=contract(min_peak=0.999).to_metadata(), gain=0.02, bias=-2.0
    )  # green is a probability of 0.96
    arguments = ["evaluate", str(green), "--model", str(strict), "--json"]
    own = json.loads(runner.invoke(app, arguments).output)
    assert (own["min_peak"], own["datasets"][0]["dice"]["mean"]) == (0.999, 0)
    chosen = json.loads(runner.invoke(app, [*arguments, "--threshold", "0.5"]).output)
    assert chosen["min_peak"] == 0
    assert chosen["datasets"][0]["dice"]["mean"] > 0.9


def test_the_test_split_is_the_default_of_a_splits_file(tmp_path: Path, green: Path, model: Path) -> None:
    splits = tmp_path / "splits.csv"
    rows = [f"green,{n}.png,{'test' if n < 3 else 'val'},{'test' if n < 2 else 'train'}" for n in range(10)]
    splits.write_text("\n".join(["dataset,image,grouped,random", *rows]))
    common = ["evaluate", str(green), "--model", str(model), "--json", "--splits", str(splits)]
    counts = [
        json.loads(runner.invoke(app, [*common, *more]).output)["datasets"][0]["dice"]["count"]
        for more in ([], ["--split", "val"], ["--split-column", "random"])
    ]
    assert counts == [3, 7, 2]


def test_a_split_without_a_file_equals_that_of_train(green: Path, model: Path) -> None:
    pairs = [Pair(dataset="green", image=Path(f"{n}.png"), mask=Path(f"{n}.png")) for n in range(10)]
    wanted = sum(split == "train" for split in splits_by_hash(pairs).values())
    result = runner.invoke(app, ["evaluate", str(green), "--model", str(model), "--json", "--split", "train"])
    assert json.loads(result.output)["datasets"][0]["dice"]["count"] == wanted


def test_a_clip_with_masks(tmp_path: Path, model: Path) -> None:
    clip, masks = write_clip(tmp_path)
    arguments = ["evaluate", "--video", str(clip), "--masks", str(masks), "--model", str(model)]
    reported = json.loads(runner.invoke(app, [*arguments, "--json", "--csv", str(tmp_path / "frames.csv")]).output)
    assert (reported["polyp_frames"], reported["clean_frames"]) == (3, 3)
    assert (reported["dice"]["mean"], reported["sensitivity"], reported["false_alarm_rate"]) == (0, 0, 0)
    assert len((tmp_path / "frames.csv").read_text().splitlines()) == 7
    shown = runner.invoke(app, arguments, env={"COLUMNS": "120"}).output
    assert "false alarms" in shown
    assert "0.0%" in shown


@pytest.mark.parametrize(
    "arguments", [[], ["--video", "clip.mp4"], ["--masks", "m"], ["d", "--video", "c", "--masks", "m"]]
)
def test_incomplete_options_are_a_usage_error(arguments: list[str]) -> None:
    assert runner.invoke(app, ["evaluate", *arguments]).exit_code == 2


def test_unreadable_and_unwritable_paths_raise_polypstream_errors(tmp_path: Path, green: Path, model: Path) -> None:
    def error(*arguments: object) -> BaseException | None:
        return runner.invoke(app, ["evaluate", *map(str, arguments)]).exception

    (tmp_path / "text.keras").write_text("not a model")
    assert isinstance(error(tmp_path / "none", "--model", model), DatasetError)
    assert isinstance(error(green, "--model", tmp_path / "none.onnx"), ModelError)
    assert isinstance(error(green, "--model", tmp_path / "text.keras"), ModelError)
    assert isinstance(error(green, "--model", model, "--csv", tmp_path / "none" / "scores.csv"), OutputError)


def test_the_crop_and_the_accurate_mode_reach_the_model(tmp_path: Path, model: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "dark" / part).mkdir(parents=True)
    image, mask = np.zeros((320, 320, 3), np.uint8), np.zeros((320, 320), np.uint8)
    image[70:250, 70:250] = 90  # the endoscope's own picture, in a wide black surround
    image[140:157, 140:157] = (0, 255, 0)
    mask[140:157, 140:157] = 255
    write_picture(tmp_path / "dark" / "images" / "0.png", image)
    write_picture(tmp_path / "dark" / "masks" / "0.png", mask)

    def dice(*options: str) -> float:
        arguments = ["evaluate", str(tmp_path / "dark"), "--model", str(model), "--json", *options]
        return float(json.loads(runner.invoke(app, arguments).output)["datasets"][0]["dice"]["mean"])

    assert dice("--crop", "content") > dice("--crop", "none") + 0.02
    assert dice("--accurate") != dice()


def test_a_keras_model(tmp_path: Path) -> None:
    import keras

    image = keras.Input((32, 32, 3))
    brightness = keras.layers.Conv2D(1, 1, use_bias=False, kernel_initializer="ones")(image)
    path = tmp_path / "bright.keras"
    keras.Model(image, keras.layers.Rescaling(1 / 3)(brightness)).save(path)
    discs = write_discs(tmp_path / "discs", 3)
    reported = json.loads(runner.invoke(app, ["evaluate", str(discs), "--model", str(path), "--json"]).output)
    assert reported["threshold"] == 0.5
    assert reported["datasets"][0]["dice"]["mean"] == 1
