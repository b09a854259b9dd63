"""Frame counter: a frame number drawn into the image as a bar code, to track frames through cameras and encoders.

The lowest tenth of the image contains two rows of 16 black or white cells: 4 cells of a fixed pattern, 24 bits of the
number, most significant first, and 4 parity bits. All positions are relative to the image size, so a scaled image
decodes to the same number.
"""

import numpy as np
from numpy.typing import NDArray

COUNTER_BITS = 24
COUNTER_SHARE = 0.1
"""Share of the image's height that the bar code covers."""
_COLUMNS, _ROWS = 16, 2
_PATTERN = (True, False, False, True)
_PARITY_BITS = 4
_CONTRAST = 80.0
"""Minimum difference between white and black, in gray levels."""


def draw_counter(rgb: NDArray[np.uint8], number: int) -> None:
    """Draw a number of at most 24 bits into a uint8 RGB image (H, W, 3), in place."""
    rows, columns = _edges(rgb.shape[0], rgb.shape[1])
    for cell, bit in enumerate(_cells(number)):
        row, column = divmod(cell, _COLUMNS)
        rgb[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = 255 if bit else 0


def counter_from_rgb(rgb: NDArray[np.uint8]) -> int | None:
    """Decode the number in a uint8 RGB image (H, W, 3) of any size; None if there is none or it is unreliable."""
    height, width = rgb.shape[:2]
    if height < 20 or width < 2 * _COLUMNS:
        return None
    rows, columns = _edges(height, width)
    levels = np.array(
        [
            rgb[_middle(rows[row], rows[row + 1]), _middle(columns[column], columns[column + 1])].mean()
            for row in range(_ROWS)
            for column in range(_COLUMNS)
        ]
    )
    black, white = float(levels.min()), float(levels.max())
    share = (levels - black) / max(white - black, 1.0)
    if white - black < _CONTRAST or bool(((share > 0.35) & (share < 0.65)).any()):
        return None
    bits = share > 0.5
    number = int("".join("1" if bit else "0" for bit in bits[len(_PATTERN) : len(_PATTERN) + COUNTER_BITS]), 2)
    return number if bits.tolist() == _cells(number) else None


def _cells(number: int) -> list[bool]:
    """Return the 32 cells of a number, row by row."""
    bits = [bool(number >> place & 1) for place in reversed(range(COUNTER_BITS))]
    parity = [sum(bits[first::_PARITY_BITS]) % 2 == 0 for first in range(_PARITY_BITS)]
    return [*_PATTERN, *bits, *parity]


def _edges(height: int, width: int) -> tuple[list[int], list[int]]:
    top = height * (1 - COUNTER_SHARE)
    rows = [round(top + (height - top) * row / _ROWS) for row in range(_ROWS + 1)]
    return rows, [round(width * column / _COLUMNS) for column in range(_COLUMNS + 1)]


def _middle(first: int, last: int) -> slice:
    """Return the middle half of a range, at least one pixel."""
    margin = (last - first) // 4
    return slice(first + margin, max(last - margin, first + margin + 1))
