"""The wall of the synthetic colon: its relief, colour, wetness and polyps, all drawn from one seed.

Lengths are in mean radii of the lumen. The wall is unrolled: columns of a map go once around the tube (angle 0 to
2 pi), rows go along it, and both wrap, so that the scene repeats every `PERIOD` radii.
"""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def floats(values: object) -> Floats:
    """The same values, known to be float32; copied only where they were not."""
    return np.asarray(values, dtype=np.float32)


PERIOD = 24.0
RELIEF_SIZE = (1536, 384)
"""Rows and columns of the relief map."""
COLOUR_SIZE = (3840, 1024)
"""Rows and columns of the colour map: about 160 texels a radius."""
VESSEL_ROWS = 1280
"""Rows after which the larger vessels repeat."""
GLOSS_SIDE = 512
"""Side of the wetness tile, which repeats `GLOSS_TURNS` times around the tube."""
GLOSS_TURNS = 3
SKIN_SIDE = 384


class PolypKind(Enum):
    """The shapes in which polyps grow."""

    SESSILE = "sessile"
    PEDUNCULATED = "pedunculated"
    FLAT = "flat"


@dataclass(frozen=True, kw_only=True)
class Polyp:
    """A growth on the wall, at an angle (radians) and a place along the tube (radii)."""

    kind: PolypKind
    angle: float
    along: float
    size: float
    """Half its width, in radii."""
    wall: float
    """Radius of the wall under it."""
    lean: tuple[float, float]
    """Where the top leans to: around the tube and along it, in sizes."""
    phase: float
    """Turns the lumps, so that no two look alike."""
    skin: NDArray[np.uint8]
    """(SKIN_SIDE, SKIN_SIDE, 3) RGB reflectance."""


@dataclass(frozen=True, kw_only=True)
class Wall:
    """The maps of one colon."""

    relief: Floats
    """RELIEF_SIZE + (3,): radius, its slope around (per radian) and along (per radius)."""
    colour: NDArray[np.uint8]
    """COLOUR_SIZE + (3,) RGB reflectance, linear."""
    gloss: Floats
    """(GLOSS_SIDE, GLOSS_SIDE, 3) unit normals of the wet film: outwards, around, along."""
    polyps: tuple[Polyp, ...]


@lru_cache(maxsize=4)
def wall_from_seed(seed: int) -> Wall:
    """The colon that belongs to a seed; takes about a second."""
    rng = np.random.default_rng([seed, 1])
    sites = _sites(rng)
    radius = _radius(rng, sites)
    columns = np.gradient(np.pad(radius, 1, mode="wrap"), axis=1)[1:-1, 1:-1] * (RELIEF_SIZE[1] / (2 * np.pi))
    rows = np.gradient(np.pad(radius, 1, mode="wrap"), axis=0)[1:-1, 1:-1] * (RELIEF_SIZE[0] / PERIOD)
    return Wall(
        relief=np.dstack([radius, columns, rows]).astype(np.float32),
        colour=_colour(rng, radius),
        gloss=_gloss(rng),
        polyps=tuple(_polyp(rng, kind, angle, along, radius) for kind, angle, along in sites),
    )


def smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[float, float]) -> Floats:
    """Noise of mean 0 and deviation about 1 that wraps around, with so many cells down and across."""
    rows, columns = (max(3, round(c)) for c in cells)
    grid = np.pad(rng.standard_normal((rows, columns)).astype(np.float32), 3, mode="wrap")
    high, wide = size[0] / rows, size[1] / columns
    turn = np.array([[1 / wide, 0, 3.0], [0, 1 / high, 3.0]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    noise = cv2.warpAffine(grid, turn, (size[1], size[0]), flags=flags).astype(np.float32)
    return floats(noise / max(float(noise.std()), 1e-6))


def _sites(rng: np.random.Generator) -> list[tuple[PolypKind, float, float]]:
    """Which polyps grow where, in the order of withdrawal: one, a clean stretch, two together, and so on."""
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
    """The radius of the wall: three flat sides, pouches, and folds that span part of the round."""
    rows, columns = RELIEF_SIZE
    along = np.linspace(0, PERIOD, rows, endpoint=False)[:, None]
    angle = np.linspace(0, 2 * np.pi, columns, endpoint=False)[None, :]
    twist = 0.9 * np.sin(2 * np.pi * along / PERIOD * 2 + rng.uniform(0, 6)) + rng.uniform(0, 6)
    radius = 1.03 + 0.06 * np.cos(3 * (angle - twist))
    radius = radius + 0.035 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 0.9, 5))
    radius = radius + 0.010 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 2.8, 16))
    radius = radius + 0.0022 * smooth_noise(rng, RELIEF_SIZE, (PERIOD * 8, 48))
    folds = np.zeros(RELIEF_SIZE)
    for centre, middle, depth in _fold_places(rng, sites):
        near_rows = (round(centre * rows / PERIOD) + np.arange(-90, 90)) % rows
        span = rng.uniform(-0.45, 0.45)
        window = np.clip((np.cos(angle - middle) - span) / (1.0 - span) * 1.9, 0, 1)
        window = window * window * (3 - 2 * window)
        bow = rng.uniform(-0.16, 0.16) * np.cos(angle - rng.uniform(0, 6)) + 0.1 * np.cos(2 * angle + rng.uniform(0, 6))
        offset = (along[near_rows] - centre - bow + PERIOD / 2) % PERIOD - PERIOD / 2
        width = rng.uniform(0.11, 0.17)
        near, far = np.exp(-((np.abs(offset) / width) ** 1.7)), np.exp(-((offset / (2.4 * width)) ** 2))
        folds[near_rows] = np.maximum(folds[near_rows], depth * window * (0.76 * near + 0.24 * far))
    return floats(radius - folds)


