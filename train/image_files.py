"""Reads image and mask files of any kind: any bit depth, palettes, alpha, EXIF rotation, JPEG noise.

A mask is read only if its meaning is unambiguous; all others are refused by name. Unambiguous means: one
foreground value on black, one or more colors on black, or a shape in the alpha channel. Which values mean polyp can
be stated instead (`MaskValues`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Mask, Rgb
from polypstream.errors import ConfigError, DatasetError

MASK_THRESHOLD = 127
"""In a mask with noise or soft edges, a value above this (of 255) is polyp: some published masks are JPEGs."""
DARK, BRIGHT = MASK_THRESHOLD // 4, 255 - MASK_THRESHOLD // 4
"""Values between these two are ambiguous: a soft edge, or not a mask."""
MOST_GRAY = 0.2
"""Largest fraction of pixels on soft edges; above it, the file is a photograph or a probability map."""
FLAT = 5
"""Side in pixels of a square of one gray level that counts as a separate class rather than a soft edge."""
NOISE = 8
"""Largest value that compression noise has in an empty mask."""
LOSSY_TOLERANCE = 24
"""Largest deviation of a value due to JPEG compression."""
MOST_COLORS = 16
"""A lossless mask with at most this many colors is a class map."""

WHITE = "white"
"""Value that means polyp in an ordinary mask: the brightest, or any color."""

Raw = NDArray[Any]


@dataclass(frozen=True)
class MaskValues:
    """The values that mean polyp in a mask: gray levels as stored, or colors. Empty: detected automatically."""

    grays: tuple[int, ...] = ()
    colors: tuple[tuple[int, int, int], ...] = ()
    """Red, green, blue."""

    def __bool__(self) -> bool:
        return bool(self.grays or self.colors)

    def __str__(self) -> str:
        return ",".join([*map(str, self.grays), *("#{:02x}{:02x}{:02x}".format(*color) for color in self.colors)])

    @classmethod
    def parse(cls, text: str) -> "MaskValues":
        """Parse a list such as `1,2` or `#ff0000,#00ff00`; raises `ConfigError` if it is malformed."""
        grays, colors = [], []
        for part in filter(None, (part.strip() for part in text.split(","))):
            try:
                if part.startswith("#") and len(part) == 7:
                    red, green, blue = bytes.fromhex(part[1:])
                    colors.append((red, green, blue))
                else:
                    grays.append(int(part))
            except ValueError:
                raise ConfigError(
                    f"'{part}' is neither a gray level nor a color; give mask values such as 1,2 or #ff0000,#00ff00"
                ) from None
        return cls(tuple(grays), tuple(colors))


@dataclass(frozen=True, kw_only=True)
class MaskFile:
    """One mask as read."""

    mask: Mask
    """Bool (H, W), true where there is polyp."""
    value: str
    """Value that means polyp: `WHITE`, or a gray level such as "1"; empty if there is no polyp."""

    @property
    def looks_inverted(self) -> bool:
        """Whether most of the image and nearly all of its border is marked."""
        border = np.concatenate([self.mask[0], self.mask[-1], self.mask[:, 0], self.mask[:, -1]])
        return bool(self.mask.mean() > 0.5 and border.mean() > 0.9)


def read_rgb(path: Path) -> Rgb:
    """Read an image file, as it is displayed: EXIF rotation applied, CMYK and palettes converted, alpha dropped.

    Args:
        path: The file: JPEG, PNG, TIFF or BMP, of 8 or 16 bits or floating point.

    Returns:
        uint8 RGB (H, W, 3).

    Raises:
        DatasetError: The file cannot be decoded, or its range of values is unclear.
    """
    return _rgb(path, _decoded(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH))


def read_stored_rgb(path: Path) -> Rgb:
    """Read an image file as `read_rgb` does, but without its EXIF rotation."""
    return _rgb(path, _decoded(path, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION))


def read_mask(path: Path, values: MaskValues | None = None) -> Mask:
    """Read a mask file.

    Args:
        path: The file, in any format that `read_rgb` takes.
        values: Values that mean polyp; detected automatically by default.

    Returns:
        bool (H, W), true where there is polyp.

    Raises:
        DatasetError: The file cannot be decoded, or it is unclear which of its values mean polyp.
    """
    return read_mask_file(path, values).mask


def read_mask_file(path: Path, values: MaskValues | None = None) -> MaskFile:
    """Read a mask file and the value that means polyp in it; see `read_mask`."""
    raw, is_lossy = _decoded_mask(path)
    if values:
        return MaskFile(mask=_matching(path, raw, values, tolerance=LOSSY_TOLERANCE * is_lossy), value=str(values))
    if raw.ndim == 3 and raw.shape[2] == 4:
        raw = _without_alpha(path, raw)
    if raw.ndim == 3:
        spread = raw.max(axis=2).astype(np.float64) - raw.min(axis=2)
        if spread.max() > (NOISE if is_lossy else 0):
            return _color_mask(path, raw, is_lossy)
        raw = raw.max(axis=2)
    return _gray_mask(path, raw, is_lossy)


def _decoded(path: Path, flags: int) -> Raw:
    try:
        data = path.read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except (OSError, cv2.error):
        image = None
    if image is None:
        raise DatasetError(f"{path} cannot be read as an image")
    return np.asarray(image)


def _rgb(path: Path, bgr: Raw) -> Rgb:
    if bgr.dtype != np.uint8:
        bgr = _in_8_bits(path, bgr)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _in_8_bits(path: Path, image: Raw) -> Raw:
    """Convert an image of 16 bits or floating point to 0 to 255, if its range is unambiguous."""
    largest = float(image.max())
    if not np.isfinite(image).all() or float(image.min()) < 0:
        raise DatasetError(f"{path} holds negative or undefined values; convert it to 8 bits")
    if np.issubdtype(image.dtype, np.floating) and largest <= 1:
        scale = 255.0
    elif largest <= 255:
        scale = 1.0
    elif image.dtype == np.uint16 and largest >= 4096:
        scale = 1 / 257
    else:
        raise DatasetError(f"{path} holds values up to {largest:g} of {image.dtype}; convert it to 8 bits")
    scaled: Raw = (image.astype(np.float64) * scale).round().astype(np.uint8)
    return scaled


def _decoded_mask(path: Path) -> tuple[Raw, bool]:
    """A mask with its depth and channels as stored (BGR, BGRA), and whether the format is lossy."""
    image = _decoded(path, cv2.IMREAD_UNCHANGED)
    head = path.read_bytes()[:65536]
    is_jpeg = head.startswith(b"\xff\xd8")
    if is_jpeg or (b"eXIf" in head and (image.ndim == 2 or image.shape[2] < 4)):  # "unchanged" ignores a rotation
        image = _decoded(path, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if not np.isfinite(image).all():
        raise DatasetError(f"{path} is not a mask: it holds values that are not numbers")
    return image, is_jpeg


def _matching(path: Path, raw: Raw, values: MaskValues, *, tolerance: int) -> Mask:
    """The pixels within `tolerance` of any of the given values."""
    color = raw[..., :3] if raw.ndim == 3 else np.repeat(raw[..., np.newaxis], 3, axis=2)
    color = color.astype(np.float64)
    wanted = [(blue, green, red) for red, green, blue in values.colors] + [(gray,) * 3 for gray in values.grays]
    mask = np.zeros(raw.shape[:2], np.bool_)
    for value in wanted:
        mask |= (np.abs(color - np.array(value)) <= tolerance).all(axis=2)
    if values.grays and raw.ndim == 3 and not values.colors and np.ptp(color, axis=2).max() > max(NOISE, tolerance):
        raise DatasetError(f"{path} is in color, but the mask values {values} are gray levels; give colors, #rrggbb")
    return mask


def _without_alpha(path: Path, bgra: Raw) -> Raw:
    """The color channels of a mask, or its alpha channel if that holds the shape."""
    color, alpha = bgra[..., :3], bgra[..., 3]
    if alpha.min() == alpha.max():
        return color
    drawn = color.max(axis=2) > 0
    is_one_color = (color == color[0, 0]).all()
    if is_one_color or not color[alpha > 0].any() or np.array_equal(drawn, alpha > 0):
        return alpha
    if not (drawn & (alpha == 0)).any():  # fully transparent wherever it is black, and in other places
        return color
    visible = color[alpha > 0]
    if (visible == visible[0]).all():  # one opaque color; the transparent part may hold anything
        return alpha
    raise DatasetError(f"{path}: color and transparency show different shapes; save it without an alpha channel")


def _color_mask(path: Path, bgr: Raw, is_lossy: bool) -> MaskFile:
    """Any color on black."""
    value = bgr.max(axis=2)
    if is_lossy:
        mask = _bimodal(path, value)
    else:
        colors = np.unique(bgr.reshape(-1, 3), axis=0)
        mask = np.asarray(value > 0) if len(colors) <= MOST_COLORS else _bimodal(path, value)
    if mask.all():
        raise _unclear(path, "it has no black background", _colors_in(bgr))
    return MaskFile(mask=mask, value=WHITE)


def _gray_mask(path: Path, gray: Raw, is_lossy: bool) -> MaskFile:
    """One gray level on black, in any depth, or black and white with soft edges."""
    levels = np.unique(gray)
    if levels[0] < 0:
        raise _unclear(path, "it holds negative values", levels)
    if is_lossy and levels[-1] <= NOISE and not _has_flat_part(gray, gray > 0):
        return MaskFile(mask=np.zeros(gray.shape, np.bool_), value="")
    if levels[0] == 0 and len(levels) <= 2 and not is_lossy:
        value = "" if len(levels) == 1 else f"{levels[1]:g}"
        if len(levels) == 2 and _in_255(gray, float(levels[1])).max() >= BRIGHT:
            value = WHITE
        return MaskFile(mask=np.asarray(gray > 0), value=value)
    mask = _bimodal(path, _in_255(gray, float(levels[-1])))
    return MaskFile(mask=mask, value=WHITE if mask.any() else "")


def _in_255(gray: Raw, largest: float) -> Raw:
    """Scale gray levels of any depth to 0 to 255."""
    if gray.dtype == np.uint8:
        return gray
    if np.issubdtype(gray.dtype, np.floating) and largest <= 1:
        return np.asarray(gray * 255.0)
    return gray if largest <= 255 else np.asarray(gray * (255 / largest))


def _bimodal(path: Path, gray: Raw) -> Mask:
    """Black and white with soft edges and noise, 0 to 255; raises `DatasetError` for anything else."""
    between = np.asarray((gray > DARK) & (gray < BRIGHT))
    if gray.max() <= MASK_THRESHOLD:
        raise _unclear(path, f"its brightest pixel is {gray.max():g} of 255", np.unique(gray))
    if between.mean() > MOST_GRAY:
        raise DatasetError(f"{path} is not a mask: {between.mean():.0%} of it is neither black nor white")
    if _has_flat_part(gray, between):
        raise _unclear(path, "it has areas of several gray levels", np.unique(gray))
    return np.asarray(gray > MASK_THRESHOLD)


def _has_flat_part(gray: Raw, where: NDArray[np.bool_]) -> bool:
    """Whether a square of one level lies within `where`."""
    if not where.any():
        return False
    square, values = np.ones((FLAT, FLAT), np.uint8), gray.astype(np.float32)
    flat = cv2.dilate(values, square) == cv2.erode(values, square)
    return bool((flat & where)[FLAT // 2 : -(FLAT // 2), FLAT // 2 : -(FLAT // 2)].any())


def _colors_in(bgr: Raw) -> list[str]:
    colors = np.unique(bgr.reshape(-1, 3), axis=0)[:, ::-1]
    return sorted("#{:02x}{:02x}{:02x}".format(*color) for color in colors.astype(int))


def _unclear(path: Path, why: str, levels: Any) -> DatasetError:  # noqa: ANN401 - numbers of any type, or texts
    named = [level if isinstance(level, str) else f"{level:g}" for level in levels[:8]]
    more = ", …" if len(levels) > 8 else ""
    return DatasetError(
        f"{path} is not a black and white mask: {why}; it holds {', '.join(named)}{more}. "
        "Say which values mean polyp: --mask-values"
    )
