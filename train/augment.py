"""Paired augmentation of one image and its mask, deterministic for a given random generator.

Images are uint8 RGB (H, W, 3), masks uint8 0 or 1 (H, W). Geometry moves both; color, blur, noise, glare and
compression touch the image alone.
"""

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.errors import ConfigError
from polypstream.train.negatives import without_polyp
from polypstream.train.style import Style, restyled

Image = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength or probability of each change; zero disables it."""

    flip: float = 0.5
    """Probability of each of a horizontal and a vertical flip."""
    quarter_turn: float = 0.5
    """Probability of a rotation by a random multiple of 90 degrees (square images only)."""
    rotation_deg: float = 30.0
    scale: float = 0.35
    """Zoom in or out by a factor of up to (1 + scale)."""
    aspect: float = 0.1
    shift: float = 0.12
    """Largest translation, as a fraction of the side."""
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.3
    hue_deg: float = 10.0
    white_balance: float = 0.1
    """Largest relative change of the gain of each color channel."""
    gamma: float = 0.25
    blur: float = 0.15
    """Probability of a defocus or motion blur."""
    noise: float = 0.15
    glare: float = 0.15
    lighting: float = 0.0
    """Probability of a region lit more strongly, up to overexposure, or less."""
    compression: float = 0.2
    border: float = 0.15
    """Probability of a black octagon or circle around the image, as endoscopes draw it."""
    clean: float = 0.1
    """Probability of zooming in on a polyp-free region, if there is one."""
    covered: float = 0.0
    """Probability of covering a sufficiently small polyp with mucosa from elsewhere in the image."""
    style: Style = field(default_factory=Style)
    """Changes that imitate other hospitals and video."""

    def __post_init__(self) -> None:
        for name, value in {**vars(self), **vars(self.style)}.items():
            if not isinstance(value, Style) and not 0 <= value < math.inf:
                raise ConfigError(f"augmentation {name} is {value}; it must be a non-negative number")


PRESETS = {
    "light": Augmentation(
        rotation_deg=20,
        scale=0.25,
        aspect=0.08,
        shift=0.08,
        brightness=0.15,
        contrast=0.15,
        saturation=0.15,
        hue_deg=5,
        white_balance=0.05,
        gamma=0.12,
        blur=0.04,
        noise=0.04,
        glare=0.05,
        compression=0.05,
        border=0.2,
        clean=0,
    ),
    "strong": Augmentation(),
    "hospitals": Augmentation(
        scale=0.5,
        shift=0.15,
        gamma=0.4,
        blur=0.2,
        compression=0.15,
        border=0.05,
        covered=0.1,
        lighting=0.2,
        style=Style(
            amplitude=0.35,
            color=0.35,
            sharpening=0.15,
            interlacing=0.06,
            color_break=0.08,
            low_chroma=0.15,
            blocks=0.15,
        ),
    ),
}
"""Presets by the name that `polypstream train --augmentation` accepts."""


def augment(
    rgb: Image, mask: Image, settings: Augmentation, rng: np.random.Generator, *, other: Image | None = None
) -> tuple[Image, Image]:
    """Return a changed copy of the pair; the same generator state gives the same result.

    `other` is an image of the same size whose style may be transferred; without it, style changes are skipped.
    """
    if settings.covered and rng.random() < settings.covered:
        rgb, mask = without_polyp(rgb, mask, rng)
    if rng.random() < settings.clean:
        rgb, mask = _clean_part(rgb, mask, rng)
    rgb, mask = _moved(rgb, mask, settings, rng)
    if other is not None and settings.style != Style():
        rgb = restyled(rgb, other, settings.style, rng)
    rgb = _recolored(rgb, settings, rng)
    if settings.lighting and rng.random() < settings.lighting:
        rgb = _unevenly_lit(rgb, rng)
    if rng.random() < settings.glare:
        rgb = _with_glare(rgb, rng)
    if rng.random() < settings.blur:
        rgb = _blurred(rgb, rng)
    if rng.random() < settings.noise:
        noise = rng.normal(0, rng.uniform(2, 10), rgb.shape)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
    if rng.random() < settings.compression:
        rgb = _compressed(rgb, int(rng.integers(25, 85)))
    if rng.random() < settings.border:
        rgb, mask = _bordered(rgb, mask, rng)
    return rgb, mask


def _clean_part(rgb: Image, mask: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    """Crop a polyp-free region and scale it to the full size; the pair itself if there is no such region."""
    height, width = mask.shape
    share = rng.uniform(0.45, 0.8)
    rows, columns = max(1, int(height * share)), max(1, int(width * share))
    sums = cv2.integral(mask)
    polyp = sums[rows:, columns:] - sums[:-rows, columns:] - sums[rows:, :-columns] + sums[:-rows, :-columns]
    places = np.argwhere(polyp == 0)
    if not len(places):
        return rgb, mask
    y, x = places[rng.integers(len(places))]
    part = cv2.resize(rgb[y : y + rows, x : x + columns], (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(part, dtype=np.uint8), np.zeros_like(mask)


def _moved(rgb: Image, mask: Image, settings: Augmentation, rng: np.random.Generator) -> tuple[Image, Image]:
    height, width = mask.shape
    angle = np.deg2rad(rng.uniform(-settings.rotation_deg, settings.rotation_deg))
    if height == width and rng.random() < settings.quarter_turn:
        angle += np.pi / 2 * rng.integers(4)
    zoom = _factor(settings.scale, rng)
    stretch = _factor(settings.aspect, rng)
    flip_x, flip_y = (-1 if rng.random() < settings.flip else 1 for _ in range(2))
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([zoom * stretch * flip_x, zoom / stretch * flip_y])
    center = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = rng.uniform(-settings.shift, settings.shift, 2) * (width, height)
    affine = np.hstack([turn, (center + shift - turn @ center)[:, None]])
    border = cv2.BORDER_REFLECT_101 if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    moved = cv2.warpAffine(rgb, affine, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)
    moved_mask = cv2.warpAffine(mask, affine, (width, height), flags=cv2.INTER_NEAREST, borderMode=border)
    return np.asarray(moved, dtype=np.uint8), np.asarray(moved_mask, dtype=np.uint8)


def _factor(limit: float, rng: np.random.Generator) -> float:
    return float((1 + limit) ** rng.uniform(-1, 1))


def _recolored(rgb: Image, settings: Augmentation, rng: np.random.Generator) -> Image:
    gains = 1 + rng.uniform(-settings.white_balance, settings.white_balance, 3)
    contrast = _factor(settings.contrast, rng)
    brightness = rng.uniform(-settings.brightness, settings.brightness)
    gamma = _factor(settings.gamma, rng)
    levels = np.linspace(0, 1, 256)[:, None] * gains
    levels = np.clip((levels - 0.5) * contrast + 0.5 + brightness * levels, 0, 1) ** gamma
    rgb = cv2.LUT(rgb, (levels * 255).round().astype(np.uint8)[:, None, :]).astype(np.uint8)
    if settings.saturation == 0 and settings.hue_deg == 0:
        return rgb
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hue = (np.arange(256) + rng.uniform(-settings.hue_deg, settings.hue_deg) / 2) % 180
    saturation = np.clip(np.arange(256) * _factor(settings.saturation, rng), 0, 255)
    table = np.stack([hue, saturation, np.arange(256)], axis=-1).astype(np.uint8)[:, None, :]
    return np.asarray(cv2.cvtColor(cv2.LUT(hsv, table), cv2.COLOR_HSV2RGB), dtype=np.uint8)


def _blurred(rgb: Image, rng: np.random.Generator) -> Image:
    side = max(rgb.shape[:2])
    if rng.random() < 0.5:
        return np.asarray(cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.5, 2.0) * side / 256), dtype=np.uint8)
    length = int(rng.integers(3, max(4, side // 16)))
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1 / length
    turn = cv2.getRotationMatrix2D(((length - 1) / 2, (length - 1) / 2), rng.uniform(0, 180), 1)
    turned = np.asarray(cv2.warpAffine(kernel, turn, (length, length)))
    return np.asarray(cv2.filter2D(rgb, -1, turned / turned.sum()), dtype=np.uint8)


def _with_glare(rgb: Image, rng: np.random.Generator) -> Image:
    height, width = rgb.shape[:2]
    light = np.zeros((height, width), np.float32)
    for _ in range(rng.integers(1, 8)):
        center = int(rng.integers(width)), int(rng.integers(height))
        axes = tuple(int(a) for a in rng.integers(1, max(2, width // 24), 2))
        cv2.ellipse(light, center, axes, rng.uniform(0, 180), 0, 360, 1.0, -1, cv2.LINE_AA)
    spread = np.asarray(cv2.GaussianBlur(light, (0, 0), max(0.6, width / 256)))[..., None]
    return (rgb + (250 - rgb.astype(np.float32)).clip(0) * spread).clip(0, 255).astype(np.uint8)


def _unevenly_lit(rgb: Image, rng: np.random.Generator) -> Image:
    """Change the exposure around a point, as the light of an endoscope does with the distance of the tissue."""
    height, width = rgb.shape[:2]
    center_y, center_x = rng.uniform(-0.1, 1.1, 2) * (height, width)
    spread = rng.uniform(0.15, 0.5) * max(height, width)
    stops = rng.uniform(-1.5, 1.5)
    rows = np.exp(-0.5 * ((np.arange(height) - center_y) / spread) ** 2)
    columns = np.exp(-0.5 * ((np.arange(width) - center_x) / spread) ** 2)
    gain = 2 ** (stops * np.outer(rows, columns))
    return np.clip(rgb * gain[..., np.newaxis], 0, 255).astype(np.uint8)


def _compressed(rgb: Image, quality: int) -> Image:
    _, jpeg = cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), dtype=np.uint8)


def _bordered(rgb: Image, mask: Image, rng: np.random.Generator) -> tuple[Image, Image]:
    height, width = mask.shape
    inside = np.zeros((height, width), np.uint8)
    if rng.random() < 0.5:
        radius = int(rng.uniform(0.5, 0.68) * max(height, width))
        cv2.circle(inside, (width // 2, height // 2), radius, 1, -1)
    else:
        cut_x, cut_y = rng.uniform(0.02, 0.25) * width, rng.uniform(0.02, 0.25) * height
        x, y = width - 1, height - 1
        top, bottom = [(cut_x, 0), (x - cut_x, 0)], [(x - cut_x, y), (cut_x, y)]
        right, left = [(x, cut_y), (x, y - cut_y)], [(0, y - cut_y), (0, cut_y)]
        cv2.fillConvexPoly(inside, np.array(top + right + bottom + left, np.int32), 1)
    return rgb * inside[..., None], mask * inside
