from pathlib import Path

import cv2
import numpy as np
import pytest

from polypstream.errors import DatasetError
from polypstream.train.data import load_samples, load_splits, pairs_from_folder, pairs_from_folders
from polypstream.train.image_files import read_mask
from tests.discs import disc_picture, write_discs, write_picture


@pytest.mark.parametrize("layout", [("images", "masks"), ("Original", "Ground Truth")])
def test_both_published_layouts_are_read(tmp_path: Path, layout: tuple[str, str]) -> None:
    pairs = pairs_from_folder(write_discs(tmp_path / "Discs", 3, layout=layout, suffix=".tif"))
    assert [pair.key for pair in pairs] == [("discs", "000"), ("discs", "001"), ("discs", "002")]
    assert all(pair.image.parent.name == layout[0] and pair.mask.parent.name == layout[1] for pair in pairs)


def test_an_image_and_its_mask_may_differ_in_format(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 1)
    (folder / "images" / "000.png").unlink()
    write_picture(folder / "images" / "000.JPG", disc_picture(0)[0])
    assert pairs_from_folder(folder)[0].image.name == "000.JPG"


def test_every_missing_partner_and_shared_name_is_listed(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 5)
    for gone in ("images/000.png", "images/001.png", "masks/002.png", "masks/003.png"):
        (folder / gone).unlink()
    write_picture(folder / "images" / "004.jpg", disc_picture(0)[0])
    with pytest.raises(DatasetError) as caught:
        pairs_from_folder(folder)
    for part in ("image for mask 000.png", "mask 001.png", "no mask for 002.png", "003.png", "004.jpg and 004.png"):
        assert part in str(caught.value)


def test_other_and_hidden_files_are_skipped(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 1)
    (folder / "images" / "._000.png").write_bytes(b"a Mac was here")
    (folder / "images" / "Thumbs.db").write_bytes(b"and a PC")
    assert len(pairs_from_folder(folder)) == 1


def test_a_folder_of_no_known_layout_says_what_it_should_hold(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="'images/' and 'masks/' or 'Original/' and 'Ground Truth/'"):
        pairs_from_folder(tmp_path)


def test_missing_partners_unreadable_images_and_other_sizes_are_reported_together(tmp_path: Path) -> None:
    one, other = write_discs(tmp_path / "one", 4), write_discs(tmp_path / "other", 2)
    (one / "masks" / "000.png").unlink()
    (one / "images" / "001.png").write_bytes(b"text")
    write_picture(one / "masks" / "002.png", np.zeros((30, 20), np.uint8))
    (other / "masks" / "001.png").write_bytes(b"text")
    with pytest.raises(DatasetError) as caught:
        pairs_from_folders([one, other, tmp_path / "none"])
    for part in (
        "no mask for 000.png",
        "one/images/001.png cannot be read",
        "002.png is 32x32 but its mask is 20x30",
        "other/masks/001.png cannot be read",
        "none is not a data set",
    ):
        assert part in str(caught.value)
    assert "003.png" not in str(caught.value)


def test_errors_in_several_folders_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"one is not a data set.*two is not a data set"):
        pairs_from_folders([tmp_path / "one", tmp_path / "two"])


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    folders = [write_discs(tmp_path / parent / "discs", 1) for parent in "ab"]
    with pytest.raises(DatasetError, match="two data folders are called 'discs'"):
        pairs_from_folders(folders)


def test_a_jpeg_mask_is_cut_at_127(tmp_path: Path) -> None:
    _, mask = disc_picture(3, height=64, width=64)
    path = tmp_path / "mask.jpg"
    write_picture(path, cv2.GaussianBlur(mask, (3, 3), 0).astype(np.uint8))
    read = read_mask(path)
    assert read.dtype == np.bool_
    gray = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    assert ((gray > 0) & (gray < 255)).any()
    np.testing.assert_array_equal(read, gray > 127)


def test_the_threshold_itself_is_background(tmp_path: Path) -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[0, :3] = 127, 128, 255
    write_picture(tmp_path / "mask.png", mask)
    assert read_mask(tmp_path / "mask.png")[0, :3].tolist() == [False, True, True]


