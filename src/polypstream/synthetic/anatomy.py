"""Wall of the synthetic colon: its relief, color, wetness and polyps, generated from a seed.

Lengths are in mean radii of the lumen. The wall is unrolled: columns of a map go once around the tube (angle 0 to
2 pi), rows go along it. Both wrap around, so the scene repeats every `PERIOD` radii.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def floats(values: object) -> Floats:
    """Return the values as float32, without a copy if they already are."""
    return np.asarray(values, dtype=np.float32)


PERIOD = 24.0
RELIEF_SIZE = (1536, 384)
"""Rows and columns of the relief map."""
COLOR_SIZE = (3840, 1024)
"""Rows and columns of the color map: about 160 texels per radius."""
VESSEL_ROWS = 1280
"""Rows after which the larger vessels repeat."""
GLOSS_SIDE = 512
"""Side of the wetness tile, which repeats `GLOSS_TURNS` times around the tube."""
GLOSS_TURNS = 3
SKIN_SIDE = 384


class PolypKind(Enum):
    """Shapes of polyps."""

    SESSILE = "sessile"
    PEDUNCULATED = "pedunculated"
    FLAT = "flat"


@dataclass(frozen=True, kw_only=True)
class Polyp:
    """A polyp on the wall, at an angle (radians) and a position along the tube (radii)."""

    kind: PolypKind
    angle: float
    along: float
    size: float
    """Half of its width, in radii."""
    wall: float
    """Radius of the wall below it."""
    lean: tuple[float, float]
    """Offset of the top around the tube and along it, in multiples of `size`."""
    phase: float
    """Rotation of the surface bumps, different for each polyp."""
    skin: NDArray[np.uint8]
    """RGB reflectance, uint8 (SKIN_SIDE, SKIN_SIDE, 3)."""


@dataclass(frozen=True, kw_only=True)
class Wall:
    """The maps and polyps of one colon."""

    relief: Floats
    """Radius and its slope around (per radian) and along (per radius): RELIEF_SIZE + (3,)."""
    color: NDArray[np.uint8]
    """Linear RGB reflectance: COLOR_SIZE + (3,)."""
    gloss: Floats
    """Unit normals of the wet film (outward, around, along): (GLOSS_SIDE, GLOSS_SIDE, 3)."""
    polyps: tuple[Polyp, ...]


@lru_cache(maxsize=4)
def wall_from_seed(seed: int) -> Wall:
    """Generate the colon of a seed; takes about a second."""
    rng = np.random.default_rng([seed, 1])
    sites = _sites(rng)
    radius = _radius(rng, sites)
    columns = np.gradient(np.pad(radius, 1, mode="wrap"), axis=1)[1:-1, 1:-1] * (RELIEF_SIZE[1] / (2 * np.pi))
    rows = np.gradient(np.pad(radius, 1, mode="wrap"), axis=0)[1:-1, 1:-1] * (RELIEF_SIZE[0] / PERIOD)
    return Wall(
        relief=np.dstack([radius, columns, rows]).astype(np.float32),
        color=_color(rng, radius),
        gloss=_gloss(rng),
        polyps=tuple(_polyp(rng, kind, angle, along, radius) for kind, angle, along in sites),
    )


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float]) -> Floats:
    """Return periodic noise of mean 0 and standard deviation of about 1, with the given cells down and across."""
    rows, columns = (max(3, round(c)) for c in cells)
    grid = np.pad(rng.standard_normal((rows, columns)).astype(np.float32), 3, mode="wrap")
    high, wide = size[0] / rows, size[1] / columns
    turn = np.array([[1 / wide, 0, 3.0], [0, 1 / high, 3.0]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(grid, turn, (size[1], size[0]), flags=flags).astype(np.float32)
    return floats(noise / max(float(noise.std()), 1e-6))


def _sites(rng: np.random.Generator) -> list[tuple[PolypKind, float, float]]:
    """Choose the polyps and their positions in order of withdrawal: one, an empty stretch, two together, and so on."""
    gaps = (0.0, 3.6, 0.9, 3.6, 3.6, 0.9, 3.4, 3.0)
    kinds = list(PolypKind)
    first = int(rng.integers(3))
    angle = float(rng.uniform(0, 2 * np.pi))
    sites, along = [], 2.4
    for number, gap in enumerate(gaps):
        along = (along - gap + float(rng.uniform(-0.15, 0.15))) % PERIOD
        angle += float(rng.uniform(1.5, 3.2))
        sites.append((kinds[(first + number) % 3], angle % (2 * np.pi), along))
    return sites


def _polyp(rng: np.random.Generator, kind: PolypKind, angle: float, along: float, radius: Floats) -> Polyp:
    row, column = int(along / PERIOD * RELIEF_SIZE[0]), int(angle / (2 * np.pi) * RELIEF_SIZE[1])
    size = {PolypKind.SESSILE: (0.30, 0.42), PolypKind.PEDUNCULATED: (0.26, 0.32), PolypKind.FLAT: (0.34, 0.44)}[kind]
    return Polyp(
        kind=kind,
        angle=angle,
        along=along,
        size=float(rng.uniform(*size)),
        wall=float(radius[row % RELIEF_SIZE[0], column % RELIEF_SIZE[1]]),
        lean=(float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.6, 0.2))),
        phase=float(rng.uniform(0, 2 * np.pi)),
        skin=_skin(rng, kind),
    )


def _radius(rng: np.random.Generator, sites: list[tuple[PolypKind, float, float]]) -> Floats:
    """Return the radius of the wall: three flat sides, pouches, and folds that span part of the circumference."""
    rows, columns = RELIEF_SIZE
    along = np.linspace(0, PERIOD, rows, endpoint=False)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None, :]
    twist = 0.9 * np.sin(2 * np.pi * along / PERIOD * 2 + rng.uniform(0, 6)) + rng.uniform(0, 6)
    radius = 1.03 + 0.06 * np.cos(3 * (angle - twist))
    radius = radius + 0.035 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 0.9, 5))
    radius = radius + 0.010 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 2.8, 16))
    radius = radius + 0.0022 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 8, 48))
    folds = np.zeros(RELIEF_SIZE)
    for center, middle, depth in _fold_places(rng, sites):
        near_rows = (round(center * rows / PERIOD) + np.arange(-90, 90)) % rows
        span = rng.uniform(-0.45, 0.45)
        window = np.clip((np.cos(angle - middle) - span) / (1.0 - span) * 1.9, 0, 1)
        window = window * window * (3 - 2 * window)
        bow = rng.uniform(-0.16, 0.16) * np.cos(angle - rng.uniform(0, 6)) + 0.1 * np.cos(2 * angle + rng.uniform(0, 6))
        offset = (along[near_rows] - center - bow + PERIOD / 2) % PERIOD - PERIOD / 2
        width = rng.uniform(0.11, 0.17)
        near, far = np.exp(-((np.abs(offset) / width) ** 1.7)), np.exp(-((offset / (2.4 * width)) ** 2))
        folds[near_rows] = np.maximum(folds[near_rows], depth * window * (0.76 * near + 0.24 * far))
    return floats(radius - folds)


def _fold_places(
    rng: np.random.Generator, sites: list[tuple[PolypKind, float, float]]
) -> list[tuple[float, float, float]]:
    """Return position, center angle and height of each fold; one lies in front of each polyp and hides it later."""
    places = [
        ((along - 0.62) % PERIOD, angle + rng.uniform(-0.5, 0.5), rng.uniform(0.30, 0.38)) for _, angle, along in sites
    ]
    place, middle = 0.0, rng.uniform(0, 6)
    while place < PERIOD - 0.5:
        middle += rng.uniform(1.3, 2.9)
        if all(abs(place - along) > 0.42 or np.cos(middle - angle) < -0.2 for _, angle, along in sites):
            places.append((place, middle, rng.uniform(0.2, 0.42)))
        place += rng.uniform(0.5, 0.95)
    return places


def _color(rng: np.random.Generator, radius: Floats) -> NDArray[np.uint8]:
    """Return pink-orange mucosa with blotches, paler on the crests, with vessels at three depths."""
    rows, columns = COLOR_SIZE
    blotch = 0.6 * smooth_noise(rng, COLOR_SIZE, (PERIOD * 0.8, 5)) + 0.4 * smooth_noise(rng, COLOR_SIZE, (70, 18))
    warmth = smooth_noise(rng, COLOR_SIZE, (PERIOD * 0.6, 4))
    grain = 0.6 * smooth_noise(rng, COLOR_SIZE, (420, 112)) + 0.4 * smooth_noise(rng, COLOR_SIZE, (1250, 333))
    crest = cv2.resize(np.clip((0.92 - radius) * 2.2, 0, 1), (columns, rows), interpolation=cv2.INTER_LINEAR)
    blood = 1 + 0.13 * blotch + 0.05 * grain + 0.7 * _vessels(rng) - 0.3 * crest
    patches = np.clip(smooth_noise(rng, COLOR_SIZE, (PERIOD * 1.6, 10)) - 0.9, 0, 1)
    blood += 0.18 * patches
    absorbed = np.array([0.10, 1.16, 1.78], np.float32)
    color = np.exp(-absorbed * blood[..., None].clip(0.2, 3))
    color *= 1 + warmth[..., None] * np.array([0.0, 0.02, -0.05], np.float32)
    return np.asarray((color * 255).clip(0, 255).round(), dtype=np.uint8)


def _vessels(rng: np.random.Generator) -> Floats:
    """Return the contribution of blood vessels: trees, sharp near the surface and blurred below, and a fine net."""
    shallow = cv2.GaussianBlur(_trees(rng, 70, width=2.9, reach=150), (0, 0), 1.1)
    deep = cv2.GaussianBlur(_trees(rng, 26, width=8.0, reach=330), (0, 0), 4.5)
    fine = cv2.GaussianBlur(_trees(rng, 330, width=1.7, reach=80), (0, 0), 0.8)
    drawn = np.tile(0.9 * shallow + 0.55 * deep + 0.5 * fine, (COLOR_SIZE[0] // VESSEL_ROWS, 1))
    net = smooth_noise(rng, COLOR_SIZE, (330, 88))
    net = np.clip(1 - np.abs(net) * 4.5, 0, 1) * np.clip(0.6 + 0.7 * smooth_noise(rng, COLOR_SIZE, (50, 13)), 0, 1.4)
    strength = np.clip(0.75 + 0.45 * smooth_noise(rng, COLOR_SIZE, (PERIOD * 0.7, 5)), 0.1, 1.6)
    return floats((drawn + 0.2 * net) * strength)


def _trees(rng: np.random.Generator, count: int, *, width: float, reach: float) -> Floats:
    """Draw random branching trees, 0 to 1, on a periodic map of VESSEL_ROWS; width and reach in texels."""
    size, margin, steps = (VESSEL_ROWS, COLOR_SIZE[1]), 400, 14
    canvas = np.zeros((size[0] + 2 * margin, size[1] + 2 * margin), np.uint8)
    starts = margin + rng.uniform(0, 1, (count, 2)) * (size[1], size[0])
    headings = rng.uniform(0, 2 * np.pi, count)
    while width > 0.7 and reach > 14:
        turns = headings[:, None] + np.cumsum(rng.normal(0, 0.3, (len(starts), steps)), axis=1)
        paths = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], axis=-1) * (reach / steps), axis=1)
        paths = np.concatenate([starts[:, None], starts[:, None] + paths], axis=1)
        shade = int(np.clip(100 + 60 * width, 0, 255))
        lines = list(np.rint(paths * 8).astype(np.int32))
        cv2.polylines(canvas, lines, False, shade, max(1, round(width)), cv2.LINE_AA, shift=3)
        places = rng.integers(5, steps, (len(starts), 2))
        starts = np.take_along_axis(paths, places[..., None], axis=1).reshape(-1, 2)
        sides = rng.choice([-1, 1], places.shape) * rng.uniform(0.35, 1.0, places.shape)
        headings = (np.take_along_axis(turns, places - 1, axis=1) + sides).ravel()
        width, reach = width * 0.68, reach * 0.72
    return _wrapped(canvas, margin)


def _wrapped(canvas: NDArray[np.uint8], margin: int) -> Floats:
    """Remove the margins of a canvas and add their content at the opposite side; 0 to 1."""
    for axis in (0, 1):
        canvas = np.swapaxes(canvas, 0, axis)
        canvas[margin : 2 * margin] = np.maximum(canvas[margin : 2 * margin], canvas[-margin:])
        canvas[-2 * margin : -margin] = np.maximum(canvas[-2 * margin : -margin], canvas[:margin])
        canvas = np.swapaxes(canvas[margin:-margin], 0, axis)
    return floats(canvas / np.float32(255))


def _gloss(rng: np.random.Generator) -> Floats:
    """Return normals of the wet film: mostly smooth, with ripples that are longer around the tube than along it."""
    size = (GLOSS_SIDE, GLOSS_SIDE)
    film = 1.5 * smooth_noise(rng, size, (22, 14)) + 1.2 * smooth_noise(rng, size, (60, 38))
    film = film + 0.7 * smooth_noise(rng, size, (128, 96))
    wet = np.clip(0.95 + 0.35 * smooth_noise(rng, size, (9, 9)), 0.4, 2)
    padded = np.pad(film * wet, 1, mode="wrap")
    around = np.gradient(padded, axis=1)[1:-1, 1:-1]
    along = np.gradient(padded, axis=0)[1:-1, 1:-1]
    normals = np.dstack([np.ones(size), around, along])
    return floats(normals / np.linalg.norm(normals, axis=2, keepdims=True))


def _skin(rng: np.random.Generator, kind: PolypKind) -> NDArray[np.uint8]:
    """Return the surface of a polyp: pits and ridges, redder or paler than the wall, no large vessels."""
    size = (SKIN_SIDE, SKIN_SIDE)
    pits = smooth_noise(rng, size, (58, 58))
    ridges = np.clip(1 - np.abs(pits) * 1.6, 0, 1)
    blotch = smooth_noise(rng, size, (9, 9))
    level, pattern = {
        PolypKind.SESSILE: (1.34, 0.26),
        PolypKind.PEDUNCULATED: (1.45, 0.34),
        PolypKind.FLAT: (1.24, 0.2),
    }[kind]
    blood = level + float(rng.uniform(-0.1, 0.1)) + 0.18 * blotch + pattern * (ridges - 0.45)
    blood = blood + 0.06 * smooth_noise(rng, size, (140, 140))
    color = np.exp(-np.array([0.09, 1.08, 1.6], np.float32) * blood[..., None].clip(0.2, 3))
    return np.asarray((color * 255).clip(0, 255).round(), dtype=np.uint8)
