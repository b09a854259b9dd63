"""Image and mask files in the formats that users have."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from polypstream.errors import ConfigError, DatasetError
from polypstream.train.data import PairReader, load_splits, pairs_from_folder, pairs_from_folders, read_pair
from polypstream.train.image_files import MaskValues, read_mask, read_rgb
from tests.discs import disc_picture, write_discs

SHAPE = (48, 64)
DISC = cv2.circle(np.zeros(SHAPE, np.uint8), (30, 22), 12, 1, -1) > 0
OTHER = cv2.circle(np.zeros(SHAPE, np.uint8), (54, 38), 7, 1, -1) > 0


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def colored(*shapes: tuple[np.ndarray, tuple[int, ...]], ground: tuple[int, ...] = (0, 0, 0)) -> np.ndarray:
    """An image (H, W, channels) of shapes in colors."""
    image = np.empty((*SHAPE, len(ground)), np.uint8)
    image[:] = ground
    for shape, color in shapes:
        image[shape] = color
    return image


@pytest.mark.parametrize("white", [1, 128, 255, 1000, 65535])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_16_bit_mask_is_read_with_any_white_level(tmp_path: Path, suffix: str, white: int) -> None:
    path = write(tmp_path / f"mask{suffix}", DISC.astype(np.uint16) * white)
    np.testing.assert_array_equal(read_mask(path), DISC)


@pytest.mark.parametrize("white", [1.0, 255.0])
def test_a_floating_point_mask_is_read(tmp_path: Path, white: float) -> None:
    np.testing.assert_array_equal(read_mask(write(tmp_path / "mask.tif", DISC.astype(np.float32) * white)), DISC)


def test_a_mask_of_zeros_and_ones_is_read(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_mask(write(tmp_path / "mask.png", DISC.astype(np.uint8))), DISC)


def test_a_1_bit_mask_is_read(tmp_path: Path) -> None:
    Image.fromarray(DISC).save(tmp_path / "mask.png")
    Image.fromarray(DISC).save(tmp_path / "mask.tif", compression="group4")
    for name in ("mask.png", "mask.tif"):
        np.testing.assert_array_equal(read_mask(tmp_path / name), DISC)


@pytest.mark.parametrize("palette", [(0, 0, 0, 128, 0, 0), (0, 0, 0, 255, 255, 255), (0, 0, 0, 1, 1, 1)])
def test_a_palette_mask_is_read_by_its_colors(tmp_path: Path, palette: tuple[int, ...]) -> None:
    image = Image.fromarray(DISC.astype(np.uint8), mode="P")
    image.putpalette(palette)
    image.save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png"), DISC)


def test_every_color_on_black_is_polyp(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.png", colored((DISC, (0, 0, 255)), (OTHER, (0, 64, 0))))  # red, dark green
    np.testing.assert_array_equal(read_mask(path), DISC | OTHER)


def test_colors_in_a_jpeg_are_read_without_its_noise(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.jpg", colored((DISC, (0, 0, 255)), (OTHER, (0, 255, 0))))
    assert np.mean(read_mask(path) ^ (DISC | OTHER)) < 0.03


def test_colors_without_black_are_refused_until_one_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.png", colored((DISC, (0, 0, 255)), ground=(255, 0, 0)))
    with pytest.raises(DatasetError, match=r"mask\.png .*no black background.*#0000ff.*#ff0000.*--mask-values"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, MaskValues.parse("#ff0000")), DISC)


@pytest.mark.parametrize("levels", [(1, 2), (128, 255), (100, 255), (85, 170)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_gray_levels_as_classes_are_refused_until_named(tmp_path: Path, levels: tuple[int, int], depth: type) -> None:
    path = write(tmp_path / "mask.png", DISC.astype(depth) * levels[0] + OTHER.astype(depth) * levels[1])
    with pytest.raises(DatasetError, match=rf"mask\.png .*it holds 0, {levels[0]}, {levels[1]}.*--mask-values"):
        read_mask(path)
    np.testing.assert_array_equal(read_mask(path, MaskValues.parse(str(levels[1]))), OTHER)
    np.testing.assert_array_equal(read_mask(path, MaskValues.parse(f"{levels[0]},{levels[1]}")), DISC | OTHER)


@pytest.mark.parametrize(
    "bgra",
    [
        np.dstack([colored(ground=(255, 255, 255)), DISC * np.uint8(255)]),
        np.dstack([colored(), DISC * np.uint8(255)]),
        np.dstack([colored((DISC, (0, 0, 255))), DISC * np.uint8(160)]),
        np.dstack([colored((DISC, (255, 255, 255))), np.full(SHAPE, 255, np.uint8)]),
        np.dstack([colored((DISC, (255, 255, 255))), (DISC | OTHER) * np.uint8(255)]),
    ],
    ids=["white, cut out", "black, cut out", "red overlay", "opaque", "transparent margin"],
)
def test_a_shape_in_the_alpha_channel_is_read(tmp_path: Path, bgra: np.ndarray) -> None:
    np.testing.assert_array_equal(read_mask(write(tmp_path / "mask.png", bgra)), DISC)


def test_color_and_alpha_that_disagree_are_refused(tmp_path: Path) -> None:
    color = colored((DISC, (255, 255, 255)), (OTHER, (0, 0, 255)))
    path = write(tmp_path / "mask.png", np.dstack([color, (~OTHER) * np.uint8(255)]))
    with pytest.raises(DatasetError, match=r"mask\.png: color and transparency show different shapes"):
        read_mask(path)


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_a_jpeg_mask_with_noise_is_read(tmp_path: Path, quality: int) -> None:
    path = tmp_path / "mask.jpg"
    cv2.imwrite(str(path), DISC * np.uint8(255), [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert np.mean(read_mask(path) ^ DISC) < 0.01


def test_noise_in_an_empty_jpeg_mask_is_not_a_polyp(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 4, SHAPE, dtype=np.uint8)
    path = tmp_path / "mask.jpg"
    cv2.imwrite(str(path), noise, [cv2.IMWRITE_JPEG_QUALITY, 100])
    assert cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).any()  # type: ignore[union-attr]
    assert not read_mask(path).any()


def test_labels_of_one_in_a_jpeg_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.jpg"
    cv2.imwrite(str(path), DISC.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 100])
    with pytest.raises(DatasetError, match=r"brightest pixel is .* of 255.*--mask-values"):
        read_mask(path)


def data_set(folder: Path, masks: list[np.ndarray]) -> Path:
    """A data set of discs with other masks of the same names."""
    write_discs(folder, len(masks))
    for index, mask in enumerate(masks):
        write(folder / "masks" / f"{index:03d}.png", mask)
    return folder


def test_inverted_masks_are_refused_until_black_is_named(tmp_path: Path) -> None:
    truth = [disc_picture(index)[1] for index in range(3)]
    folder = data_set(tmp_path / "discs", [255 - mask for mask in truth])
    parts = {"training": pairs_from_folder(folder)[:2], "validation": pairs_from_folder(folder)[2:]}
    with pytest.raises(DatasetError, match=r"masks of discs look inverted.*--mask-values 0"):
        load_splits(parts, height=32, width=32)
    pairs = pairs_from_folders([folder], mask_values=MaskValues.parse("0"))
    loaded = load_splits({"training": pairs[:2], "validation": pairs[2:]}, height=32, width=32)
    np.testing.assert_array_equal(loaded["training"].masks, np.stack(truth[:2]) > 0)


def test_one_large_polyp_is_not_taken_for_an_inverted_mask(tmp_path: Path) -> None:
    truth = [disc_picture(index)[1] for index in range(2)]
    folder = data_set(tmp_path / "discs", [np.full_like(truth[0], 255), *truth])
    reader = PairReader()
    for pair in pairs_from_folder(folder):
        reader.read(pair)
    assert reader.problems == []


def test_masks_that_mark_with_different_values_are_refused(tmp_path: Path) -> None:
    masks = [(disc_picture(index)[1] > 0).astype(np.uint8) * value for index, value in enumerate((1, 2))]
    folder = data_set(tmp_path / "discs", masks)
    parts = {"training": pairs_from_folder(folder)[:1], "validation": pairs_from_folder(folder)[1:]}
    with pytest.raises(DatasetError, match=r"discs mark with different values \(1 in .*000\.png and 2 in .*001\.png\)"):
        load_splits(parts, height=32, width=32)


def test_data_without_any_polyp_are_refused(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "discs", [np.zeros((32, 32), np.uint8)] * 3)
    pairs = pairs_from_folder(folder)
    with pytest.raises(DatasetError, match=r"no mask for training and validation shows a polyp \(2, 1 images\)"):
        load_splits({"training": pairs[:2], "validation": pairs[2:]}, height=32, width=32)


RGB = np.dstack([np.full(SHAPE, 200), np.full(SHAPE, 90), np.linspace(20, 240, SHAPE[1])[None].repeat(SHAPE[0], 0)])
RGB = RGB.astype(np.uint8)


@pytest.mark.parametrize(
    "write_image",
    [
        lambda path: cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16) * 257),
        lambda path: cv2.imwrite(str(path), RGB[..., ::-1].astype(np.uint16)),
        lambda path: cv2.imwrite(str(path), RGB[..., ::-1].astype(np.float32) / 255),
        lambda path: cv2.imwrite(str(path), RGB[..., ::-1].astype(np.float32)),
        lambda path: Image.fromarray(RGB).convert("CMYK").save(path),
    ],
    ids=["16 bits", "8 of 16 bits", "float to 1", "float to 255", "CMYK"],
)
def test_images_of_any_depth_are_read(tmp_path: Path, write_image: Callable[[Path], object]) -> None:
    write_image(tmp_path / "image.tif")
    assert np.abs(read_rgb(tmp_path / "image.tif").astype(int) - RGB).max() <= 1


def test_a_cmyk_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "image.jpg", quality=98)
    assert np.abs(read_rgb(tmp_path / "image.jpg").astype(int) - RGB).mean() < 4


def test_12_bits_in_16_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "image.png", RGB.astype(np.uint16) * 16)
    with pytest.raises(DatasetError, match=r"image\.png holds values up to 3840 of uint16; convert it to 8 bits"):
        read_rgb(path)


@pytest.mark.parametrize("turned", [True, False], ids=["mask as displayed", "mask as stored"])
def test_an_image_turned_by_exif_fits_its_mask(tmp_path: Path, turned: bool) -> None:
    (tmp_path / "discs" / "images").mkdir(parents=True)
    (tmp_path / "discs" / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    stored = np.where(DISC, 230, 20).astype(np.uint8)
    Image.fromarray(stored).convert("RGB").save(tmp_path / "discs" / "images" / "a.jpg", exif=exif, quality=95)
    mask = DISC * np.uint8(255)
    write(tmp_path / "discs" / "masks" / "a.png", np.rot90(mask, -1) if turned else mask)
    rgb, truth = read_pair(pairs_from_folder(tmp_path / "discs")[0])
    assert rgb.shape[:2] == truth.shape == (SHAPE[::-1] if turned else SHAPE)
    assert np.mean((rgb[..., 0] > 127) ^ truth) < 0.01


def test_a_mask_of_another_size_names_both_files(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "discs", [np.zeros((30, 20), np.uint8)])
    with pytest.raises(DatasetError, match=r"000\.png is 32x32 but its mask is 20x30"):
        load_splits({"training": pairs_from_folder(folder)}, height=32, width=32)


@pytest.mark.parametrize("text", ["red", "#12345", "1;2"])
def test_malformed_mask_values_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="neither a gray level nor a color"):
        MaskValues.parse(text)