def test_an_empty_mask_is_a_mask(tmp_path: Path) -> None:
    write_picture(tmp_path / "mask.png", np.zeros((8, 8), np.uint8))
    assert not read_mask(tmp_path / "mask.png").any()


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (np.eye(8, dtype=np.uint8) + np.eye(8, k=1, dtype=np.uint8) * 2, "brightest pixel is 2 of 255"),
        (np.arange(256, dtype=np.uint8).reshape(16, 16), "of it is neither black nor white"),
    ],
)
def test_a_mask_that_is_not_black_and_white_is_refused(tmp_path: Path, mask: np.ndarray, complaint: str) -> None:
    write_picture(tmp_path / "mask.png", mask)
    with pytest.raises(DatasetError, match=complaint):
        read_mask(tmp_path / "mask.png")


def test_every_unusable_pair_is_listed(tmp_path: Path) -> None:
    folder = write_discs(tmp_path / "discs", 6)
    (folder / "images" / "000.png").write_bytes(b"text")
    (folder / "images" / "001.png").write_bytes(b"")
    (folder / "masks" / "001.png").write_bytes(b"text")
    whole = (folder / "images" / "002.png").read_bytes()
    (folder / "images" / "002.png").write_bytes(whole[: len(whole) // 8])
    write_picture(folder / "masks" / "003.png", np.zeros((30, 20), np.uint8))
    write_picture(folder / "masks" / "004.png", np.eye(32, dtype=np.uint8) + np.eye(32, k=1, dtype=np.uint8) * 2)
    with pytest.raises(DatasetError) as caught:
        load_samples(pairs_from_folder(folder), height=16, width=16)
    message = str(caught.value)
    assert message.startswith("5 of 6 pairs cannot be used")
    for part in (
        "images/000.png",
        "images/001.png",
        "masks/001.png",
        "images/002.png",
        "is 32x32 but its mask is 20x30",
    ):
        assert part in message
    assert "masks/004.png is not a black and white mask" in message
    assert "\n" not in message


def test_loading_scales_image_and_mask_alike(tmp_path: Path) -> None:
    rgb, mask = np.zeros((40, 64, 3), np.uint8), np.zeros((40, 64), np.uint8)
    mask[:20, :32] = 255
    rgb[:20, :32] = 200, 100, 50
    for part, image in (("images", rgb), ("masks", mask)):
        (tmp_path / "set" / part).mkdir(parents=True)
        write_picture(tmp_path / "set" / part / "a.png", image)
    samples = load_samples(pairs_from_folder(tmp_path / "set"), height=16, width=24)
    assert samples.rgb.shape == (1, 16, 24, 3)
    assert samples.masks.shape == (1, 16, 24)
    assert samples.rgb.dtype == samples.masks.dtype == np.uint8
    assert samples.rgb[0, 2, 2].tolist() == [200, 100, 50]
    np.testing.assert_array_equal(samples.masks[0], samples.rgb[0, ..., 0] > 100)


def test_splits_are_loaded_together_and_distinguished(tmp_path: Path) -> None:
    pairs = pairs_from_folder(write_discs(tmp_path / "discs", 5))
    loaded = load_splits({"training": pairs[:3], "validation": pairs[3:]}, height=32, width=32)
    assert [len(loaded[name]) for name in ("training", "validation")] == [3, 2]
    np.testing.assert_array_equal(loaded["validation"].rgb[0], disc_picture(3)[0])
    assert loaded["validation"].pairs == tuple(pairs[3:])


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    pairs = pairs_from_folder(write_discs(tmp_path / "discs", 1))
    with pytest.raises(DatasetError, match="no images for validation"):
        load_splits({"training": pairs, "validation": []}, height=32, width=32)


def test_images_and_masks_are_cropped_alike(tmp_path: Path) -> None:
    rgb, mask = np.zeros((60, 120, 3), np.uint8), np.zeros((60, 120), np.uint8)
    rgb[10:50, 40:100], mask[10:30, 40:70] = (150, 90, 80), 255
    for folder, picture in (("images", rgb), ("masks", mask)):
        (tmp_path / "box" / folder).mkdir(parents=True)
        write_picture(tmp_path / "box" / folder / "0.png", picture)
    samples = load_samples(pairs_from_folder(tmp_path / "box"), height=20, width=20, crop="content")
    assert samples.rgb.min(axis=-1).all()
    expected = np.zeros((20, 20), np.uint8)
    expected[:10, :10] = 1
    np.testing.assert_array_equal(samples.masks[0], expected)
