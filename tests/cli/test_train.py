import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import cv2
import pytest
from typer.testing import CliRunner

from polypstream.cli import app
from polypstream.cli import train as command
from polypstream.errors import ConfigError, DatasetError, MissingExtraError, TrainingError
from polypstream.train import fit
from polypstream.train.augment import PRESETS
from polypstream.train.config import TrainConfig
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.progress import EpochReport
from tests.discs import write_discs

runner = CliRunner()


class FakeFit:
    """Replaces the training and records its arguments."""

    def __init__(self, interrupted_after: int | None = None) -> None:
        self.interrupted_after = interrupted_after

    def __call__(self, config: TrainConfig, **given: Any) -> Path:
        self.config, self.given = config, given
        progress = given["progress"]
        progress.begin(epochs_done=1, epochs=config.epochs, steps=2, seconds_left=90.0)
        for epoch in range(2, config.epochs + 1):
            for step in (1, 2):
                progress.step(epoch=epoch, step=step, loss=0.5, seconds_left=45.0)
            progress.epoch(
                EpochReport(
                    epoch=epoch, epochs=config.epochs, loss=0.5, dice={"discs": 0.81}, seconds=30, seconds_left=4000
                )
            )
            if epoch == self.interrupted_after:
                raise KeyboardInterrupt
        return Path(given["run"]) / "best.keras"


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeFit:
    stand_in = FakeFit()
    monkeypatch.setattr(fit, "train", stand_in)
    return stand_in


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    return write_discs(tmp_path / "discs", 40)


def splits_file(folder: Path) -> Path:
    path = folder / "splits.csv"
    rows = [f"discs,{n:03d}.png,{'train' if n < 15 else 'val'},{'val' if n < 4 else 'train'}" for n in range(40)]
    path.write_text("\n".join(["dataset,image,grouped,random", *rows]), encoding="utf-8")
    return path


def test_options_arrive(tmp_path: Path, discs: Path, fake: FakeFit) -> None:
    arguments = ["--run", str(tmp_path / "run"), "--size", "48x32", "--epochs", "3", "--batch-size", "2", "--seed", "5"]
    arguments += ["--learning-rate", "0.01", "--precision", "float32", "--workers", "3", "--initial", "start.keras"]
    arguments += ["--model", "resunet", "--warmup-share", "0.2", "--weight-decay", "0.01", "--average-momentum", "0.9"]
    arguments += ["--augmentation", "light", "--encoder", "resnet.onnx"]
    result = runner.invoke(app, ["train", str(discs), "--splits", str(splits_file(tmp_path)), *arguments])
    assert result.exit_code == 0, result.output
    wanted = TrainConfig(
        model="resunet",
        height=32,
        width=48,
        epochs=3,
        batch_size=2,
        learning_rate=0.01,
        warmup_share=0.2,
        weight_decay=0.01,
        average_momentum=0.9,
        augmentation=PRESETS["light"],
        seed=5,
        precision="float32",
    )
    assert fake.config == wanted
    assert fake.given["training"].rgb.shape == (15, 32, 48, 3)
    assert len(fake.given["validation"]) == 25
    assert (fake.given["workers"], fake.given["initial"]) == (3, Path("start.keras"))
    assert fake.given["encoder"] == Path("resnet.onnx")
    assert fake.given["run"] == tmp_path / "run"


def test_a_log_has_a_line_per_epoch_and_an_estimate(tmp_path: Path, discs: Path, fake: FakeFit) -> None:
    arguments = ["--run", str(tmp_path / "run"), "--size", "32", "--epochs", "3"]
    result = runner.invoke(app, ["train", str(discs), "--splits", str(splits_file(tmp_path)), *arguments])
    best = tmp_path / "run" / "best.keras"
    assert result.output.splitlines() == [
        "15 images for training and 25 images for validation, scaled to 32x32",
        "2 epochs of 2 steps after epoch 1: about 2 min",
        "epoch 2/3: loss 0.5000, Dice discs 0.8100; 30 s, 1 h 07 min left",
        "epoch 3/3: loss 0.5000, Dice discs 0.8100; 30 s, 1 h 07 min left",
        f"the best network is {best}; next: polypstream export {best}",
    ]


def test_the_other_column_is_read(tmp_path: Path, discs: Path, fake: FakeFit) -> None:
    arguments = ["--splits", str(splits_file(tmp_path)), "--split-column", "random", "--size", "32", "--epochs", "2"]
    runner.invoke(app, ["train", str(discs), *arguments])
    assert (len(fake.given["training"]), len(fake.given["validation"])) == (36, 4)


