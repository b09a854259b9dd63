"""Camera of the synthetic endoscope: its position and direction over time, and the ray of each pixel.

The tube runs along z with its center at (x, y) = course(z); the tip points toward larger z and is withdrawn toward
smaller z. Lengths are in mean radii of the lumen, angles in radians, times in seconds.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polypstream.synthetic.anatomy import PERIOD, Floats, Polyp

Vector = NDArray[np.float64]

SPEED = 0.6
"""Mean speed of withdrawal, in radii per second."""
FIELD = 1.12
"""Tangent of half the field of view along the image's longer side, before distortion."""


@dataclass(frozen=True, kw_only=True)
class View:
    """The camera at one time."""

    eye: Vector
    """(3,) position."""
    axes: Vector
    """Right, down and forward vectors as columns: (3, 3)."""


@dataclass(frozen=True, kw_only=True)
class Journey:
    """Path of the colon and movement of the endoscope through it, generated from a seed."""

    seed: int
    polyps: tuple[Polyp, ...]

    def course(self, z: Vector) -> tuple[Vector, Vector]:
        """Return the center of the tube at z and its slope there: (2, ...) each."""
        phases = np.random.default_rng([self.seed, 2]).uniform(0, 2 * np.pi, 6)
        middle, slope = np.zeros((2, *z.shape)), np.zeros((2, *z.shape))
        for axis, (first, second, third) in enumerate((phases[:3], phases[3:])):
            for height, rate, phase in ((1.3, 0.33, first), (0.38, 0.79, second), (0.08, 1.9, third)):
                middle[axis] += height * np.sin(rate * z + phase)
                slope[axis] += height * rate * np.cos(rate * z + phase)
        return middle, slope

    def place(self, seconds: float) -> float:
        """Return z of the tip: withdrawn in pulls, sometimes pushed back slightly."""
        pull = 2 * np.pi / 4.3
        return float(1.55 - SPEED * seconds - 0.24 * np.sin(pull * seconds + 2.2) + 0.025 * np.sin(3.1 * seconds))

    def view(self, seconds: float) -> View:
        """Return position and direction of the camera."""
        z = self.place(seconds)
        gaze = self._gaze(z)
        sway = _wander(self.seed, seconds, rates=(0.9, 1.7, 2.9), heights=(0.09, 0.05, 0.02))
        shake = _wander(self.seed + 7, seconds, rates=(1.1, 2.3, 5.3), heights=(0.08, 0.05, 0.012))
        middle, _ = self.course(np.array(z))
        ahead, _ = self.course(np.array(z + 1.9))
        eye = np.array([*(middle + sway - 0.24 * gaze), z])
        target = np.array([*(ahead + 0.8 * gaze), z + 1.9]) + np.array([*(2.0 * (shake + self._jolt(seconds))), 0])
        return View(eye=eye, axes=_axes(target - eye, roll=0.25 * np.sin(0.37 * seconds + self.seed)))

    def blur_seconds(self, seconds: float) -> float:
        """Return half of the exposure time, which is long only during jolts."""
        return 0.02 if abs(_since_jolt(seconds)) < 0.22 else 0.0

    def _jolt(self, seconds: float) -> Vector:
        """Return a quick swing of the view: (2,)."""
        since = _since_jolt(seconds)
        return np.array([0.24, 0.13]) * float(np.exp(-((since / 0.16) ** 2)) * np.sin(13 * since))

    def _gaze(self, z: float) -> Vector:
        """Return an offset toward nearby polyps, as a physician would aim: (2,), at most about 1 long."""
        gaze = np.zeros(2)
        for polyp in self.polyps:
            ahead = (polyp.along - z + PERIOD / 2) % PERIOD - PERIOD / 2
            weight = float(np.exp(-(((ahead - 1.25) / 0.85) ** 2)))
            gaze += weight * np.array([np.cos(polyp.angle), np.sin(polyp.angle)])
        return gaze / max(1.0, float(np.linalg.norm(gaze)))


def _since_jolt(seconds: float) -> float:
    """Return the time since the nearest jolt, negative before it; there is one every eleven seconds."""
    return (seconds - 5.05 + 5.5) % 11.0 - 5.5


def _wander(seed: int, seconds: float, *, rates: tuple[float, ...], heights: tuple[float, ...]) -> Vector:
    """Return a smooth, never repeating movement: (2,). The second rate is close to that of breathing."""
    phases = np.random.default_rng([seed, 3]).uniform(0, 2 * np.pi, (2, len(rates)))
    return np.asarray((np.sin(np.array(rates) * seconds * np.array([[1.0], [1.13]]) + phases) * heights).sum(axis=1))


def _axes(forward: Vector, *, roll: float) -> Vector:
    forward = forward / np.linalg.norm(forward)
    right = np.cross([np.sin(roll), np.cos(roll), 0.0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def rays_of(width: int, height: int) -> Floats:
    """Return the unit direction of each pixel in camera axes, (3, height, width), with the lens's barrel distortion."""
    side = max(width, height)
    x = (np.arange(width) * 2 + 1 - width) / side
    y = (np.arange(height) * 2 + 1 - height) / side
    across, down = np.meshgrid(x, y)
    stretch = FIELD * (0.92 + 0.16 * (across**2 + down**2))
    rays = np.stack([across * stretch, down * stretch, np.ones_like(across)])
    return np.asarray(rays / np.linalg.norm(rays, axis=0), dtype=np.float32)
