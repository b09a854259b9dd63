"""Light, colour and optics: from the points the pixels see to the picture an endoscope would show."""

import math
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.synthetic.anatomy import (
    COLOUR_SIZE,
    GLOSS_SIDE,
    GLOSS_TURNS,
    PERIOD,
    Floats,
    Wall,
    floats,
    wall_from_seed,
)
from polypstream.synthetic.camera import FIELD, Journey, View, rays_of
from polypstream.synthetic.geometry import Patch, Surface, Tube

_Number = TypeVar("_Number", bound=np.generic)
_ROW = 256
_LIGHT = 1.6
"""Brightness of the lamp."""
_TINT = np.array([1.0, 0.9, 0.8], np.float32)
"""Its colour as the camera's white balance leaves it."""


_EDGE = 0.03
"""Lead at which a pixel is surely on a polyp; between minus that and that, it is mixed."""
_LEVELS = np.arange(256) / 255
_CONTRAST = (255 * np.clip(1.12 * _LEVELS ** (1.28 - 0.28 * _LEVELS), 0, 1)).round().astype(np.uint8)
"""The display curve: shadows a little deeper, highlights clipped."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The content area of a picture: where the endoscope's image lies in the frame."""

    left: int
    width: int
    height: int
    opening: NDArray[np.uint8]
    """(height, width) 255 inside the octagon, 0 outside, smooth between."""


