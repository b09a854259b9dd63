"""Ray marching: finds the point of the wall or of a polyp that each pixel sees.

Points are float32 arrays with one entry per ray. The tube is straightened first: `across` and `down` are measured from
its center, `along` follows its bends, so that relief and polyps are described in a straight tube.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.synthetic.anatomy import PERIOD, RELIEF_SIZE, SKIN_SIDE, Floats, Polyp, PolypKind, Wall, floats
from polypstream.synthetic.camera import Journey, View

REACH = 11.0
"""Rays end at this distance from the camera, in the dark."""
NEAREST = 0.08
"""Minimum distance of surfaces from the camera."""
DISTINCT, LOST = 2.6, 3.6
"""Beyond the first distance, in radii, a polyp shrinks into the wall; beyond the second it is gone."""
BLEND = 0.09
"""Width of the rounded joint between wall and polyp, in radii."""
_ROW = 256
"""Rays are handled in rows of this many, because OpenCV's maps are two-dimensional."""
_COURSE_LENGTH = REACH + 1.5
_COURSE_KNOTS, _COURSE_STEPS = 1024, 8192
"""The bends are computed at the knots and interpolated between them."""
_ROUNDS = 11
_TOLERANCE = 0.002
"""A point counts as found when its depth is known to this relative precision."""

Place = tuple[Floats, Floats, Floats]
"""Position around the tube, along it, and height over the wall, relative to the foot of a polyp, in radii."""
Hits = Sequence[NDArray[np.intp]]
"""For each polyp, the rays that may hit it."""


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The surface points that the rays hit, (rays,) each."""

    depth: Floats
    """Distance from the camera."""
    cos: Floats
    """Cosine of the angle around the tube."""
    sin: Floats
    along: Floats
    normal: Floats
    """Unit normals into the lumen in world axes: (3, rays)."""
    patch: "Patch"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """Position of the points relative to their nearest polyp, (rays,) each."""

    lead: Floats
    """Distance to the wall minus distance to the polyp: positive on a polyp, very negative far from any."""
    gap: Floats
    """Distance to the polyp; very large far from any."""
    skin: Floats
    """Position on its skin, in texels, and how much of that skin is visible, 0 to 1: (3, rays)."""
    nearest: NDArray[np.int8]
    """Its index among the polyps in front of the camera; -1 for none."""

    @classmethod
    def empty(cls, count: int) -> "Patch":
        """Create points far from any polyp."""
        far = np.full(count, 1e3, np.float32)
        skin, nearest = np.zeros((3, count), np.float32), np.full(count, -1, np.int8)
        return cls(lead=-far, gap=far, skin=skin, nearest=nearest)

    def add(
        self, number: int, polyp: Polyp, chosen: NDArray[np.intp], local: Place, wall: Floats, gradient: Floats
    ) -> None:
        """Add a polyp at the chosen points, given their distance to the wall; blends the gradient toward it."""
        found = polyp_distance(polyp, *local)
        lead = wall[chosen] - found
        share = np.clip(0.5 + lead * np.float32(0.5 / BLEND), 0, 1)
        around, along, height = _slope(polyp, local, found)
        cos, sin = np.float32(np.cos(polyp.angle)), np.float32(np.sin(polyp.angle))
        for axis, slope in enumerate((-sin * around - cos * height, cos * around - sin * height, along)):
            gradient[axis, chosen] += share * (slope - gradient[axis, chosen])
        closer = found < self.gap[chosen]
        mine = chosen[closer]
        self.gap[mine], self.lead[mine], self.nearest[mine] = found[closer], lead[closer], number
        self.skin[:, mine] = _skin_place(polyp, *local)[:, closer]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """A polyp placed in front of the camera."""

    polyp: Polyp
    along: float
    """Its position in the camera's repetition of the periodic tube."""
    center: NDArray[np.float64]
    """Center of its bounding sphere in the world: (3,)."""
    reach: float
    """Radius of the bounding sphere."""