def test_without_a_splits_file_the_hash_split_is_announced(discs: Path, fake: FakeFit) -> None:
    result = runner.invoke(app, ["train", str(discs), "--size", "32", "--epochs", "2"])
    assert result.output.startswith(
        "no splits file: 80% of the images for training, 10% for validation, by a hash of their names\n"
    )
    assert (len(fake.given["training"]), len(fake.given["validation"])) == (38, 2)


def test_ctrl_c_prints_how_to_resume(tmp_path: Path, discs: Path, fake: FakeFit) -> None:
    fake.interrupted_after = 3
    run = tmp_path / "run"
    result = runner.invoke(app, ["train", str(discs), "--run", str(run), "--size", "32", "--epochs", "9"])
    assert result.exit_code == 130
    last = result.output.splitlines()[-1]
    assert last == f"stopped; 3 of 9 epochs are saved in {run}: run the same command again to resume"


@pytest.mark.parametrize("size", ["large", "352x", "1x2x3", "-8", "35.2"])
def test_a_malformed_size_is_a_usage_error(discs: Path, size: str) -> None:
    result = runner.invoke(app, ["train", str(discs), f"--size={size}"])
    assert result.exit_code == 2
    assert "such as 352" in " ".join(result.output.replace("│", " ").split())


def test_invalid_settings_and_data_raise_package_errors(tmp_path: Path, discs: Path) -> None:
    assert isinstance(runner.invoke(app, ["train", str(discs), "--size", "100"]).exception, ConfigError)
    assert isinstance(runner.invoke(app, ["train", str(tmp_path / "none")]).exception, DatasetError)


def test_no_data_is_a_usage_error() -> None:
    assert runner.invoke(app, ["train"]).exit_code == 2


@pytest.mark.parametrize("missing", ["keras", "tensorflow"])
def test_a_missing_extra_names_the_command_that_installs_it(
    discs: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    error = runner.invoke(app, ["train", str(discs)]).exception
    assert isinstance(error, MissingExtraError)
    assert "[train]'" in str(error)


def test_the_defaults_are_those_of_the_trainer() -> None:
    options, config = inspect.signature(command.train).parameters, TrainConfig()
    for name in options.keys() & vars(config).keys() - {"augmentation"}:
        assert options[name].default == getattr(config, name), name
    assert PRESETS[options["augmentation"].default] == config.augmentation
    assert options["size"].default == str(config.height) == str(config.width)


def test_every_network_and_preset_can_be_chosen() -> None:
    options = get_type_hints(command.train)
    assert get_args(options["model"]) == tuple(NETWORKS)
    assert get_args(options["augmentation"]) == tuple(PRESETS)


@pytest.mark.slow
def test_a_small_unet_is_trained_and_evaluated(tmp_path: Path, discs: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--model", "unet", "--size", "32", "--epochs", "1", "--run", str(run)]
    result = runner.invoke(app, ["train", str(discs), *arguments])
    assert result.exit_code == 0, result.exception
    assert json.loads((run / "config.json").read_text())["model"] == "unet"
    refused = runner.invoke(app, ["train", str(discs), *arguments, "--model", "resunet"]).exception
    assert isinstance(refused, TrainingError)
    assert "model was unet, now resunet" in str(refused)
    evaluated = runner.invoke(app, ["evaluate", str(discs), "--model", str(run / "best.keras"), "--json"])
    assert json.loads(evaluated.output)["model"] == "best.keras"


def test_the_command_line_loads_nothing_heavy() -> None:
    script = "import sys, polypstream.cli; print({'keras', 'tensorflow', 'cv2', 'av', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(("values", "complaint"), [("", "brightest pixel is 2 of 255"), ("0,x", "'x' is neither")])
def test_masks_of_classes_end_a_training_before_it_begins(tmp_path: Path, values: str, complaint: str) -> None:
    discs = write_discs(tmp_path / "discs", 40)
    for path in (discs / "masks").iterdir():
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        mask[mask > 0] = 2
        mask[0, :4] = 1
        cv2.imwrite(str(path), mask)
    refused = runner.invoke(app, ["train", str(discs), "--run", str(tmp_path / "run"), "--mask-values", values])
    assert refused.exit_code != 0
    assert complaint in str(refused.exception) + refused.output
    assert not (tmp_path / "run").exists()
