"""Style augmentation: imitates the images of other hospitals and of video; deterministic in the generator.

Images are uint8 RGB (H, W, 3). No change moves anything by more than a few pixels, so masks are left unchanged.
Sources: Yang and Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020, for the amplitudes;
Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001, for the colors.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

HIGHEST_FREQUENCY = 6.0
"""Highest spatial frequency, in periods per image side, at which amplitudes of another image are mixed in."""
SMALL = 48
"""Side in pixels of the reduced images on which amplitudes are mixed."""
LARGEST_SHIFT = 0.02
"""Largest shift between fields or color channels due to motion, as a fraction of the image side."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """Probability of each change; the defaults change nothing."""

    amplitude: float = 0.0
    """Low-frequency brightness and color of another image, by mixing Fourier amplitudes."""
    color: float = 0.0
    """Mean and standard deviation of each Lab channel, taken from another image."""
    sharpening: float = 0.0
    interlacing: float = 0.0
    """Every second row captured slightly later."""
    color_break: float = 0.0
    """Red, green and blue captured at different times, as by cameras with a color wheel."""
    low_chroma: float = 0.0
    """Chroma at half or a quarter of the resolution, as in subsampled video."""
    blocks: float = 0.0
    """Downscaled, strongly compressed and upscaled again, like a low-quality stream."""


def restyled(rgb: Image, other: Image, style: Style, rng: np.random.Generator) -> Image:
    """Return a changed copy of `rgb`; colors and amplitudes come from `other`, an image of the same size."""
    for probability, change in (
        (style.color, lambda x: _with_colors_of(x, other, rng)),
        (style.amplitude, lambda x: _with_amplitudes_of(x, other, rng)),
        (style.sharpening, lambda x: _sharpened(x, rng)),
        (style.color_break, lambda x: _with_color_break(x, rng)),
        (style.interlacing, lambda x: _interlaced(x, rng)),
        (style.low_chroma, lambda x: _with_low_chroma(x, rng)),
        (style.blocks, lambda x: _with_blocks(x, rng)),
    ):
        rgb = _apply_with_probability(probability, change, rgb, rng)
    return rgb


def _apply_with_probability(
    probability: float, change: Callable[[Image], Image], rgb: Image, rng: np.random.Generator
) -> Image:
    return change(rgb) if rng.random() < probability else rgb


def _with_amplitudes_of(rgb: Image, other: Image, rng: np.random.Generator) -> Image:
    """Mix amplitudes in reduced copies and upscale the difference, since only low frequencies change."""
    size = rgb.shape[1], rgb.shape[0]
    small = tuple(min(SMALL, side) for side in size)
    images = [cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32) for image in (rgb, other)]
    own, others = (np.fft.rfft2(image, axes=(0, 1)) for image in images)
    rows, columns = np.abs(np.fft.fftfreq(small[1])) * small[1], np.fft.rfftfreq(small[0]) * small[0]
    limit = rng.uniform(0, HIGHEST_FREQUENCY)
    share = rng.uniform(0, 1) * ((rows[:, None] <= limit) & (columns[None] <= limit))[..., None]
    amplitude = (1 - share) * np.abs(own) + share * np.abs(others)
    mixed = np.fft.irfft2(amplitude * np.exp(1j * np.angle(own)), s=small[::-1], axes=(0, 1))
    difference = cv2.resize((mixed - images[0]).astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(rgb + difference, 0, 255).astype(np.uint8) * _content(rgb), np.uint8)


def _with_colors_of(rgb: Image, other: Image, rng: np.random.Generator) -> Image:
    own, others = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32) for image in (rgb, other))
    within, within_other = _content(rgb)[..., 0] == 1, _content(other)[..., 0] == 1
    if not within.any() or not within_other.any():
        return rgb
    mean, spread = own[within].mean(0), own[within].std(0) + 1
    wanted_mean, wanted_spread = others[within_other].mean(0), others[within_other].std(0) + 1
    share = rng.uniform(0, 1)
    gain = 1 + share * (np.clip(wanted_spread / spread, 0.5, 2) - 1)
    lab = (own - mean) * gain + mean + share * (wanted_mean - mean)
    lab = np.clip(lab.round(), 0, 255).astype(np.uint8)
    moved = np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)
    return np.asarray(moved * _content(rgb), np.uint8)


def _content(rgb: Image) -> Image:
    """1 where the image is not black, else 0, (H, W, 1): black borders stay black."""
    return np.asarray(rgb.max(axis=2, keepdims=True) > 12, np.uint8)


def _sharpened(rgb: Image, rng: np.random.Generator) -> Image:
    soft = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.8, 2.0))
    share = rng.uniform(0.3, 1.5)
    return np.asarray(cv2.addWeighted(rgb, 1 + share, soft, -share, 0), np.uint8)


def _shift(rgb: Image, rng: np.random.Generator) -> tuple[int, int]:
    """Rows and columns, not both zero where the image is large enough."""
    most = max(1, round(LARGEST_SHIFT * max(rgb.shape[:2])))
    rows, columns = (int(each) for each in rng.integers(-most, most + 1, 2))
    return rows, columns or 1


def _shifted(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    affine = np.array([[1, 0, columns], [0, 1, rows]], np.float32)
    size = image.shape[1], image.shape[0]
    return np.asarray(cv2.warpAffine(image, affine, size, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def _interlaced(rgb: Image, rng: np.random.Generator) -> Image:
    combed = rgb.copy()
    combed[1::2] = _shifted(rgb, *_shift(rgb, rng))[1::2]
    return combed


def _with_color_break(rgb: Image, rng: np.random.Generator) -> Image:
    rows, columns = _shift(rgb, rng)
    first, third = rng.permutation(3)[:2]
    broken = rgb.copy()
    broken[..., first] = _shifted(np.ascontiguousarray(rgb[..., first]), rows, columns)
    broken[..., third] = _shifted(np.ascontiguousarray(rgb[..., third]), -rows, -columns)
    return broken


def _with_low_chroma(rgb: Image, rng: np.random.Generator) -> Image:
    factor = int(rng.choice((2, 4)))
    ycc = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb)
    size = ycc.shape[1], ycc.shape[0]
    small = cv2.resize(
        ycc[..., 1:], (max(1, size[0] // factor), max(1, size[1] // factor)), interpolation=cv2.INTER_AREA
    )
    ycc[..., 1:] = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB), np.uint8)


def _with_blocks(rgb: Image, rng: np.random.Generator) -> Image:
    size = rgb.shape[1], rgb.shape[0]
    factor = rng.uniform(1.2, 3)
    small = cv2.resize(
        rgb, (max(8, int(size[0] / factor)), max(8, int(size[1] / factor))), interpolation=cv2.INTER_AREA
    )
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 70))]
    _, data = cv2.imencode(".jpg", small[..., ::-1], quality)
    small = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]
    return np.asarray(cv2.resize(np.ascontiguousarray(small), size, interpolation=cv2.INTER_LINEAR), np.uint8)
