"""Plot of an evaluated video: areas and Dice over time, and the burden of false alarms."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from polypstream.errors import MissingExtraError
from polypstream.evaluation.video import ALARM_AREA_SHARES, ALARM_RUNS, FrameScore, VideoEvaluation
from polypstream.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LABELED, PREDICTED = "#0072b2", "#d55e00"


def plot_video(result: VideoEvaluation, path: Path, *, title: str) -> None:
    """Write a plot; the suffix of the file (.png, .svg, .pdf) decides its format.

    Raises:
        MissingExtraError: Matplotlib is not installed.
        OutputError: The file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtraError("a plot", "evaluation") from error
    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    areas, dice, alarms = figure.subplots(3, 1)
    _plot_areas(areas, result.frames)
    _plot_dice(dice, result.polyp_frames)
    dice.set_xlim(areas.get_xlim())
    _plot_alarms(alarms, result)
    figure.suptitle(title)
    with atomic_path(path) as unfinished:
        figure.savefig(unfinished, format=path.suffix.removeprefix(".") or "png", dpi=120)


def _plot_areas(axes: "Axes", frames: Sequence[FrameScore]) -> None:
    times_s = [frame.pts_s for frame in frames]
    axes.plot(times_s, [frame.polyp_pixels for frame in frames], color=LABELED, label="labeled")
    axes.plot(times_s, [frame.predicted_pixels for frame in frames], color=PREDICTED, label="predicted", linewidth=1)
    axes.set_ylabel("area in pixels")
    axes.legend(loc="upper left")


def _plot_dice(axes: "Axes", frames: Sequence[FrameScore]) -> None:
    axes.plot([frame.pts_s for frame in frames], [frame.dice for frame in frames], ".", color=LABELED, markersize=3)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("Dice, frames with a polyp")
    axes.set_xlabel("time in s")


def _plot_alarms(axes: "Axes", result: VideoEvaluation) -> None:
    shades = np.linspace(0.9, 0.25, len(ALARM_AREA_SHARES))
    for area, shade in zip(ALARM_AREA_SHARES, shades, strict=True):
        rows = [row for row in result.alarms if row.min_area_share == area]
        shares = [row.frame_share for row in rows]
        axes.plot(range(len(rows)), shares, "o-", color=str(1 - shade), label=f"≥ {area:.1%} of the frame")
    axes.set_xticks(range(len(ALARM_RUNS)), [f"≥ {run}" for run in ALARM_RUNS])
    axes.set_xlabel("consecutive frames")
    axes.set_ylabel("share of clean frames")
    axes.set_ylim(bottom=0)
    if result.alarms:
        axes.legend()
