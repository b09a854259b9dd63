"""The viewer for a session that nobody looks at."""

from polypstream.realtime.live.shown import LiveFrame, Status
from polypstream.realtime.live.viewing import Gauges


class UnseenViewer:
    """Shows nothing and counts: for recording, metrics and measurements alone."""

    def __init__(self) -> None:
        self.frames = 0
        """How many frames it was shown."""
        self.frames_with_markers = 0
        self.status: Status | None = None
        """The newest, of a frame or told without one."""
        self.gauges: Gauges | None = None

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Count a frame."""
        self.frames += 1
        self.frames_with_markers += bool(shown.markers)
        self.status, self.gauges = shown.status, gauges

    def tell(self, status: Status) -> None:
        """Remember how things stand."""
        self.status = status

    def close(self) -> None:
        """Do nothing."""
