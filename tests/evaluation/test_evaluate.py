from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.arrays import Rgb
from polypstream.errors import ConfigError, DatasetError, SourceError
from polypstream.evaluation.evaluate import evaluate_pairs, evaluate_video, mask_at
from polypstream.evaluation.imports.read import LabelOptions
from polypstream.metrics import Overlap
from polypstream.train.data import pairs_from_folder, pairs_from_folders
from tests.discs import disc_picture, write_discs, write_picture

FRAMES = 6
WITH_POLYP = (1, 2, 4)


def red(rgb: Rgb) -> NDArray[np.float32]:
    """A predict function for bright discs, at the size of the image."""
    return np.asarray(rgb[..., 0] / 255, np.float32)


def nothing(rgb: Rgb) -> NDArray[np.float32]:
    return np.zeros((8, 8), np.float32)


def write_clip(folder: Path) -> tuple[Path, Path]:
    """Six frames of 64x48, three of them with a disc, losslessly, and their masks."""
    clip, masks = folder / "clip.mkv", folder / "masks"
    masks.mkdir()
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for index in range(FRAMES):
            rgb, mask = disc_picture(index, height=48, width=64)
            if index not in WITH_POLYP:
                rgb[mask > 0], mask = 30, np.zeros_like(mask)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
            write_picture(masks / f"{index:05d}.png", mask)
        container.mux(stream.encode(None))
    return clip, masks


def test_a_perfect_prediction_scores_1(tmp_path: Path) -> None:
    result = evaluate_pairs(red, pairs_from_folder(write_discs(tmp_path / "discs", 4)), 0.5)
    (row,) = result.datasets
    assert (row.dataset, row.dice.count) == ("discs", 4)
    assert row.dice.mean == row.iou.mean == row.class_mean_iou.mean == row.precision.mean == row.recall.mean == 1
    assert (row.dice.low, row.dice.high) == (1, 1)


def test_every_image_has_its_row(tmp_path: Path) -> None:
    pairs = pairs_from_folder(write_discs(tmp_path / "discs", 3))
    truth = [disc_picture(index)[1] > 0 for index in range(3)]
    result = evaluate_pairs(lambda _: np.full((32, 32), 0.7, np.float32), pairs, 0.5)
    for score, mask, pair in zip(result.images, truth, pairs, strict=True):
        overlap = Overlap.of(mask, np.ones_like(mask))
        assert (score.image, score.polyp_pixels) == (pair.image.name, int(np.count_nonzero(mask)))
        assert (score.dice, score.iou, score.class_mean_iou) == (overlap.dice, overlap.iou, overlap.class_mean_iou)
        assert (score.precision, score.recall) == (overlap.precision, 1)
    assert result.datasets[0].dice.mean == pytest.approx(np.mean([score.dice for score in result.images]))


def test_data_sets_are_distinguished(tmp_path: Path) -> None:
    folders = [write_discs(tmp_path / name, count) for name, count in (("b", 2), ("a", 3))]
    result = evaluate_pairs(red, pairs_from_folders(folders), 0.5)
    assert [(row.dataset, row.dice.count) for row in result.datasets] == [("b", 2), ("a", 3)]


def test_polyp_free_images_count(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 1)
    write_picture(folder / "masks" / "000.png", np.zeros((32, 32), np.uint8))
    pairs = pairs_from_folder(folder)
    assert evaluate_pairs(nothing, pairs, 0.5).images[0].dice == 1
    assert evaluate_pairs(red, pairs, 0.5).images[0].dice == 0


def test_a_map_of_model_size_is_evaluated_in_source_pixels() -> None:
    coarse = np.array([[0, 1], [0, 1]], np.float32)
    mask = mask_at((20, 40), coarse, 0.5)
    assert mask.shape == (20, 40)
    assert not mask[:, :20].any()
    assert mask[:, 20:].all()
    assert mask_at((20, 40), coarse, 0.9).sum() < mask.sum()  # between the two pixels the map is a ramp


def test_the_threshold_itself_is_polyp() -> None:
    assert mask_at((1, 2), np.array([[0.5, 0.49]], np.float32), 0.5).tolist() == [[True, False]]


def test_regions_that_never_reach_the_minimum_peak_are_not_polyp() -> None:
    probability = np.array([[0.6, 0.9, 0.1, 0.6, 0.7]], np.float32)
    assert mask_at((1, 5), probability, 0.5, 0.9).tolist() == [[True, True, False, False, False]]
    assert mask_at((1, 5), probability, 0.5).tolist() == [[True, True, False, True, True]]
    scaled = mask_at((10, 50), probability, 0.5, 0.9)
    assert scaled[:, :20].any()
    assert not scaled[:, 25:].any()


