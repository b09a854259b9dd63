"""Detection statistics per frame, based on the drawn regions, for many thresholds and minimum areas."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from polypstream.arrays import Mask, Probability
from polypstream.contract import MIN_AREA_SHARE
from polypstream.realtime.outlines.contours import Polyp, mask_from_polyps, polyps_from_probability

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(18))
MIN_AREA_SHARES = (MIN_AREA_SHARE, 0.001, 0.002, 0.005, 0.01, 0.02)

Grid = NDArray[np.float64]
"""float64 (thresholds, minimum areas)."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """One drawn region: its share of the image, and whether it overlaps the truth."""

    area_share: float
    overlaps: bool


@dataclass(frozen=True, kw_only=True)
class FrameRegions:
    """Regions drawn on one frame, at each of `THRESHOLDS`."""

    has_polyp: bool
    at: tuple[tuple[Region, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Frame counts over `THRESHOLDS` × `MIN_AREA_SHARES`. Without frames, the grid is zero; check the counts."""

    polyp_frames: int
    clean_frames: int
    found: Grid
    """Number of polyp frames with a region that overlaps the truth."""
    alarming: Grid
    """Number of polyp-free frames with a region."""
    stray: Grid
    """Total number of regions on polyp frames that overlap no polyp."""

    @property
    def sensitivity(self) -> Grid:
        """Share of polyp frames on which the polyp is found."""
        return self.found / max(1, self.polyp_frames)

    @property
    def false_alarm_rate(self) -> Grid:
        """Share of polyp-free frames with a false alarm."""
        return self.alarming / max(1, self.clean_frames)

    @property
    def stray_regions(self) -> Grid:
        """False regions per polyp frame."""
        return self.stray / max(1, self.polyp_frames)


def regions_of_frame(probability: Probability, truth: Mask) -> FrameRegions:
    """Compare the regions that `polyps_from_probability` finds in a map with the truth, in source pixels."""
    height, width = truth.shape
    at = []
    for threshold in THRESHOLDS:
        polyps = polyps_from_probability(
            probability, threshold=threshold, width=width, height=height, min_area_share=min(MIN_AREA_SHARES)
        )
        at.append(tuple(Region(area_share=p.area / truth.size, overlaps=_overlaps(p, truth)) for p in polyps))
    return FrameRegions(has_polyp=bool(truth.any()), at=tuple(at))


def _overlaps(polyp: Polyp, truth: Mask) -> bool:
    x, y, width, height = polyp.box
    left, top = math.floor(x), math.floor(y)
    part = truth[top : math.ceil(y + height), left : math.ceil(x + width)]
    if not part.any():
        return False
    moved = replace(polyp, contour=polyp.contour - np.array((left, top), np.float32))
    return bool((mask_from_polyps([moved], width=part.shape[1], height=part.shape[0]) & part).any())


def counted(frames: Iterable[FrameRegions]) -> Detection:
    """Count the frames at every threshold and minimum area."""
    frames = list(frames)
    polyp, clean = [f for f in frames if f.has_polyp], [f for f in frames if not f.has_polyp]
    return Detection(
        polyp_frames=len(polyp),
        clean_frames=len(clean),
        found=_grid([[any(r.overlaps for r in regions) for regions in _all_sizes(frame)] for frame in polyp]),
        alarming=_grid([[bool(regions) for regions in _all_sizes(frame)] for frame in clean]),
        stray=_grid([[sum(not r.overlaps for r in regions) for regions in _all_sizes(frame)] for frame in polyp]),
    )


def _all_sizes(frame: FrameRegions) -> list[list[Region]]:
    """Select the counted regions for every threshold and minimum area."""
    return [[r for r in regions if r.area_share >= least] for regions in frame.at for least in MIN_AREA_SHARES]


def _grid(rows: Sequence[Sequence[int]]) -> Grid:
    shape = (len(THRESHOLDS), len(MIN_AREA_SHARES))
    return np.sum(rows, axis=0, dtype=np.float64).reshape(shape) if rows else np.zeros(shape)


def wilson_interval(hits: float, count: int) -> tuple[float, float]:
    """Compute the 95% Wilson interval of a share, which is also valid for few frames and for shares of 0 and 1.

    Args:
        hits: Number of frames counted.
        count: Total number of frames; for 0 the interval is (0, 1).

    Returns:
        Lower and upper limit.
    """
    if not count:
        return 0.0, 1.0
    interval = binomtest(round(hits), count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)