class Scene:
    """All that the frames of one clip share."""

    def __init__(self, width: int, height: int, seed: int, *, polyps: bool) -> None:
        self.size = (height, width)
        self._wall = wall_from_seed(seed)
        self._journey = Journey(seed=seed, polyps=self._wall.polyps)
        if not polyps:
            self._wall = Wall(relief=self._wall.relief, colour=self._wall.colour, gloss=self._wall.gloss, polyps=())
        self._layout = _layout(width, height)
        self._seed = seed
        content = self._layout
        share = min(1.0, max(0.45, 160 / content.width), 480 / content.width)
        self._fine = _Grid(max(16, round(content.width * share)), max(16, round(content.height * share)))
        self._coarse = _Grid(max(8, self._fine.width // 4), max(8, self._fine.height // 4))
        self._grain = _grain(seed, content.height, content.width)

    def frame(self, index: int, seconds: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Picture, RGB (H, W, 3), and mask (H, W) at a time of the clip."""
        light, mask = self._light(seconds)
        blur = self._journey.blur_seconds(seconds)
        if blur:
            light = _smeared(light, self._journey.view(seconds - blur), self._journey.view(seconds + blur))
        content = self._developed(light, index)
        layout = self._layout
        rgb, whole = np.zeros((*self.size, 3), np.uint8), np.zeros(self.size, np.bool_)
        columns = slice(layout.left, layout.left + layout.width)
        rgb[:, columns] = content
        whole[:, columns] = mask & (layout.opening > 127)
        return rgb, whole

    def _light(self, seconds: float) -> tuple[Floats, NDArray[np.bool_]]:
        """Linear light (height, width, 3) of the content area, and its mask."""
        view = self._journey.view(seconds)
        tube = Tube(self._wall, self._journey, view)
        turn = view.axes.astype(np.float32)
        coarse, fine = self._coarse, self._fine
        clear = tube.clear_depth(turn @ coarse.rays, beam=coarse.beam, steps=20)
        start = _resized(coarse.picture(clear), (fine.width, fine.height), cv2.INTER_NEAREST)
        rays = turn @ fine.rays
        depth = tube.march(rays, fine.flat(start))
        surface = tube.surface(rays, depth)
        return self._shaded(tube, surface, rays, view)

    def _shaded(self, tube: Tube, surface: Surface, rays: Floats, view: View) -> tuple[Floats, NDArray[np.bool_]]:
        fine, layout = self._fine, self._layout

        def full(channels: list[Floats]) -> list[Floats]:
            return [_resized(fine.picture(c), (layout.width, layout.height)) for c in channels]

        lead = np.clip(surface.patch.lead, -_EDGE, _EDGE)
        cos, sin, turns, lead = full([surface.cos, surface.sin, surface.along, lead])
        angle = floats(cv2.phase(cos, sin))
        turns *= np.float32(1 / PERIOD)
        turns -= np.floor(turns)
        columns, rows = angle * np.float32(COLOUR_SIZE[1] / (2 * np.pi)), turns * np.float32(COLOUR_SIZE[0])
        colour = _looked_up(self._wall.colour, columns, rows, cv2.BORDER_WRAP)
        self._cover_with_skin(colour, tube, surface.patch, lead)
        irradiance = cv2.merge(full(self._irradiance(surface, rays, view)))
        light = cv2.multiply(colour, irradiance, scale=1 / 255, dtype=cv2.CV_32F)
        glints = self._glints(full(_facing(surface, rays)), angle, turns)
        return floats(cv2.add(light, cv2.merge([glints] * 3))), lead > 0

    def _cover_with_skin(self, colour: NDArray[np.uint8], tube: Tube, patch: Patch, lead: Floats) -> None:
        """Replaces the wall's colour, in place, by a polyp's own where one is seen."""
        grid, (height, width) = self._fine, lead.shape
        nearest = grid.picture(patch.nearest)
        for number, growth in enumerate(tube.growths):
            mine = nearest == number
            rows, columns = (np.flatnonzero(mine.any(axis=axis)) for axis in (1, 0))
            if not rows.size:
                continue
            small = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            large = (_scaled(small[0], height / grid.height), _scaled(small[1], width / grid.width))
            if lead[large].max() <= -_EDGE:
                continue
            size = (large[1].stop - large[1].start, large[0].stop - large[0].start)
            across, ahead, shown = (_resized(grid.picture(part)[small], size) for part in patch.skin)
            skin = _looked_up(growth.polyp.skin, across, ahead, cv2.BORDER_REFLECT)
            shown *= np.clip(0.5 + lead[large] * np.float32(0.75 / _EDGE), 0, 1)
            shown *= cv2.resize(mine[small].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            mixed = colour[large] + (skin.astype(np.float32) - colour[large]) * shown[..., None]
            colour[large] = mixed.astype(np.uint8)

    def _irradiance(self, surface: Surface, rays: Floats, view: View) -> list[Floats]:
        """Light that falls on each point, red, green, blue."""
        lamp = (view.axes @ np.array([0.10, -0.07, -0.05])).astype(np.float32)
        towards = lamp[:, None] - rays * surface.depth
        square = (towards * towards).sum(axis=0)
        cosine = (towards * surface.normal).sum(axis=0) / np.sqrt(square)
        wrapped = 0.7 * np.maximum(cosine, 0) + 0.3
        light = np.float32(_LIGHT) * wrapped / (square + 0.12)
        patch = surface.patch
        touching = np.clip(1 - 25 * (patch.lead + patch.gap), 0, 1)
        light *= 1 - 0.6 * np.exp(-14 * np.maximum(patch.gap, 0)) * touching
        light *= self._fine.vignette
        bounce = 0.03 * np.exp(-0.45 * surface.depth)
        red = 1 + 0.10 * surface.depth
        return [
            light * _TINT[0] * red / (1 + 0.05 * surface.depth) + 1.3 * bounce,
            light * _TINT[1] + 0.6 * bounce,
            light * _TINT[2] + 0.5 * bounce,
        ]

    def _glints(self, facing: list[Floats], angle: Floats, turns: Floats) -> Floats:
        """Light mirrored by the wet film, (height, width)."""
        glints = np.zeros(angle.size, np.float32)
        bright = np.flatnonzero(facing[0] > 0.68)
        if not bright.size:
            return glints.reshape(angle.shape)
        bright = np.resize(bright, -(-bright.size // _ROW) * _ROW)
        normal, around, along, strength = (values.ravel()[bright] for values in facing)
        columns = _tiled(angle.ravel()[bright], GLOSS_TURNS / (2 * math.pi))
        rows = _tiled(turns.ravel()[bright], round(PERIOD / 2.0))
        film = cv2.remap(self._wall.gloss, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP).reshape(-1, 3).T
        mirrored = film[0] * normal + film[1] * around + film[2] * along
        mirrored = np.clip((mirrored - np.float32(0.99)) * np.float32(1 / 0.007), 0, 1)
        glints[bright] = mirrored * mirrored * strength
        return glints.reshape(angle.shape)

    def _developed(self, light: Floats, index: int) -> NDArray[np.uint8]:
        """The camera's response: film-like curve, slight softness, grain, the black frame."""
        np.maximum(light, 0, out=light)
        curve = np.sqrt(light / (light + np.float32(0.62)))
        picture = cv2.LUT(cv2.convertScaleAbs(curve, alpha=255), _CONTRAST)
        soft = 0.75 * max(1.0, self._layout.width / 640)
        picture = cv2.GaussianBlur(picture, (0, 0), soft)
        down, across = np.random.default_rng([self._seed, 4, index]).integers(0, 64, 2)
        height, width = picture.shape[:2]
        grain = self._grain[down : down + height, across : across + width]
        picture = cv2.add(picture, grain, dtype=cv2.CV_8U)
        return np.asarray(cv2.multiply(picture, cv2.merge([self._layout.opening] * 3), scale=1 / 255), dtype=np.uint8)


class _Grid:
    """A raster of rays over the content area, padded to whole rows of `_ROW`."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        rays = rays_of(width, height)
        count = width * height
        self._padded = -(-count // _ROW) * _ROW
        self.rays = self._wrapped(rays.reshape(3, count))
        self.beam = 1.15 * math.sqrt(2) / max(width, height)
        radius = 1 - rays[2] / rays[2].max()
        self.vignette = self._wrapped((1 - 0.75 * radius).reshape(1, count))[0]

    def _wrapped(self, values: Floats) -> Floats:
        return floats(np.take(values, np.arange(self._padded), axis=1, mode="wrap"))

    def picture(self, flat: NDArray[_Number]) -> NDArray[_Number]:
        """(height, width) from a flat array."""
        picture: NDArray[_Number] = flat[: self.width * self.height].reshape(self.height, self.width)
        return picture

    def flat(self, picture: Floats) -> Floats:
        """A padded flat array from (height, width)."""
        return floats(self._wrapped(picture.reshape(1, -1))[0])


def _resized(picture: Floats, size: tuple[int, int], flags: int = cv2.INTER_LINEAR) -> Floats:
    return floats(cv2.resize(picture, size, interpolation=flags))


def _looked_up(texture: NDArray[np.uint8], columns: Floats, rows: Floats, border: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=border), dtype=np.uint8)


def _scaled(stretch: slice, factor: float) -> slice:
    return slice(math.floor(stretch.start * factor), math.ceil(stretch.stop * factor))


def _tiled(values: Floats, turns: float) -> Floats:
    """Places on a tile of gloss that repeats so many times in a unit of the values; in rows of `_ROW`."""
    scaled = values * np.float32(turns)
    return floats((scaled - np.floor(scaled)) * np.float32(GLOSS_SIDE)).reshape(-1, _ROW)


def _facing(surface: Surface, rays: Floats) -> list[Floats]:
    """Cosines between the way back to the eye and the normal, around and along; and the strength of glints."""
    normal = -(rays * surface.normal).sum(axis=0)
    around, along = rays[0] * surface.sin - rays[1] * surface.cos, -rays[2]
    scale = np.sqrt(np.maximum(1 - normal * normal, 0) / (around * around + along * along + 1e-6))
    strength = np.float32(2.6) / (0.5 + surface.depth)
    return [normal, around * scale, along * scale, strength]


def _smeared(light: Floats, before: View, after: View) -> Floats:
    """Light as a shutter gathers it that is open while the camera turns from one view to the other."""
    turned = before.axes.T @ after.axes[:, 2]
    across, down = turned[:2] / turned[2] * (light.shape[1] / (2 * FIELD * 0.92))
    reach = math.ceil(max(abs(across), abs(down)) / 2) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    ends = [tuple(round(16 * (reach + sign * part / 2)) for part in (across, down)) for sign in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0, 1, cv2.LINE_8, shift=4)
    return floats(cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))


def _layout(width: int, height: int) -> Layout:
    content = min(width, 2 * round(height * 0.64))
    opening = np.zeros((height, content), np.uint8)
    right, bottom, cut = content - 2, height - 2, round(0.2 * min(content, height))
    corners = [(cut, 1), (right - cut, 1), (right, cut), (right, bottom - cut)]
    corners += [(right - cut, bottom), (cut, bottom), (1, bottom - cut), (1, cut)]
    cv2.fillConvexPoly(opening, np.array(corners, np.int32), 255, cv2.LINE_AA)
    soft = cv2.GaussianBlur(opening, (0, 0), 0.4 + min(content, height) / 600)
    return Layout(left=(width - content) // 2, width=content, height=height, opening=np.asarray(soft, np.uint8))


def _grain(seed: int, height: int, width: int) -> NDArray[np.int16]:
    """Noise of the sensor: (height + 64, width + 64, 3), mostly in brightness."""
    rng = np.random.default_rng([seed, 5])
    size = (height + 64, width + 64)
    grey = rng.normal(0, 2.6, size).astype(np.float32)
    colour = cv2.GaussianBlur(rng.normal(0, 4.0, (*size, 3)).astype(np.float32), (0, 0), 0.8)
    return (grey[..., None] + colour).round().astype(np.int16)
