"""What is shown at one moment: a frame, the markers that belong on it, and what the light says."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from polypstream.realtime.contours import Polyp
from polypstream.realtime.frame import Frame


class Light(Enum):
    """Whether the markers can be relied on, or their absence."""

    READY = "ready"
    UNCERTAIN = "uncertain"
    """There is a picture, but it cannot be judged: blurred, red, washed, outside the body, or the model lags behind."""
    LOST = "lost"
    """There is no picture, or no model."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """The light and its reason."""

    light: Light
    reason: str = ""
    """For the user, a few words; empty when ready, unless something beside the markers is amiss."""


@dataclass(frozen=True, kw_only=True)
class Marker:
    """A polyp as it is to be drawn on one frame, in that frame's pixels."""

    identity: int
    """The same for one polyp from its appearance to its end; counted from 1."""
    polyp: Polyp
    opacity: float
    """In (0, 1]; falls as the evidence grows old."""
    drift: tuple[float, float] = (0.0, 0.0)
    """By how many pixels it moves in a second, across and down."""


@dataclass(frozen=True, kw_only=True)
class LiveFrame:
    """One frame of a live feed, ready to be shown."""

    frame: Frame
    """Its picture is untouched: draw on a copy."""
    markers: Sequence[Marker]
    status: Status
    evidence_age_s: float | None
    """How much older than this frame the newest frame that the network has judged is; None before the first."""
    decoded_at: float | None = None
    """Monotonic seconds at which its picture had been decoded: what came before is the feed's codec, not ours."""
