"""What can be chosen about a live source."""

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from polypstream.errors import ConfigError


class RtspTransport(Enum):
    """How an RTSP server sends its pictures."""

    TCP = "tcp"
    """Within the connection: nothing is lost on the way."""
    UDP = "udp"


class Framing(Enum):
    """How the end of a frame is found in MPEG-TS over UDP and TCP."""

    PROMPT = "prompt"
    """By its stuffing, at once."""
    CAREFUL = "careful"
    """By the frames that follow, two frames later; for senders that cut a frame into several PES packets."""


class AtEnd(Enum):
    """What a file played in real time does after its last frame."""

    STOP = "stop"
    LOOP = "loop"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Options of a live source. Those of other kinds of source than the one opened are ignored."""

    watchdog_s: float = 2.0
    """Without a picture for so long, the line is lost and connected anew."""
    first_picture_s: float = 10.0
    """How long a new connection may take to its first picture: it has to wait for a keyframe."""
    connect_s: float = 5.0
    """How long a server may take to answer."""
    first_retry_s: float = 0.25
    """The pause after a failed connection; it doubles with every failure until there is a picture."""
    longest_retry_s: float = 5.0
    late_s: float = 0.3
    """A frame that waited longer than this before it is decoded is skipped where a newer one waits. Shorter, and the
    hiccups of a busy machine would cost frames that it makes up for at once; longer, and one that cannot keep up would
    lag by more than one gets used to."""
    rtsp_transport: RtspTransport = RtspTransport.TCP
    framing: Framing = Framing.PROMPT
    at_end: AtEnd = AtEnd.STOP
    device_size: tuple[int, int] | None = None
    """Width and height that a capture device is asked for; None leaves it as it is."""
    device_rate: Fraction | None = None
    """Frames per second that a capture device is asked for."""
    device_format: str | None = None
    """A pixel format or codec that a capture device is asked for, such as "yuyv422" or "mjpeg"."""

    def __post_init__(self) -> None:
        for name in ("watchdog_s", "first_picture_s", "connect_s", "first_retry_s", "longest_retry_s", "late_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(f"{name} is {getattr(self, name)}; use more than 0 and at most 3600 seconds")
        if self.longest_retry_s < self.first_retry_s:
            raise ConfigError(
                f"longest_retry_s is {self.longest_retry_s}, less than first_retry_s, {self.first_retry_s}; "
                "the pause between two tries only grows"
            )
        if self.device_size is not None and min(self.device_size) < 1:
            width, height = self.device_size
            raise ConfigError(f"device_size is {width} x {height}; give a width and a height of at least 1")
        if self.device_rate is not None and self.device_rate <= 0:
            raise ConfigError(f"device_rate is {self.device_rate}; use more than 0 frames per second")
