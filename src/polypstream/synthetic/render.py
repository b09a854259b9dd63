"""Rendering: light, color and optics, from surface points to the image that an endoscope would show."""

import math
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.synthetic.anatomy import (
    COLOR_SIZE,
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
"""Intensity of the lamp."""
_TINT = np.array([1.0, 0.9, 0.8], np.float32)
"""Color of the lamp after the camera's white balance."""


_EDGE = 0.03
"""Lead at which a pixel certainly belongs to a polyp; between the negative value and this one it is mixed."""
_LEVELS = np.arange(256) / 255
_CONTRAST = (255 * np.clip(1.12 * _LEVELS ** (1.28 - 0.28 * _LEVELS), 0, 1)).round().astype(np.uint8)
"""Tone curve: slightly darker shadows, clipped highlights."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Content area: the position of the endoscope's image in the frame."""

    left: int
    width: int
    height: int
    opening: NDArray[np.uint8]
    """255 inside the octagon, 0 outside, smooth between: (height, width)."""


class Scene:
    """Everything that the frames of one clip share."""

    def __init__(self, width: int, height: int, seed: int, *, polyps: bool) -> None:
        self.size = (height, width)
        self._wall = wall_from_seed(seed)
        self._journey = Journey(seed=seed, polyps=self._wall.polyps)
        if not polyps:
            self._wall = Wall(relief=self._wall.relief, color=self._wall.color, gloss=self._wall.gloss, polyps=())
        self._layout = _layout(width, height)
        self._seed = seed
        content = self._layout
        share = min(1.0, max(0.45, 160 / content.width), 480 / content.width)
        self._fine = _Grid(max(16, round(content.width * share)), max(16, round(content.height * share)))
        self._coarse = _Grid(max(8, self._fine.width // 4), max(8, self._fine.height // 4))
        self._grain = _grain(seed, content.height, content.width)

    def frame(self, index: int, seconds: float) -> tuple[NDArray[np.uint8], NDArray[np.bool_], NDArray[np.uint8]]:
        """Render the image, uint8 RGB (H, W, 3), the mask, bool (H, W), and the number of the polyp, uint8 (H, W)."""
        light, mask, numbers = self._light(seconds)
        blur = self._journey.blur_seconds(seconds)
        if blur:
            light = _smeared(light, self._journey.view(seconds - blur), self._journey.view(seconds + blur))
        content = self._developed(light, index)
        layout = self._layout
        rgb, whole = np.zeros((*self.size, 3), np.uint8), np.zeros(self.size, np.bool_)
        columns = slice(layout.left, layout.left + layout.width)
        rgb[:, columns] = content
        whole[:, columns] = mask & (layout.opening > 127)
        identities = np.zeros(self.size, np.uint8)
        identities[:, columns] = numbers
        return rgb, whole, identities * whole

    def _light(self, seconds: float) -> tuple[Floats, NDArray[np.bool_], NDArray[np.uint8]]:
        """Return the light (height, width, 3) of the content area, its mask, and the number of the nearest polyp."""
        view = self._journey.view(seconds)
        tube = Tube(self._wall, self._journey, view)
        turn = view.axes.astype(np.float32)
        coarse, fine = self._coarse, self._fine
        clear = tube.clear_depth(turn @ coarse.rays, beam=coarse.beam, steps=20)
        start = _resized(coarse.image(clear), (fine.width, fine.height), cv2.INTER_NEAREST)
        rays = turn @ fine.rays
        depth = tube.march(rays, fine.flat(start))
        surface = tube.surface(rays, depth)
        return *self._shaded(tube, surface, rays, view), self._numbers(tube, surface.patch)

    def _numbers(self, tube: Tube, patch: Patch) -> NDArray[np.uint8]:
        """Number of the polyp nearest to each pixel, from 1 in the order of the wall's; 0 far from any."""
        skins = [id(polyp.skin) for polyp in self._wall.polyps]
        of_growth = [0, *(1 + skins.index(id(growth.polyp.skin)) for growth in tube.growths)]
        numbers = np.array(of_growth, np.uint8)[self._fine.image(patch.nearest).astype(np.intp) + 1]
        size = (self._layout.width, self._layout.height)
        return np.asarray(cv2.resize(numbers, size, interpolation=cv2.INTER_NEAREST), np.uint8)

    def _shaded(self, tube: Tube, surface: Surface, rays: Floats, view: View) -> tuple[Floats, NDArray[np.bool_]]:
        fine, layout = self._fine, self._layout

        def full(channels: list[Floats]) -> list[Floats]:
            return [_resized(fine.image(c), (layout.width, layout.height)) for c in channels]

        lead = np.clip(surface.patch.lead, -_EDGE, _EDGE)
        cos, sin, turns, lead = full([surface.cos, surface.sin, surface.along, lead])
        angle = floats(cv2.phase(cos, sin))
        turns *= np.float32(1 / PERIOD)
        turns -= np.floor(turns)
        columns, rows = angle * np.float32(COLOR_SIZE[1] / (2 * np.pi)), turns * np.float32(COLOR_SIZE[0])
        color = _looked_up(self._wall.color, columns, rows, cv2.BORDER_WRAP)
        self._cover_with_skin(color, tube, surface.patch, lead)
        irradiance = cv2.merge(full(self._irradiance(surface, rays, view)))
        light = cv2.multiply(color, irradiance, scale=1 / 255, dtype=cv2.CV_32F)
        glints = self._glints(full(_facing(surface, rays)), angle, turns)
        return floats(cv2.add(light, cv2.merge([glints] * 3))), lead > 0

    def _cover_with_skin(self, color: NDArray[np.uint8], tube: Tube, patch: Patch, lead: Floats) -> None:
        """Replace the wall's color, in place, with that of a polyp where one is visible."""
        grid, (height, width) = self._fine, lead.shape
        nearest = grid.image(patch.nearest)
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
            across, ahead, shown = (_resized(grid.image(part)[small], size) for part in patch.skin)
            skin = _looked_up(growth.polyp.skin, across, ahead, cv2.BORDER_REFLECT)
            shown *= np.clip(0.5 + lead[large] * np.float32(0.75 / _EDGE), 0, 1)
            shown *= cv2.resize(mine[small].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            mixed = color[large] + (skin.astype(np.float32) - color[large]) * shown[..., None]
            color[large] = mixed.astype(np.uint8)

    def _irradiance(self, surface: Surface, rays: Floats, view: View) -> list[Floats]:
        """Return the light that reaches each point: red, green, blue."""
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
        """Return the light reflected by the wet film: (height, width)."""
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
        """Apply the camera's response: film-like curve, slight blur, grain, and the black frame."""
        np.maximum(light, 0, out=light)
        curve = np.sqrt(light / (light + np.float32(0.62)))
        image = cv2.LUT(cv2.convertScaleAbs(curve, alpha=255), _CONTRAST)
        soft = 0.75 * max(1.0, self._layout.width / 640)
        image = cv2.GaussianBlur(image, (0, 0), soft)
        down, across = np.random.default_rng([self._seed, 4, index]).integers(0, 64, 2)
        height, width = image.shape[:2]
        grain = self._grain[down : down + height, across : across + width]
        image = cv2.add(image, grain, dtype=cv2.CV_8U)
        return np.asarray(cv2.multiply(image, cv2.merge([self._layout.opening] * 3), scale=1 / 255), dtype=np.uint8)


class _Grid:
    """A grid of rays over the content area, padded to whole rows of `_ROW`."""

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

    def image(self, flat: NDArray[_Number]) -> NDArray[_Number]:
        """Reshape a flat array to (height, width)."""
        image: NDArray[_Number] = flat[: self.width * self.height].reshape(self.height, self.width)
        return image

    def flat(self, image: Floats) -> Floats:
        """Flatten and pad an array of (height, width)."""
        return floats(self._wrapped(image.reshape(1, -1))[0])


def _resized(image: Floats, size: tuple[int, int], flags: int = cv2.INTER_LINEAR) -> Floats:
    return floats(cv2.resize(image, size, interpolation=flags))


def _looked_up(texture: NDArray[np.uint8], columns: Floats, rows: Floats, border: int) -> NDArray[np.uint8]:
    return np.asarray(cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=border), dtype=np.uint8)


def _scaled(stretch: slice, factor: float) -> slice:
    return slice(math.floor(stretch.start * factor), math.ceil(stretch.stop * factor))


def _tiled(values: Floats, turns: float) -> Floats:
    """Return positions on a gloss tile that repeats `turns` times per unit of the values, in rows of `_ROW`."""
    scaled = values * np.float32(turns)
    return floats((scaled - np.floor(scaled)) * np.float32(GLOSS_SIDE)).reshape(-1, _ROW)


def _facing(surface: Surface, rays: Floats) -> list[Floats]:
    """Return cosines between the direction to the camera and normal, around and along; and the strength of glints."""
    normal = -(rays * surface.normal).sum(axis=0)
    around, along = rays[0] * surface.sin - rays[1] * surface.cos, -rays[2]
    scale = np.sqrt(np.maximum(1 - normal * normal, 0) / (around * around + along * along + 1e-6))
    strength = np.float32(2.6) / (0.5 + surface.depth)
    return [normal, around * scale, along * scale, strength]


def _smeared(light: Floats, before: View, after: View) -> Floats:
    """Simulate motion blur while the camera turns from one view to the other."""
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
    """Return sensor noise, mostly in brightness: (height + 64, width + 64, 3)."""
    rng = np.random.default_rng([seed, 5])
    size = (height + 64, width + 64)
    gray = rng.normal(0, 2.6, size).astype(np.float32)
    color = cv2.GaussianBlur(rng.normal(0, 4.0, (*size, 3)).astype(np.float32), (0, 0), 0.8)
    return (gray[..., None] + color).round().astype(np.int16)
