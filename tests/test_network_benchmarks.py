"""The benchmarks of networks and operating points count correctly, and run on data in the expected layout."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.calibration import Reliability
from benchmarks.detection import (
    MIN_AREA_SHARES,
    THRESHOLDS,
    Detection,
    FrameRegions,
    Region,
    counted,
    regions_of_frame,
    wilson_interval,
)
from benchmarks.network_cost import multiply_accumulates
from benchmarks.operating_points import VALIDATION, chosen_point
from polypstream.train.networks.registry import NETWORKS
from polypstream.train.networks.resunetpp import WIDTHS
from tests.discs import write_discs, write_picture
from tests.evaluation.test_evaluate import write_clip
from tests.models import write_green_finder

ROOT = Path(__file__).parents[1]
SETS = ("kvasir-seg", "cvc-clinicdb", "polypgen")
GRID = (len(THRESHOLDS), len(MIN_AREA_SHARES))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Discs in the layout of the real data: per set four images for training, two for validation and two for
    testing."""
    folder = tmp_path / "data"
    for name in SETS:
        write_discs(folder / name, 8)
        for index in (3, 5) if name == "polypgen" else ():
            write_picture(folder / name / "images" / f"{index:03d}.png", np.full((32, 32, 3), 40, np.uint8))
            write_picture(folder / name / "masks" / f"{index:03d}.png", np.zeros((32, 32), np.uint8))
    parts = ["train"] * 4 + ["val"] * 2 + ["test"] * 2
    rows = [f"{name},{n:03d}.png,{part},{part}" for name in SETS for n, part in enumerate(parts)]
    (folder / "splits.csv").write_text("\n".join(["dataset,image,grouped,random", *rows]), encoding="utf-8")
    (folder / "video").mkdir()
    clip, masks = write_clip(tmp_path)
    clip.rename(folder / "video" / "apparent.mp4")
    masks.rename(folder / "video" / "apparent_masks")
    return folder


