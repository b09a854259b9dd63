"""Polyps that enter or leave the image over its edge, followed by the motion of the tissue.

The network rarely finds a polyp of which only a strip is visible, and optical flow says nothing about the part outside.
From a frame where the polyp was detected at the edge, its contour is therefore moved from frame to frame as a whole.
"""

from dataclasses import dataclass, replace
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.arrays import Contour, Size
from polypstream.realtime.annotate.tracks import CLEAR_IOU, FrameScene, overlap_of
from polypstream.realtime.live.motion import Motion, Scene
from polypstream.realtime.outlines.contours import Polyp, polyp_from_contour

MIN_TRUST = 0.5
"""Minimum confidence in the motion since the last detection; see `motion.Motion`."""
MIN_VISIBLE_SHARE = 0.2
"""Minimum visible area, as a share of that of the last detection."""
AT_EDGE_SHARE = 0.1
"""Minimum share of a contour's points near the edge of the content area."""


@dataclass(frozen=True, kw_only=True)
class EdgePolyp:
    """A polyp that is followed over the edge of the image, in the newest frame."""

    contour: Contour
    """In relative coordinates; it may reach outside the image."""
    visible: Polyp
    """The visible part, in source pixels."""
    detected: Polyp
    """Last detection."""
    trust: float

    @classmethod
    def at_edge(cls, polyp: Polyp, size: Size, scene: FrameScene) -> Self | None:
        """Start following a detected polyp; None if it is not at the edge of the content area."""
        contour = np.divide(polyp.contour, size, dtype=np.float32)
        if scene.scene is None or _share_at_edge(contour, scene.scene) < AT_EDGE_SHARE:
            return None
        return cls(contour=contour, visible=polyp, detected=polyp, trust=1.0)

    def moved(self, before: FrameScene, after: FrameScene, size: Size) -> Self | None:
        """Move it to an adjacent frame; None if its motion is not clear, too little of it is visible, or it
        is no longer at the edge: the network finds such a polyp, or it is none.

        Args:
            before: The frame for which it is known.
            after: The frame to move it to, before or after that one in time.
            size: Width and height of the frames in pixels.
        """
        first, second = before.scene, after.scene
        if first is None or second is None or first.rgb.shape != second.rgb.shape:
            return None
        moved = Motion(first, second).translate(self.contour)
        trust = self.trust * moved.trust
        if trust < MIN_TRUST or _share_at_edge(moved.contour, second) < AT_EDGE_SHARE:
            return None
        pixels = within_content(moved.contour, second) * np.asarray(size, np.float32)
        visible = polyp_from_contour(np.asarray(pixels, np.float32), score=self.detected.score)
        if visible.area < max(MIN_VISIBLE_SHARE * self.detected.area, 1):
            return None
        return replace(self, contour=moved.contour, visible=visible, trust=trust)


def is_same(one: Polyp, other: Polyp, size: Size) -> bool:
    """Whether two outlines of a frame overlap so much that they show the same polyp."""
    return overlap_of(np.divide(one.contour, size), np.divide(other.contour, size)) >= CLEAR_IOU


def within_content(contour: Contour, scene: Scene) -> Contour:
    """Move the points outside the content area of a frame to the nearest point of its edge.

    Args:
        contour: In relative coordinates.
        scene: The frame; its content area is convex.
    """
    height, width = scene.area.shape
    outlines, _ = cv2.findContours(scene.area.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = cv2.convexHull(np.concatenate([np.concatenate((each, each + 1)) for each in outlines]))
    edge = corners[:, 0].astype(np.float32)
    size = np.array([width, height], np.float32)
    points = contour * size
    outside = [cv2.pointPolygonTest(edge, (float(x), float(y)), False) < 0 for x, y in points]
    if any(outside):
        points[outside] = _nearest(points[outside], edge)
    return np.asarray(points / size, np.float32)


def _nearest(points: NDArray[np.float32], polygon: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest points of a polygon's sides: (n, 2)."""
    sides = np.roll(polygon, -1, axis=0) - polygon
    along = ((points[:, np.newaxis] - polygon) * sides).sum(axis=2) / np.maximum((sides**2).sum(axis=1), 1e-9)
    candidates = polygon + np.clip(along, 0, 1)[..., np.newaxis] * sides
    distances = np.linalg.norm(candidates - points[:, np.newaxis], axis=2)
    return np.asarray(candidates[np.arange(len(points)), distances.argmin(axis=1)], np.float32)


def _share_at_edge(contour: Contour, scene: Scene) -> float:
    height, width = scene.inner.shape
    columns, rows = (np.clip(contour * [width, height], 0, [width - 1, height - 1])).astype(np.intp).T
    return float(1 - scene.inner[rows, columns].mean())
