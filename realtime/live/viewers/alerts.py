"""Alerts: when a viewer draws attention to a polyp by a chip, bright corners and a tone. The page has the same rules.

Only this decides about alerts; whether a polyp is present is decided by the alarm logic. It never reads a clock.
"""

from dataclasses import dataclass
from enum import Enum

from polypstream.errors import ConfigError

BRIDGED_S = 0.3
"""A polyp without a marker for so long is still present, so that nothing flickers."""
RECENT_S = 4.0
"""Time for which the chip says that there was a polyp, and how long ago."""


@dataclass(frozen=True, kw_only=True)
class AlertConfig:
    """When a viewer draws attention to a polyp. The defaults of all viewers; each page may change its own."""

    after_s: float = 0.0
    """Minimum time for which a polyp must be marked, in seconds."""
    rearm_s: float = 5.0
    """Time without a polyp, in seconds, after which the next one sounds a tone again."""
    quiet_s: float = 30.0
    """Time after an acknowledgment without tone and bright corners, in seconds. The chip is still shown."""
    sound: bool = False
    """Whether each alert starts with a short tone."""

    def __post_init__(self) -> None:
        for name, high in (("after_s", 10), ("rearm_s", 600), ("quiet_s", 3600)):
            value = getattr(self, name)
            if not 0 <= value <= high:
                raise ConfigError(f"the alert's {name} is {value:g}; it must be between 0 and {high} seconds")


class Chip(Enum):
    """What a viewer shows."""

    OFF = "off"
    ON = "on"
    QUIET = "quiet"
    """A polyp is marked, and the alert was acknowledged."""
    RECENT = "recent"
    """No polyp is marked any more."""


class Alerts:
    """Decides what to show from whether a polyp is marked, frame by frame. Not thread-safe."""

    def __init__(self, config: AlertConfig | None = None) -> None:
        self.config = config or AlertConfig()
        self._since_s: float | None = None
        self._marked_s = self._shown_s = self._quiet_until_s = float("-inf")
        self._is_shown = False
        self.raised = 0
        """Alerts so far; one more means that a tone is due."""

    def update(self, *, is_marked: bool, at_s: float, is_ready: bool = True) -> Chip:
        """Return what to show on a frame.

        Args:
            is_marked: Whether it has a marker.
            at_s: Its time in increasing seconds.
            is_ready: Whether the light is ready; if not, nothing is bridged.
        """
        if is_marked:
            if self._since_s is None or at_s - self._marked_s > BRIDGED_S:
                self._since_s, self._is_shown = at_s, False
            self._marked_s = at_s
        if self._since_s is None or at_s - self._marked_s > (BRIDGED_S if is_ready else 0):
            self._is_shown = False
            return Chip.RECENT if at_s - self._shown_s < RECENT_S else Chip.OFF
        if self._marked_s - self._since_s < self.config.after_s:
            return Chip.OFF
        is_quiet = at_s < self._quiet_until_s
        if not self._is_shown and not is_quiet and at_s - self._shown_s >= self.config.rearm_s:
            self.raised += 1
        self._is_shown, self._shown_s = True, self._marked_s
        return Chip.QUIET if is_quiet else Chip.ON

    def since_shown_s(self, at_s: float) -> float:
        """Return how long ago a polyp was marked, in seconds."""
        return at_s - self._shown_s

    def acknowledge(self, *, at_s: float) -> None:
        """Keep quiet for `quiet_s`."""
        self._quiet_until_s = at_s + self.config.quiet_s
