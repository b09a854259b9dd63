"""If the contract has a crop rule, the network sees only the content area, and its output is placed back there."""

from pathlib import Path

import numpy as np
import pytest

from polypstream.arrays import Mask, Rgb
from polypstream.content import CropRule
from polypstream.evaluation.evaluate import evaluate_pairs, mask_at
from polypstream.evaluation.predictor import open_predictor
from polypstream.train.data import pairs_from_folder
from tests.discs import write_picture
from tests.models import SIZE, contract, write_green_finder


def small_picture_in_a_large_frame() -> tuple[Rgb, Mask]:
    rgb, mask = np.zeros((240, 400, 3), np.uint8), np.zeros((240, 400), np.bool_)
    rgb[60:170, 210:330] = (160, 60, 60)
    mask[100:109, 250:259] = True
    rgb[mask] = (60, 200, 60)
    return rgb, mask


def model(folder: Path, crop: CropRule) -> Path:
    return write_green_finder(folder / f"{crop}.onnx", metadata=contract(crop=crop).to_metadata())


def test_the_result_is_limited_to_the_content_area(tmp_path: Path) -> None:
    rgb, mask = small_picture_in_a_large_frame()
    with open_predictor(model(tmp_path, "content")) as predictor:
        found = mask_at(mask.shape, predictor.predict(rgb), 0.5)
        anywhere = mask_at(mask.shape, predictor.predict(rgb), 1e-6)
    assert not anywhere[:56].any()
    assert not anywhere[174:].any()
    assert not anywhere[:, :206].any()
    assert not anywhere[:, 334:].any()
    assert np.count_nonzero(found != mask) < 0.3 * mask.sum()


def test_a_small_polyp_is_outlined_better_than_in_the_whole_frame(tmp_path: Path) -> None:
    rgb, mask = small_picture_in_a_large_frame()
    for folder, picture in (("images", rgb), ("masks", mask.astype(np.uint8) * 255)):
        (tmp_path / "box" / folder).mkdir(parents=True)
        write_picture(tmp_path / "box" / folder / "0.png", picture)
    dice = {}
    for crop in ("none", "content"):
        with open_predictor(model(tmp_path, crop)) as predictor:
            dice[crop] = evaluate_pairs(predictor.predict, pairs_from_folder(tmp_path / "box"), 0.5).images[0].dice
    assert dice["content"] > max(0.85, dice["none"])


@pytest.mark.parametrize("asked", ["none", "content"])
def test_the_crop_rule_can_be_overridden(tmp_path: Path, asked: CropRule) -> None:
    rgb, _ = small_picture_in_a_large_frame()
    other = "content" if asked == "none" else "none"
    with open_predictor(model(tmp_path, other), crop=asked) as predictor:
        assert (predictor.predict(rgb).shape == (SIZE, SIZE)) == (asked == "none")