def _fold_places(
    rng: np.random.Generator, sites: list[tuple[PolypKind, float, float]]
) -> list[tuple[float, float, float]]:
    """Place along, angle of the middle, and height of each fold; one stands before each polyp and will hide it."""
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


def _colour(rng: np.random.Generator, radius: Floats) -> NDArray[np.uint8]:
    """Pink-orange mucosa, blotched, paler on the crests, with vessels of three depths."""
    rows, columns = COLOUR_SIZE
    blotch = 0.6 * smooth_noise(rng, COLOUR_SIZE, (PERIOD * 0.8, 5)) + 0.4 * smooth_noise(rng, COLOUR_SIZE, (70, 18))
    warmth = smooth_noise(rng, COLOUR_SIZE, (PERIOD * 0.6, 4))
    grain = 0.6 * smooth_noise(rng, COLOUR_SIZE, (420, 112)) + 0.4 * smooth_noise(rng, COLOUR_SIZE, (1250, 333))
    crest = cv2.resize(np.clip((0.92 - radius) * 2.2, 0, 1), (columns, rows), interpolation=cv2.INTER_LINEAR)
    blood = 1 + 0.13 * blotch + 0.05 * grain + 0.7 * _vessels(rng) - 0.3 * crest
    patches = np.clip(smooth_noise(rng, COLOUR_SIZE, (PERIOD * 1.6, 10)) - 0.9, 0, 1)
    blood += 0.18 * patches
    absorbed = np.array([0.10, 1.16, 1.78], np.float32)
    colour = np.exp(-absorbed * blood[..., None].clip(0.2, 3))
    colour *= 1 + warmth[..., None] * np.array([0.0, 0.02, -0.05], np.float32)
    return np.asarray((colour * 255).clip(0, 255).round(), dtype=np.uint8)


def _vessels(rng: np.random.Generator) -> Floats:
    """How much blood vessels add: branching trees, sharp near the surface and blurred below, and a fine net."""
    shallow = cv2.GaussianBlur(_trees(rng, 70, width=2.9, reach=150), (0, 0), 1.1)
    deep = cv2.GaussianBlur(_trees(rng, 26, width=8.0, reach=330), (0, 0), 4.5)
    fine = cv2.GaussianBlur(_trees(rng, 330, width=1.7, reach=80), (0, 0), 0.8)
    drawn = np.tile(0.9 * shallow + 0.55 * deep + 0.5 * fine, (COLOUR_SIZE[0] // VESSEL_ROWS, 1))
    net = smooth_noise(rng, COLOUR_SIZE, (330, 88))
    net = np.clip(1 - np.abs(net) * 4.5, 0, 1) * np.clip(0.6 + 0.7 * smooth_noise(rng, COLOUR_SIZE, (50, 13)), 0, 1.4)
    strength = np.clip(0.75 + 0.45 * smooth_noise(rng, COLOUR_SIZE, (PERIOD * 0.7, 5)), 0.1, 1.6)
    return floats((drawn + 0.2 * net) * strength)


def _trees(rng: np.random.Generator, count: int, *, width: float, reach: float) -> Floats:
    """Random branching trees, 0 to 1, on a map of VESSEL_ROWS that wraps; width and reach in texels."""
    size, margin, steps = (VESSEL_ROWS, COLOUR_SIZE[1]), 400, 14
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
    """A canvas without its margins, whatever was drawn on them added at the opposite side; 0 to 1."""
    for axis in (0, 1):
        canvas = np.swapaxes(canvas, 0, axis)
        canvas[margin : 2 * margin] = np.maximum(canvas[margin : 2 * margin], canvas[-margin:])
        canvas[-2 * margin : -margin] = np.maximum(canvas[-2 * margin : -margin], canvas[:margin])
        canvas = np.swapaxes(canvas[margin:-margin], 0, axis)
    return floats(canvas / np.float32(255))


def _gloss(rng: np.random.Generator) -> Floats:
    """Normals of the wet film: mostly smooth with ripples, longer around the tube than along it."""
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
    """A polyp's own surface: pits and ridges, redder or paler than the wall, no large vessels."""
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
    colour = np.exp(-np.array([0.09, 1.08, 1.6], np.float32) * blood[..., None].clip(0.2, 3))
    return np.asarray((colour * 255).clip(0, 255).round(), dtype=np.uint8)
