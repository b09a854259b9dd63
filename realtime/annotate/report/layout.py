"""Building blocks of report pages. Everything is inline, under a content security policy that allows no requests."""

from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Protocol, TypeVar

_POLICY = (
    "default-src 'none'; img-src data:; media-src 'self' file: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
_NARROWEST = 0.09
"""Minimum width of a bar, as a fraction of the timeline, for phones."""


class Spanned(Protocol):
    """Something with a place on a timeline, in seconds."""

    @property
    def first_pts_s(self) -> float:
        """Its start."""
        ...

    @property
    def last_pts_s(self) -> float:
        """Its end."""
        ...


S = TypeVar("S", bound=Spanned)


def document(title: str, body: str, script: str, *, duration_s: float = 0.0) -> str:
    """A whole page around a body, with the common style sheet."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{static('report.css')}</style>\n</head>\n"
        f"<body data-duration='{duration_s:.3f}'>\n<main>\n"
        f"{body}\n</main>\n" + (f"<script>\n{script}</script>\n" if script else "") + "</body>\n</html>\n"
    )


@cache
def static(name: str) -> str:
    """A file of this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def lanes(spans: Iterable[S], duration_s: float) -> list[list[S]]:
    """Arrange spans in as few rows as possible without overlapping bars."""
    apart_s = _NARROWEST * duration_s
    rows: list[list[S]] = []
    for span in sorted(spans, key=lambda span: span.first_pts_s):
        for row in rows:
            if span.first_pts_s > max(row[-1].last_pts_s, row[-1].first_pts_s + apart_s):
                row.append(span)
                break
        else:
            rows.append([span])
    return rows


def place(start_s: float, end_s: float, duration_s: float) -> str:
    """Style of a bar over an interval."""
    left = 100 * min(start_s / duration_s, 1.0)
    width = 100 * max(min(end_s, duration_s) - start_s, 0.0) / duration_s
    return f"left:min({left:.3f}%, 100% - var(--least, 2px));width:{width:.3f}%"


def line(points: Sequence[tuple[float, float]], duration_s: float, most: float) -> str:
    """SVG path of one part of a curve; a single point becomes a dot."""
    ends = [f"{1000 * x / duration_s:.1f} {100 - 100 * min(y / most, 1.0):.1f}" for x, y in points]
    return f"M{ends[0]}h.1" if len(ends) == 1 else f"M{ends[0]}L{' '.join(ends[1:])}"


def axis(duration_s: float) -> str:
    """Labels below a timeline."""
    ends = "".join(f"<span>{clock(duration_s * part / 4)}</span>" for part in range(5))
    return f'<div class="axis" aria-hidden="true">{ends}</div>'


def clock(seconds: float) -> str:
    """Seconds as m:ss.s, or h:mm:ss.s."""
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"