def run(module: str, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def written(folder: Path, name: str) -> dict[str, Any]:
    (path,) = folder.glob(f"{name}-*.json")
    assert path.with_suffix(".md").read_text(encoding="utf-8").startswith(f"`python -m benchmarks.{name}`, commit ")
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return report


def blob(height: int, width: int, *, at: tuple[slice, slice], value: float) -> np.ndarray:
    probability = np.zeros((height, width), np.float32)
    probability[at] = value
    return probability


def test_regions_are_distinguished_by_what_they_touch() -> None:
    truth = np.zeros((80, 100), np.bool_)
    truth[10:30, 10:30] = True
    hit = blob(40, 50, at=(slice(5, 15), slice(5, 15)), value=0.7)
    stray = blob(40, 50, at=(slice(25, 35), slice(30, 45)), value=0.42)
    frame = regions_of_frame(np.maximum(hit, stray), truth)
    assert frame.has_polyp
    by_threshold = {at: sorted(r.overlaps for r in regions) for at, regions in zip(THRESHOLDS, frame.at, strict=True)}
    assert by_threshold[0.4] == [False, True]
    assert by_threshold[0.45] == by_threshold[0.7] == [True]
    assert by_threshold[0.75] == []
    assert frame.at[THRESHOLDS.index(0.5)][0].area_share == pytest.approx(100 / 2000, rel=0.1)


def frame(has_polyp: bool, *regions: tuple[float, bool]) -> FrameRegions:
    """Regions at every threshold up to 0.5, none above."""
    found = tuple(Region(area_share=share, overlaps=overlaps) for share, overlaps in regions)
    return FrameRegions(has_polyp=has_polyp, at=tuple(found if at <= 0.5 else () for at in THRESHOLDS))


def test_frames_are_counted_at_every_point() -> None:
    frames = [frame(True, (0.05, True), (0.0015, False)), frame(True), frame(False, (0.0006, False)), frame(False)]
    detection = counted(frames)
    low, high = THRESHOLDS.index(0.3), THRESHOLDS.index(0.6)
    assert (detection.polyp_frames, detection.clean_frames) == (2, 2)
    assert detection.sensitivity[low].tolist() == [0.5] * len(MIN_AREA_SHARES)
    assert detection.false_alarm_rate[low].tolist() == [0.5, 0, 0, 0, 0, 0]
    assert detection.stray_regions[low].tolist() == [0.5, 0.5, 0, 0, 0, 0]
    assert not detection.found[high].any()
    assert not detection.alarming[high].any()


def grids(**changes: tuple[tuple[int, int], float]) -> Detection:
    """A hundred frames of each kind, all detected and with alarms, with one cell of each named grid changed."""
    values = {name: np.full(GRID, 100.0) for name in ("found", "alarming", "stray")}
    for name, (at, value) in changes.items():
        values[name][at] = value
    return Detection(polyp_frames=100, clean_frames=100, **values)


def test_the_point_with_the_fewest_false_alarms_is_chosen_among_the_sensitive_ones() -> None:
    point = chosen_point(grids(alarming=((3, 1), 10.0)), "sensitive")
    assert point.values == {"threshold": THRESHOLDS[3], "min_area_share": MIN_AREA_SHARES[1]}
    insensitive = grids(alarming=((3, 1), 10.0), found=((3, 1), 90.0))
    assert chosen_point(insensitive, "sensitive") != point
    assert chosen_point(insensitive, "specific") == point


def test_where_some_point_is_sensitive_enough_those_that_fall_just_short_are_not_compared() -> None:
    found = np.full(GRID, 94.0)
    found[3, 1] = 95.0
    alarming = np.zeros(GRID)
    alarming[3, 1] = 40.0
    detection = Detection(polyp_frames=100, clean_frames=100, found=found, alarming=alarming, stray=np.zeros(GRID))
    point = chosen_point(detection, "sensitive")
    assert (point.row, point.column) == (3, 1)


def test_no_point_leaves_out_regions_as_large_as_small_polyps() -> None:
    point = chosen_point(grids(alarming=((3, 5), 0.0)), "sensitive")
    assert point.values["min_area_share"] <= 0.001


def test_ties_go_to_the_higher_sensitivity_then_to_fewer_stray_regions_and_an_unreached_one_to_the_highest() -> None:
    point = chosen_point(grids(stray=((4, 1), 20.0)), "sensitive")
    assert (point.row, point.column) == (4, 1)
    found = np.full(GRID, 96.0)
    found[2, 1] = 97.0
    stray = np.full(GRID, 5.0)
    stray[4, 1] = 0.0
    tied = Detection(polyp_frames=100, clean_frames=9, found=found, alarming=np.zeros(GRID), stray=stray)
    point = chosen_point(tied, "sensitive")
    assert (point.row, point.column) == (2, 1)
    hopeless = Detection(
        polyp_frames=10, clean_frames=10, found=np.eye(*GRID), alarming=np.eye(*GRID), stray=np.zeros(GRID)
    )
    assert chosen_point(hopeless, "sensitive").row == chosen_point(hopeless, "sensitive").column


def test_where_no_frame_alarms_the_specific_point_is_the_strictest_that_finds_enough() -> None:
    found = np.full(GRID, 100.0)
    found[-2:] = 79.0
    silent = Detection(polyp_frames=100, clean_frames=9, found=found, alarming=np.zeros(GRID), stray=np.full(GRID, 3.0))
    point = chosen_point(silent, "specific")
    assert point.values == {"threshold": THRESHOLDS[-3], "min_area_share": 0.001}


def test_a_calibrated_map_has_no_error_and_an_overconfident_one_has_its_own() -> None:
    truth = np.zeros((10, 10), np.bool_)
    truth[:3] = True
    calibrated, overconfident = Reliability(), Reliability()
    calibrated.add(np.full((5, 5), 0.3, np.float32), truth)
    overconfident.add(np.full((5, 5), 0.95, np.float32), truth)
    assert calibrated.expected_error() == pytest.approx(0, abs=1e-6)
    assert overconfident.expected_error() == pytest.approx(0.65, abs=1e-6)
    assert overconfident.bins[-1].polyp_share == pytest.approx(0.3)
    assert overconfident.bins[0].polyp_share is None
    assert calibrated.expected_error(least=0.5) == 0


def test_every_frame_weighs_the_same_in_calibration() -> None:
    reliability = Reliability()
    reliability.add(np.full((4, 4), 0.05, np.float32), np.zeros((400, 400), np.bool_))
    reliability.add(np.full((4, 4), 0.95, np.float32), np.ones((4, 4), np.bool_))
    assert [each.pixel_share for each in reliability.bins if each.pixel_share] == [0.5, 0.5]


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.8])
def test_the_temperature_that_distorted_probabilities_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (8, 120, 120))
    reliability = Reliability()
    for true in logits:
        truth = rng.random(true.shape) < 1 / (1 + np.exp(-true))
        reliability.add((1 / (1 + np.exp(-true * temperature))).astype(np.float32), truth)
    assert reliability.temperature() == pytest.approx(temperature, abs=0.05)


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 9, 0.0, 0.299), (10, 20, 0.299, 0.701), (9, 9, 0.701, 1)]
)
def test_fractions_of_few_frames_have_wide_intervals(hits: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(hits, count) == pytest.approx((low, high), abs=1e-3)


@pytest.mark.parametrize(("size", "gmac"), [(352, 29.6), (256, 15.7)])
def test_the_cost_of_resunetpp_is_as_published(size: int, gmac: float) -> None:
    network = NETWORKS["resunetpp"].build(height=size, width=size, widths=WIDTHS)
    assert multiply_accumulates(network) / 1e9 == pytest.approx(gmac, abs=0.05)


def test_transposed_convolutions_count_for_every_pixel_that_goes_in() -> None:
    import keras

    image = keras.Input((4, 6, 3))
    assert multiply_accumulates(keras.Model(image, keras.layers.Conv2DTranspose(5, 2, strides=2)(image))) == 24 * 60


def test_operating_points_are_chosen_and_reported(tmp_path: Path, data: Path) -> None:
    model = write_green_finder(tmp_path / "m.onnx")
    done = run("operating_points", "--data", data, "--model", model, "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    report = written(tmp_path / "results", "operating_points")
    assert report["points"].keys() == {"sensitive", "specific"}
    for point in report["points"].values():
        validation, clip = point["on"][VALIDATION], point["on"]["real clip"]
        assert (validation["polyp_frames"], validation["clean_frames"]) == (5, 1)
        assert (clip["polyp_frames"], clip["clean_frames"]) == (3, 3)
        seen = point["on"]["polypgen clean frames seen in training"]
        assert (seen["polyp_frames"], seen["clean_frames"]) == (0, 1)
        assert "sensitivity" not in seen
    assert sum(each["pixel_share"] for each in report["calibration"][VALIDATION]["bins"]) == pytest.approx(1)
    assert "| sensitive |" in done.stdout


@pytest.mark.slow
def test_networks_are_trained_once_and_compared(tmp_path: Path, data: Path) -> None:
    runs, results = tmp_path / "runs", tmp_path / "results"
    budget = ("--epochs", 1, "--size", 32, "--batch-size", 4, "--networks", "unet", "resunet")
    options = ("--data", data, "--runs", runs, "--results", results, *budget)
    trained = run("compare_networks", *options, "--train-only")
    assert trained.returncode == 0, trained.stderr
    assert not results.exists()
    for name in ("unet", "resunet"):
        (runs / f"{name}-seed0" / "last.npz").unlink()  # too big to bring back from another machine
    again = run("compare_networks", *options)
    assert again.returncode == 0, again.stderr
    assert "epoch 1/1" in trained.stdout
    assert "epoch 1/1" not in again.stdout
    report = written(results, "compare_networks")
    assert [row["network"] for row in report["networks"]] == ["unet", "resunet"]
    for row in report["networks"]:
        assert row["test"].keys() == {"kvasir-seg", "cvc-clinicdb"}
        assert row["test"]["kvasir-seg"]["dice"]["count"] == 2
        assert row["frame_time"]["median_ms"] > 0
        assert (runs / f"{row['network']}-seed0" / "best.onnx").exists()
    refused = run("compare_networks", *options, "--epochs", 2)
    assert "epochs was 1, now 2" in refused.stderr


@pytest.mark.slow
def test_networks_trained_elsewhere_keep_their_rows(tmp_path: Path, data: Path) -> None:
    budget = ("--data", data, "--epochs", 1, "--size", 32, "--batch-size", 4)
    first = run("compare_networks", *budget, "--networks", "resunet", "--runs", tmp_path / "a", "--results", tmp_path)
    assert first.returncode == 0, first.stderr
    (resunet,) = written(tmp_path, "compare_networks")["networks"]
    (previous,) = tmp_path.glob("*.json")
    more = ("--networks", "unet", "--runs", tmp_path / "b", "--previous", previous)
    second = run("compare_networks", *budget, *more, "--results", tmp_path / "both")
    assert second.returncode == 0, second.stderr
    rows = written(tmp_path / "both", "compare_networks")["networks"]
    assert [row["network"] for row in rows] == ["unet", "resunet"]
    assert all(row["frame_time"]["median_ms"] > 0 for row in rows)
    assert {key: rows[1][key] for key in ("runs", "test")} == {key: resunet[key] for key in ("runs", "test")}
    refused = run("compare_networks", *budget, *more, "--results", tmp_path / "both", "--learning-rate", 0.1)
    assert f"{previous} differs in recipe" in refused.stderr


@pytest.mark.slow
def test_a_recipe_is_scored_on_the_source_that_it_was_not_trained_on(data: Path, tmp_path: Path) -> None:
    rows = [f"{number:03d}.png,C{4 if number in {0, 6} else 1},0.1" for number in range(8)]
    (data / "polypgen" / "centres.csv").write_text("\n".join(["image,centre,polyp_fraction", *rows]), encoding="utf-8")
    budget = ("--epochs", 1, "--size", 32, "--recipes", "0.5.0", "--left-out", "polypgen C4")
    done = run("left_out_sources", "--data", data, "--runs", tmp_path / "runs", "--results", tmp_path, *budget)
    assert done.returncode == 0, done.stderr
    (row,) = written(tmp_path, "left_out_sources")["rows"]
    assert (row["left_out"], row["dice"]["count"]) == ("polypgen C4", 2)
    assert row["gain"]["mean"] == 0
    folder = tmp_path / "runs" / "0.5.0-without-polypgen-C4"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["training"].startswith("11 images,")  # twelve without the one of C4