class Tube:
    """The straightened part of the colon around one camera position."""

    def __init__(self, wall: Wall, journey: Journey, view: View) -> None:
        self._relief = wall.relief
        self._near_relief = np.ascontiguousarray(wall.relief[..., 0])
        self._eye = view.eye.astype(np.float32)
        self._first = float(view.eye[2]) - 1.5
        z = self._first + (np.arange(_COURSE_KNOTS, dtype=np.float64) + 0.5) * (_COURSE_LENGTH / _COURSE_KNOTS)
        knots = np.concatenate(journey.course(z)).T.astype(np.float32)
        self._course = np.asarray(cv2.resize(knots, (4, _COURSE_STEPS), interpolation=cv2.INTER_LINEAR), np.float32)
        self.growths = [g for p in wall.polyps if (g := _growth(p, journey, float(view.eye[2])))]

    def straight(self, rays: Floats, depth: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return points on the rays as across, down and along, with the tube's center and slope there (4, rays)."""
        x, y, z = (rays[axis] * depth + self._eye[axis] for axis in range(3))
        steps = ((z - np.float32(self._first)) * np.float32(_COURSE_STEPS / _COURSE_LENGTH)).astype(np.int32)
        course = self._course.take(steps, axis=0, mode="clip")
        across, down = x - course[..., 0], y - course[..., 1]
        return across, down, z + course[..., 2] * across + course[..., 3] * down, course

    def wall_distance(self, across: Floats, down: Floats, along: Floats) -> Floats:
        """Return the radius of the wall minus the distance from the center: positive in the lumen."""
        distance, angle = _polar(across, down)
        return floats(_looked_up(self._near_relief, *_relief_place(angle, along)) - distance)

    def distance(self, rays: Floats, depth: Floats, near: Hits) -> Floats:
        """Return the distance to wall and polyps, blended smoothly; `near` lists the rays that may hit each polyp."""
        across, down, along, _ = self.straight(rays, depth)
        total = self.wall_distance(across, down, along)
        for growth, chosen in zip(self.growths, near, strict=True):
            if chosen.size:
                local = _local(growth, across[chosen], down[chosen], along[chosen])
                total[chosen] = _joined(total[chosen], polyp_distance(growth.polyp, *local))
        return total

    def near(self, rays: Floats) -> list[NDArray[np.intp]]:
        """Return for each polyp the rays that intersect its bounding sphere."""
        chosen = []
        for growth in self.growths:
            towards = growth.center - self._eye
            distance = float(np.linalg.norm(towards))
            sine = min(1.0, growth.reach / distance)
            limit = np.sqrt(1 - sine * sine) if sine < 1 else -1.0
            chosen.append(np.flatnonzero((towards / distance).astype(np.float32) @ rays >= np.float32(limit)))
        return chosen

    def surface(self, rays: Floats, depth: Floats) -> Surface:
        """Return everything that shading needs for the points found."""
        across, down, along, course = self.straight(rays, depth)
        distance, angle = _polar(across, down)
        relief = _looked_up(self._relief, *_relief_place(angle, along))
        inverse = floats(1 / np.maximum(distance, 1e-3))
        cos, sin = floats(across * inverse), floats(down * inverse)
        turn = relief[..., 1] * inverse
        gradient = np.stack([-cos - turn * sin, -sin + turn * cos, relief[..., 2]])
        wall = floats(relief[..., 0] - distance)
        patch = Patch.empty(wall.size)
        for number, (growth, chosen) in enumerate(zip(self.growths, self.near(rays), strict=True)):
            if chosen.size:
                local = _local(growth, across[chosen], down[chosen], along[chosen])
                patch.add(number, growth.polyp, chosen, local, wall, gradient)
        return Surface(depth=depth, cos=cos, sin=sin, along=along, normal=_bent(gradient, course), patch=patch)

    def clear_depth(self, rays: Floats, *, beam: float, steps: int) -> Floats:
        """Return how far a beam around each ray, with this half-width per unit of depth, hits nothing."""
        start = np.full(rays.shape[1], NEAREST, np.float32)
        return self._opened(rays, start, self.near(rays), beam, steps)

    def march(self, rays: Floats, clear: Floats) -> Floats:
        """Return the distance along each ray to the first surface, (rays,), starting at a depth known to be clear."""
        depth = clear.copy()
        active = np.arange(depth.size)
        for _ in range(_ROUNDS):
            some = rays[:, active] if active.size < depth.size else rays
            found, unsure = self._advanced(some, depth[active], self.near(some), 2)
            depth[active] = found
            moving = np.flatnonzero((unsure > _TOLERANCE * (0.3 + found)) & (found < REACH))
            if not moving.size:
                break
            active = active[np.resize(moving, -(-moving.size // _ROW) * _ROW)]
        return depth

    def _opened(self, rays: Floats, depth: Floats, near: Hits, cone: float, steps: int) -> Floats:
        """Return the depths up to which a widening beam around each ray is clear, after the given number of steps."""
        for _ in range(steps):
            free = self.distance(rays, depth, near) * np.float32(0.5) - np.float32(cone) * depth
            depth = np.minimum(depth + np.maximum(free, 0), np.float32(REACH))
        return depth

    def _advanced(self, rays: Floats, depth: Floats, near: Hits, steps: int) -> tuple[Floats, Floats]:
        """Return the depths after some secant steps, and the remaining distance to the surface."""
        last = self.distance(rays, depth, near)
        move = last * np.float32(0.5)
        for _ in range(steps):
            depth = np.minimum(depth + move, np.float32(REACH))
            rest = self.distance(rays, depth, near)
            fall = (last - rest) / np.where(np.abs(move) < 1e-6, np.float32(1e-6), move)
            rate = 1 / np.maximum(np.minimum(fall, 1.8), np.clip(0.5 + rest * 8, 0.5, 1.7))  # far away, expect folds
            rate[fall < 0.1] = 0.6
            rate[fall < -0.1] = 0.95
            last, move = rest, rest * rate
        return np.minimum(depth + move, np.float32(REACH)), np.where(fall < 0.1, np.float32(1), np.abs(move))


def polyp_distance(polyp: Polyp, around: Floats, along: Floats, height: Floats) -> Floats:
    """Return the approximate distance to a polyp, from coordinates relative to its foot, in radii."""
    size = polyp.size
    if polyp.kind is PolypKind.PEDUNCULATED:
        across, ahead, up = around - polyp.lean[0] * size, along - polyp.lean[1] * size, height - 1.5 * size
        ball = np.sqrt(across**2 + ahead**2 + (up * 1.12) ** 2)
        ball = ball - size * _lumps(polyp, around, along, height, 0.07)
        part = np.clip(height / (1.5 * size), -0.3, 1)
        sideways, lengthways = around - part * (polyp.lean[0] * size), along - part * (polyp.lean[1] * size)
        beyond = np.maximum(height - 1.5 * size, 0)
        stalk = np.sqrt(sideways**2 + lengthways**2 + beyond**2)
        return _joined(ball, stalk - size * (0.48 + 0.25 * (1 - part) ** 2), 0.3 * size)
    flat = polyp.kind is PolypKind.FLAT
    wide, long, high = (1.15, 0.95, 0.42) if flat else (1.05, 0.95, 0.92)
    sunk = 0.02 if flat else 0.22
    span = (around / (wide * size)) ** 2 + (along / (long * size)) ** 2 + ((height - sunk * size) / (high * size)) ** 2
    lumps = _lumps(polyp, around, along, height, 0.10 if flat else 0.075)
    return floats((np.sqrt(span) - lumps) * np.float32(size * (0.6 if flat else 0.9)))


def _lumps(polyp: Polyp, around: Floats, along: Floats, height: Floats, strength: float) -> Floats:
    """Return a factor around 1 that makes an outline uneven."""
    turn, rate = polyp.phase, 1 / polyp.size
    broad = np.sin(around * (2.3 * rate) + turn) * np.sin(along * (2.6 * rate) + 2 * turn)
    broad = broad + 0.6 * np.sin(height * (3.1 * rate) + along * (3.4 * rate) + 3 * turn)
    return floats(1 + strength * broad)


def _slope(polyp: Polyp, local: Place, found: Floats) -> Floats:
    """Return the unit gradient of a polyp's distance (around, along, height): (3, rays)."""
    around, along, height = local
    step = np.float32(0.012)
    slope = np.stack(
        [
            polyp_distance(polyp, around + step, along, height),
            polyp_distance(polyp, around, along + step, height),
            polyp_distance(polyp, around, along, height + step),
        ]
    )
    slope -= found
    return floats(slope / np.maximum(np.sqrt((slope * slope).sum(axis=0)), 1e-6))


def _skin_place(polyp: Polyp, around: Floats, along: Floats, height: Floats) -> Floats:
    """Return the position on a polyp's skin, in texels, in a stereographic chart from the top; stalks have none."""
    middle = 1.5 if polyp.kind is PolypKind.PEDUNCULATED else 0.0
    up = height / polyp.size - middle
    across, ahead = around / polyp.size, along / polyp.size
    length = np.sqrt(across**2 + ahead**2 + up**2) + 1e-3
    scale = np.float32(0.36 * SKIN_SIDE) / (length + np.maximum(up, -0.7 * length))
    half = np.float32(SKIN_SIDE / 2)
    shown = np.clip(up * 2.2 + 2.0, 0.25, 1) if polyp.kind is PolypKind.PEDUNCULATED else np.ones_like(up)
    return np.stack([across * scale + half, ahead * scale + half, shown])


def _local(growth: Growth, across: Floats, down: Floats, along: Floats) -> Place:
    """Return the position (around, along, height) relative to a polyp's foot."""
    cos, sin = np.float32(np.cos(growth.polyp.angle)), np.float32(np.sin(growth.polyp.angle))
    height = np.float32(growth.polyp.wall) - (across * cos + down * sin)
    return down * cos - across * sin, along - np.float32(growth.along), height


def _growth(polyp: Polyp, journey: Journey, z: float) -> Growth | None:
    """Place a polyp ahead of a camera at z; None if it cannot be visible."""
    along = z - 1.0 + (polyp.along - z + 1.0) % PERIOD
    shown = min(1.0, (LOST - (along - z)) / (LOST - DISTINCT))
    if shown <= 0.15:
        return None
    polyp = replace(polyp, size=polyp.size * shown)
    tall = 2.0 if polyp.kind is PolypKind.PEDUNCULATED else 0.5
    inward = polyp.wall - 0.6 * tall * polyp.size
    offset = inward * np.array([np.cos(polyp.angle), np.sin(polyp.angle)])
    at = along
    for _ in range(6):
        middle, slope = journey.course(np.array(at))
        at = along - float(slope @ offset)
    reach = (1.75 if polyp.kind is PolypKind.PEDUNCULATED else 1.35) * polyp.size * 1.12 + BLEND
    return Growth(polyp=polyp, along=along, center=np.array([*(middle + offset), at]), reach=reach)


def _joined(first: Floats, second: Floats, width: float = BLEND) -> Floats:
    """Return the smaller of two distances, blended where they meet."""
    gap = np.maximum(np.float32(width) - np.abs(first - second), 0)
    return floats(np.minimum(first, second) - gap * gap * np.float32(0.25 / width))


def _bent(gradient: Floats, course: Floats) -> Floats:
    """Convert gradients of the straight tube to unit normals in the world, (3, rays)."""
    x, y, along = gradient
    slope_x, slope_y = course[..., 2], course[..., 3]
    normal = np.stack([x + slope_x * along, y + slope_y * along, along - slope_x * x - slope_y * y])
    return floats(normal / np.sqrt((normal * normal).sum(axis=0)))


def _polar(across: Floats, down: Floats) -> tuple[Floats, Floats]:
    distance, angle = cv2.cartToPolar(across, down)
    return floats(distance).reshape(-1), floats(angle).reshape(-1)


def _relief_place(angle: Floats, along: Floats) -> tuple[Floats, Floats]:
    turns = along * np.float32(1 / PERIOD)
    columns = angle * np.float32(RELIEF_SIZE[1] / (2 * np.pi))
    return columns, (turns - np.floor(turns)) * np.float32(RELIEF_SIZE[0])


def _looked_up(table: Floats, columns: Floats, rows: Floats) -> Floats:
    """Interpolate a map at positions given by flat arrays whose length is a multiple of the row."""
    shape = (-1, _ROW)
    found = cv2.remap(table, columns.reshape(shape), rows.reshape(shape), cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return floats(found.reshape(columns.size, *table.shape[2:]))
