"""Frame-based false alarms: fraction of polyp-free frames that are marked, by area and duration.

There is no tracking or hysteresis, so that the columns are comparable with those published for other networks: any
foreground, area of the largest region relative to the frame, and runs of marked polyp-free frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

AREA_SHARES = (0.0, 0.001, 0.005, 0.01, 0.02, 0.05)
"""Minimum area of the largest region, as a fraction of the frame; 0: any foreground."""
RUN_LENGTHS = (1, 2, 3, 6, 12)
"""Minimum number of consecutive marked polyp-free frames."""


def frame_alarms(largest: Sequence[float], has_polyp: Sequence[bool]) -> dict[str, Any]:
    """Compute fractions of the polyp-free frames of one video.

    Args:
        largest: Area of the largest region of each frame in order, as a fraction of the frame; 0 without a region.
        has_polyp: Whether each frame shows a polyp.

    Returns:
        `clean_frames`, and fractions `by_area` and `by_run`, in the order of `AREA_SHARES` and `RUN_LENGTHS`; None if
        every frame shows a polyp.
    """
    clean = [share for share, polyp in zip(largest, has_polyp, strict=True) if not polyp]
    if not clean:
        return {"clean_frames": 0, "by_area": None, "by_run": None}
    runs = _run_lengths([share > 0 and not polyp for share, polyp in zip(largest, has_polyp, strict=True)])
    return {
        "clean_frames": len(clean),
        "by_area": [sum(share > 0 and share >= least for share in clean) / len(clean) for least in AREA_SHARES],
        "by_run": [sum(run for run in runs if run >= least) / len(clean) for least in RUN_LENGTHS],
    }


def _run_lengths(marked: Sequence[bool]) -> list[int]:
    runs, length = [], 0
    for each in [*marked, False]:
        if each:
            length += 1
        elif length:
            runs.append(length)
            length = 0
    return runs


def frame_alarms_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format the fractions of a written report as a table with one row per threshold."""
    areas = ["any foreground", *(f"≥ {share:.1%} of the frame" for share in AREA_SHARES[1:])]
    runs = [f"≥ {length} in a row" for length in RUN_LENGTHS[1:]]
    lines = [f"| threshold | {' | '.join([*areas, *runs])} |", "|---" * (1 + len(areas) + len(runs)) + "|"]
    for threshold, row in rows.items():
        if row["by_area"] is not None:
            cells = " | ".join(f"{share:.1%}" for share in [*row["by_area"], *row["by_run"][1:]])
            lines.append(f"| {threshold} | {cells} |")
    return "\n".join(lines)