@pytest.mark.parametrize("min_peak", [1, -0.1, float("nan")])
def test_an_impossible_minimum_peak_is_refused(tmp_path: Path, min_peak: float) -> None:
    with pytest.raises(ConfigError, match="min_peak"):
        evaluate_pairs(red, [], 0.5, min_peak=min_peak)
    with pytest.raises(ConfigError, match="min_peak"):
        evaluate_video(red, tmp_path, tmp_path, 0.5, min_peak=min_peak)


def test_progress_is_reported(tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    pairs = pairs_from_folder(write_discs(tmp_path / "discs", 3))
    evaluate_pairs(red, pairs, 0.5, advance=lambda done, total: reported.append((done, total)))
    assert reported == [(1, 3), (2, 3), (3, 3)]


def test_every_unusable_pair_is_listed(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 4)
    (folder / "images" / "001.png").write_bytes(b"text")
    write_picture(folder / "masks" / "003.png", np.zeros((30, 20), np.uint8))
    with pytest.raises(DatasetError, match=r"2 of 4 pairs cannot be used: .*001.png.*; .*003.png is 32x32 .* 20x30"):
        evaluate_pairs(red, pairs_from_folder(folder), 0.5)


def test_no_pairs_are_refused() -> None:
    with pytest.raises(DatasetError, match="no images"):
        evaluate_pairs(red, [], 0.5)


@pytest.mark.parametrize("threshold", [0, 1, -1, float("nan")])
def test_an_impossible_threshold_is_refused(tmp_path: Path, threshold: float) -> None:
    with pytest.raises(ConfigError, match="threshold"):
        evaluate_pairs(red, [], threshold)
    with pytest.raises(ConfigError, match="threshold"):
        evaluate_video(red, tmp_path, tmp_path, threshold)


def test_a_clip_is_evaluated_frame_by_frame(tmp_path: Path) -> None:
    result = evaluate_video(red, *write_clip(tmp_path), 0.5)
    assert [frame.frame for frame in result.polyp_frames] == list(WITH_POLYP)
    assert [frame.frame for frame in result.clean_frames] == [0, 3, 5]
    assert result.dice is not None
    assert (result.dice.mean, result.dice.count) == (1, 3)
    assert (result.sensitivity, result.false_alarm_rate) == (1, 0)


def test_misses_and_false_alarms_are_distinguished(tmp_path: Path) -> None:
    clip, masks = write_clip(tmp_path)
    missing = evaluate_video(nothing, clip, masks, 0.5)
    assert missing.dice is not None
    assert (missing.dice.mean, missing.sensitivity, missing.false_alarm_rate) == (0, 0, 0)
    alarming = evaluate_video(lambda _: np.ones((4, 4), np.float32), clip, masks, 0.5)
    assert (alarming.sensitivity, alarming.false_alarm_rate) == (1, 1)
    assert all(frame.predicted_pixels == 48 * 64 for frame in alarming.frames)


def test_a_clip_without_polyps_has_no_dice(tmp_path: Path) -> None:
    clip, masks = write_clip(tmp_path)
    for index in range(FRAMES):
        write_picture(masks / f"{index:05d}.png", np.zeros((48, 64), np.uint8))
    result = evaluate_video(nothing, clip, masks, 0.5)
    assert (result.dice, result.sensitivity, result.false_alarm_rate) == (None, None, 0)
    assert asdict(result)["frames"][0]["dice"] == 1


def test_every_frame_and_mask_that_do_not_fit_are_listed(tmp_path: Path) -> None:
    clip, masks = write_clip(tmp_path)
    (masks / "00002.png").unlink()
    (masks / "00003.png").write_bytes(b"text")
    write_picture(masks / "00004.png", np.zeros((10, 10), np.uint8))
    write_picture(masks / "00009.png", np.zeros((48, 64), np.uint8))
    with pytest.raises(DatasetError) as caught:
        evaluate_video(red, clip, masks, 0.5, options=LabelOptions(are_complete=True))
    for part in (
        "frame 2 has no mask",
        "00003.png cannot be read",
        "00004.png is 10x10",
        "00009.png belongs to no frame",
    ):
        assert part in str(caught.value)


def test_a_file_that_is_not_a_video_is_reported(tmp_path: Path) -> None:
    _, masks = write_clip(tmp_path)
    (tmp_path / "text.mp4").write_text("not a video")
    for clip in (tmp_path / "text.mp4", tmp_path / "none.mp4"):
        with pytest.raises(SourceError, match=r"is not a video|there is no file"):
            evaluate_video(red, clip, masks, 0.5)


def test_a_folder_without_masks_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"00000\.png"):
        evaluate_video(red, write_clip(tmp_path)[0], tmp_path / "none", 0.5, options=LabelOptions(are_complete=True))
