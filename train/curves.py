"""The curves of a run as a picture: training loss and validation Dice over the epochs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from polypstream.train.report import EpochReport

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]

WIDTH, PANEL_HEIGHT = 960, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 176, 40, 40
"""Margins of a panel: numbers on the left and below, the title above, the legend on the right."""
INK, GREY, GRID = (40, 40, 40), (120, 120, 120), (225, 225, 225)
COLOURS: tuple[Colour, ...] = ((32, 32, 32), (180, 119, 31), (14, 127, 255), (44, 160, 44), (40, 39, 214))
"""BGR. The first is that of the loss and of the mean Dice."""
SUBPIXEL_BITS = 4


def curves_png(history: Sequence[EpochReport]) -> bytes:
    """A PNG: above the loss, below the Dice of each data set, their mean and its best epoch. At least one epoch."""
    if not history:
        raise ValueError("there are no epochs to draw; give a history of at least one")
    epochs = history[0].epochs
    loss = {"training loss": [report.loss for report in history]}
    dice = {"mean": [report.mean_dice for report in history]}
    dice |= {name: [report.dice[name] for report in history] for name in history[0].dice}
    best = max(range(len(history)), key=dice["mean"].__getitem__)
    title = f"validation Dice; best mean {dice['mean'][best]:.4f} in epoch {best + 1}"
    upper = _Panel.fitting("training loss", loss, epochs=epochs, top=None).drawn(loss)
    lower = _Panel.fitting(title, dice, epochs=epochs, top=1.0).drawn(dice)
    _, encoded = cv2.imencode(".png", np.vstack((upper, lower)))
    return encoded.tobytes()


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One pair of axes: epochs from 1 to `epochs`, values from 0 to `top`."""

    title: str
    epochs: int
    top: float
    step: float

    @classmethod
    def fitting(cls, title: str, series: Mapping[str, Sequence[float]], *, epochs: int, top: float | None) -> "_Panel":
        """Axes that hold every value, ending on a round number where `top` is None."""
        largest = top or max(max(values) for values in series.values()) or 1.0
        step = _round_step(largest / 5)
        return cls(title=title, epochs=epochs, top=top or step * math.ceil(largest / step), step=step)

    def drawn(self, series: Mapping[str, Sequence[float]]) -> Picture:
        """The axes, a line for each series, and its name with its last value."""
        picture = np.full((PANEL_HEIGHT, WIDTH, 3), 255, np.uint8)
        self._draw_axes(picture)
        for index, (name, values) in enumerate(series.items()):
            colour = COLOURS[index % len(COLOURS)]
            thickness = 2 if index == 0 else 1
            points = np.array([self._at(epoch, value) for epoch, value in enumerate(values, start=1)])
            fixed = np.round(points * 2**SUBPIXEL_BITS).astype(np.int32)
            cv2.polylines(picture, [fixed], False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
            cv2.circle(picture, fixed[-1].tolist(), 3 << SUBPIXEL_BITS, colour, -1, cv2.LINE_AA, SUBPIXEL_BITS)
            _write(picture, f"{name} {values[-1]:.3f}", (WIDTH - RIGHT + 14, TOP + 12 + 20 * index), colour)
        return picture

    def _draw_axes(self, picture: Picture) -> None:
        _write(picture, self.title, (LEFT, TOP - 14), INK)
        for index in range(round(self.top / self.step) + 1):
            value = index * self.step
            x, y = (round(c) for c in self._at(1, value))
            cv2.line(picture, (LEFT, y), (WIDTH - RIGHT, y), GRID, 1)
            _write(picture, f"{value:.3g}", (x - 12, y + 4), GREY, align_right=True)
        every = max(1, math.ceil(_round_step(self.epochs / 10)))
        for epoch in sorted({1, *range(every, self.epochs + 1, every)}):
            x, y = (round(c) for c in self._at(epoch, 0))
            cv2.line(picture, (x, y), (x, y + 4), GREY, 1)
            _write(picture, str(epoch), (x + 4, y + 18), GREY, align_right=True)
        _write(picture, "epoch", (WIDTH - RIGHT + 14, PANEL_HEIGHT - BOTTOM + 18), GREY)

    def _at(self, epoch: float, value: float) -> tuple[float, float]:
        across = (epoch - 1) / max(1, self.epochs - 1)
        height = PANEL_HEIGHT - TOP - BOTTOM
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - value / self.top) * height


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _write(picture: Picture, text: str, at: tuple[int, int], colour: Colour, *, align_right: bool = False) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    (width, _), _ = cv2.getTextSize(text, font, scale, 1)
    cv2.putText(picture, text, (at[0] - width * align_right, at[1]), font, scale, colour, 1, cv2.LINE_AA)
