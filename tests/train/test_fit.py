import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import ConfigError, OutputError, TrainingError
from polypstream.train import fit
from polypstream.train.augment import Augmentation
from polypstream.train.config import TrainConfig
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.progress import EpochReport, curves_png
from polypstream.train.recipe import one_cycle
from polypstream.train.run_folder import RunFolder
from tests.discs import disc_samples
from tests.train.small_run import CONFIG, SMALL, Quiet, small_network, small_run

WHOLE = dict(NETWORKS)
FILES = ["best.keras", "config.json", "curves.png", "history.jsonl", "last.npz"]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NETWORKS, "resunetpp", SMALL)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, for comparison with interrupted ones."""
    folder = tmp_path_factory.mktemp("unbroken")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "resunetpp", SMALL)
        small_run(folder, Quiet())
    return folder


def weights(run: Path) -> dict[str, NDArray[np.generic]]:
    with np.load(run / "last.npz") as stored:
        return {name: stored[name] for name in stored.files if name != "history"}


def history(run: Path) -> list[tuple[int, float, dict[str, float]]]:
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [(line["epoch"], line["loss"], line["dice"]) for line in map(json.loads, lines)]


def best_weights(run: Path) -> list[NDArray[np.float32]]:
    values: list[NDArray[np.float32]] = keras.saving.load_model(run / "best.keras", compile=False).get_weights()
    return values


def assert_same_run(run: Path, other: Path) -> None:
    assert history(run) == history(other)
    one, two = weights(run), weights(other)
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    for value, wanted in zip(best_weights(run), best_weights(other), strict=True):
        np.testing.assert_array_equal(value, wanted)
    assert (run / "curves.png").read_bytes() == (other / "curves.png").read_bytes()
    assert sorted(path.name for path in run.iterdir()) == FILES


@pytest.mark.slow
def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(tmp_path: Path, unbroken: Path) -> None:
    command = [sys.executable, "-m", "tests.train.small_run", str(tmp_path)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert [epoch for epoch, _, _ in history(tmp_path)] == [1]
    progress = Quiet()
    small_run(tmp_path, progress)
    assert progress.started == [1]
    assert_same_run(tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["save_best", "save_epoch", "_write_history"])
def test_a_kill_between_two_files_loses_and_doubles_nothing(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    genuine = getattr(RunFolder, missing)

    def killed(self: RunFolder, *arguments: object) -> None:
        if self.last.exists():  # from the second epoch on
            raise KeyboardInterrupt
        genuine(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, missing, killed)
        with pytest.raises(KeyboardInterrupt):
            small_run(tmp_path, Quiet())
    small_run(tmp_path, Quiet())
    assert_same_run(tmp_path, unbroken)


def test_a_half_written_file_never_takes_its_place(tmp_path: Path, unbroken: Path) -> None:
    for name in ("config.json", "last.npz", "best.keras", "history.jsonl"):
        (tmp_path / name).write_bytes((unbroken / name).read_bytes())
    before = sorted(tmp_path.iterdir())
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="no space"):
        folder.save_best(Unwritable())
    assert folder.best.read_bytes() == (unbroken / "best.keras").read_bytes()
    assert sorted(tmp_path.iterdir()) == before


class Unwritable:
    def save(self, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("no space")


def test_a_finished_run_is_not_changed(unbroken: Path) -> None:
    before = weights(unbroken)
    progress = Quiet()
    assert small_run(unbroken, progress) == unbroken / "best.keras"
    assert (progress.started, progress.reports) == ([], [])
    for name, value in weights(unbroken).items():
        np.testing.assert_array_equal(value, before[name])


def test_the_checkpoint_holds_the_running_average(unbroken: Path) -> None:
    network = small_network(height=32, width=32, widths=(8,))
    kept = network.count_params()
    stored = sum(value.size for value in weights(unbroken).values())
    assert stored > 3.5 * kept  # weights, two moments, and the average of all that is trained


def test_best_keras_is_a_float32_network_without_auxiliary_heads(unbroken: Path) -> None:
    best = keras.saving.load_model(unbroken / "best.keras", compile=False)
    assert best.input_shape == (None, 32, 32, 3)
    assert best.output_shape == (None, 32, 32, 1)
    assert {layer.dtype_policy.name for layer in best.layers} == {"float32"}
    assert not [layer.name for layer in best.layers if "auxiliary" in layer.name]


def test_best_keras_is_what_the_history_says(unbroken: Path) -> None:
    best = keras.saving.load_model(unbroken / "best.keras", compile=False)
    dice = fit.dice_by_dataset(best, disc_samples(4, first=100), batch_size=4)
    assert dice["discs"] == pytest.approx(max(dice["discs"] for _, _, dice in history(unbroken)), abs=1e-6)


def test_other_settings_in_the_same_folder_are_refused_by_name(unbroken: Path) -> None:
    config = replace(CONFIG, model="unet", epochs=9, augmentation=Augmentation(glare=0.5))
    with pytest.raises(
        TrainingError, match=r"model was resunetpp, now unet; epochs was 3, now 9; augmentation was .*another --run"
    ):
        small_run(unbroken, Quiet(), config)


def test_other_data_in_the_same_folder_are_refused(unbroken: Path) -> None:
    with pytest.raises(TrainingError, match=r"data was .*14 images.*now .*15 images"):
        fit.train(
            CONFIG,
            training=disc_samples(15),
            validation=disc_samples(4, first=100),
            run=unbroken,
            progress=Quiet(),
        )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_a_damaged_checkpoint_is_reported(tmp_path: Path, unbroken: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes((unbroken / "config.json").read_bytes())
    (tmp_path / "last.npz").write_bytes(content)
    with pytest.raises(TrainingError, match="damaged"):
        small_run(tmp_path, Quiet())


def test_a_loss_that_is_not_a_number_stops_the_run_and_spares_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine, trained = keras.Model.train_on_batch, Quiet()

    def poisoned(self: keras.Model, x: object, y: object, **options: bool) -> dict[str, float]:
        result: dict[str, float] = genuine(self, x, y, **options)
        return {"loss": float("nan")} if len(trained.losses) == 6 else result

    monkeypatch.setattr(keras.Model, "train_on_batch", poisoned)
    with pytest.raises(TrainingError, match=r"nan in step 3 of epoch 2; .*--learning-rate"):
        small_run(tmp_path, trained)
    assert [epoch for epoch, _, _ in history(tmp_path)] == [1]


def test_a_run_starts_from_the_weights_of_another_one(
    tmp_path: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Sequence[NDArray[np.float32]]] = []

    def keep(self: fit._Trainer, *, epochs_done: int) -> None:
        started.append(self.core.get_weights())
        raise KeyboardInterrupt

    monkeypatch.setattr(fit._Trainer, "announce", keep)
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path, Quiet(), initial=unbroken / "best.keras")
    for value, wanted in zip(started[0], best_weights(unbroken), strict=True):
        np.testing.assert_array_equal(value, wanted)


def _stop() -> None:
    raise KeyboardInterrupt


def test_an_initial_model_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.keras").write_text("not a model")
    for initial in (tmp_path / "text.keras", tmp_path / "none.keras"):
        with pytest.raises(TrainingError, match="check --initial"):
            small_run(tmp_path / "run", Quiet(), initial=initial)


def test_encoder_weights_are_refused_for_a_network_without_an_encoder(tmp_path: Path, unbroken: Path) -> None:
    encoder = tmp_path / "resnet.onnx"
    with pytest.raises(TrainingError, match=r"resunetpp has no encoder .* train resunetpp-r50"):
        small_run(tmp_path / "run", Quiet(), encoder=encoder)
    with pytest.raises(TrainingError, match="one of --initial, --encoder and --pretrained"):
        small_run(tmp_path / "run", Quiet(), initial=unbroken / "best.keras", encoder=encoder)
    config = replace(CONFIG, model="resunetpp-r50")
    with pytest.raises(TrainingError, match="check --encoder"):
        small_run(tmp_path / "run", Quiet(), config, encoder=encoder)


def test_imagenet_weights_are_refused_for_other_networks(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no ImageNet weights fit resunetpp; .* train resunetpp-lite0"):
        small_run(tmp_path / "run", Quiet(), pretrained=True)


def test_a_time_limited_run_ends_within_an_epoch_and_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(fit, "time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    config = replace(CONFIG, minutes=0.5)  # every reading of the clock advances it by a second
    progress = Quiet()
    small_run(tmp_path, progress, config)
    assert 1 <= len(progress.reports) < config.epochs
    assert len(progress.losses) < 4 * config.epochs
    again = Quiet()
    small_run(tmp_path, again, config)
    assert not again.losses


def test_frozen_stages_keep_their_weights_and_statistics() -> None:
    architecture = NETWORKS["resunetpp-lite0"]
    network = architecture.build(height=32, width=32, widths=(8,) * 5)
    fit._freeze(network, architecture.encoder, 2)
    fixed = {layer.name for layer in network.layers if not layer.trainable}
    assert {"encoder_stem", "encoder_stem_bn", "encoder1_block1_project_bn", "encoder2_block2_depthwise"} <= fixed
    assert not any(name.startswith(("encoder3", "bridge", "skip")) for name in fixed)
    fit._freeze(network, architecture.encoder, 0)
    assert {layer.name for layer in network.layers if not layer.trainable} == fixed


def test_another_networks_weights_are_refused_by_name_and_the_folder_stays_free(tmp_path: Path) -> None:
    other = tmp_path / "other.keras"
    WHOLE["unet"].build(height=32, width=32, widths=(8,) * 5).save(other)
    config = replace(CONFIG, model="resunet", epochs=1)
    with pytest.raises(TrainingError, match=r"holds unet with .* trains resunet with .*; give the --model"):
        small_run(tmp_path / "run", Quiet(), config, initial=other)
    RunFolder(tmp_path / "run").claim(CONFIG, training=disc_samples(1), validation=disc_samples(1))


def test_a_folder_that_cannot_be_created_raises_a_package_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        small_run(tmp_path / "file" / "run", Quiet())


def test_the_precision_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def network(**sizes: Any) -> keras.Model:
        seen.append(keras.config.dtype_policy().name)
        return small_network(**sizes)

    monkeypatch.setitem(NETWORKS, "resunetpp", replace(SMALL, build=network))
    monkeypatch.setattr(fit._Trainer, "announce", lambda self, **_: _stop())
    with pytest.raises(KeyboardInterrupt):
        small_run(tmp_path, Quiet(), replace(CONFIG, precision="mixed_bfloat16"))
    assert seen == ["float32", "mixed_bfloat16"]
    assert keras.config.dtype_policy().name == "float32"


DEEPER = ("resunetpp-lite1", "resunetpp-lite2")
"""`resunetpp-lite0` with more layers: from random weights they need more steps than in this test."""


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in WHOLE if name not in DEEPER])
def test_the_whole_network_learns_discs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setitem(NETWORKS, model, WHOLE[model])
    progress = Quiet()
    # CPUs round bfloat16 differently, which decides how far the largest network comes in so few steps.
    precision = "float32" if model == "resunetpp-r50" else "mixed_bfloat16"
    config = replace(CONFIG, model=model, average_momentum=0.8, precision=precision)
    fit.train(
        config,
        training=disc_samples(24),
        validation=disc_samples(8, first=100),
        run=tmp_path,
        progress=progress,
        workers=2,
    )
    assert progress.reports[-1].loss < 0.75 * progress.reports[0].loss
    assert max(report.mean_dice for report in progress.reports) > 0.75


def test_the_rate_rises_and_falls() -> None:
    rates = [one_cycle(step / 100, peak=1e-2, warmup_share=0.1) for step in range(101)]
    assert rates[0] == pytest.approx(1e-2 / 25)
    assert rates[10] == max(rates) == pytest.approx(1e-2)
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5)


def test_the_curves_are_redrawn_every_epoch(tmp_path: Path, unbroken: Path) -> None:
    lines = (unbroken / "history.jsonl").read_text(encoding="utf-8").splitlines()
    reports = [EpochReport(**without_mean(line)) for line in lines]
    drawn = [cv2.imdecode(np.frombuffer(curves_png(reports[:n]), np.uint8), cv2.IMREAD_COLOR) for n in (1, 2, 3)]
    assert {image.shape for image in drawn if image is not None} == {(640, 960, 3)}
    assert [np.count_nonzero(one != other) > 100 for one, other in pairwise(drawn)] == [True, True]
    assert (unbroken / "curves.png").read_bytes() == curves_png(reports)


def without_mean(line: str) -> dict[str, Any]:
    return {name: value for name, value in json.loads(line).items() if name != "mean_dice"}


def test_mean_dice_weighs_data_sets_alike() -> None:
    report = EpochReport(epoch=1, epochs=2, loss=0.5, dice={"a": 0.5, "b": 1.0}, seconds=1, seconds_left=1)
    assert report.mean_dice == 0.75


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("model", "segformer"),
        ("height", 100),
        ("width", 0),
        ("widths", (16, 32)),
        ("widths", (4, 8, 8, 8, 8)),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("warmup_share", 1.0),
        ("weight_decay", -1.0),
        ("average_momentum", 1.0),
        ("precision", "float8"),
        ("seed", -1),
        ("crop", "circle"),
        ("loss", "hinge"),
        ("minutes", 0.0),
        ("frozen_stages", -1),
    ],
)
def test_an_impossible_setting_is_refused(setting: str, value: object) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**{setting: value})  # type: ignore[arg-type]


def test_only_an_encoder_has_stages_to_freeze() -> None:
    with pytest.raises(ConfigError, match="--frozen-stages"):
        TrainConfig(frozen_stages=1)
    TrainConfig(model="resunetpp-lite0", frozen_stages=1)


def test_the_size_has_to_suit_the_network() -> None:
    assert TrainConfig(height=104, width=352).height == 104
    with pytest.raises(ConfigError, match="352x104; unet takes sides that are multiples of 16"):
        TrainConfig(model="unet", height=104, width=352)
