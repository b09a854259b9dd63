"""Options of live sources, and their addresses: display without credentials, and credentials stored elsewhere."""

import re
import socket
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from urllib.parse import quote

import av

from polypstream.errors import ConfigError


class RtspTransport(Enum):
    """Transport that an RTSP server uses for the video."""

    TCP = "tcp"
    """Within the RTSP connection: no packets are lost."""
    UDP = "udp"


class Framing(Enum):
    """How the end of a frame is detected in MPEG-TS over UDP and TCP."""

    PROMPT = "prompt"
    """By its stuffing, immediately."""
    CAREFUL = "careful"
    """By the next frames, two frames later; for senders that split a frame into several PES packets."""


class AtEnd(Enum):
    """What happens after the last frame of a file played in real time."""

    STOP = "stop"
    LOOP = "loop"


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Options of a live source. Options for other kinds of source are ignored.

    Raises:
        ConfigError: A value is out of range.
    """

    watchdog_s: float = 2.0
    """Seconds without a frame after which the connection counts as lost and is opened again."""
    first_frame_s: float = 10.0
    """Seconds that a new connection may take until its first frame, as it has to wait for a keyframe."""
    connect_s: float = 5.0
    """Seconds that a server may take to respond."""
    first_retry_s: float = 0.25
    """Seconds between a failed connection and the next attempt; doubled after every failure until there is a frame."""
    longest_retry_s: float = 5.0
    late_s: float = 0.3
    """A frame is skipped if it waited longer than this, in seconds, and a newer one is available. Lower values lose
    frames during short load peaks that could be caught up with; higher values allow a noticeable delay on machines that
    are too slow."""
    rtsp_transport: RtspTransport = RtspTransport.TCP
    framing: Framing = Framing.PROMPT
    at_end: AtEnd = AtEnd.STOP
    device_size: tuple[int, int] | None = None
    """Width and height to request from a capture device; None keeps its setting."""
    device_rate: Fraction | None = None
    """Frames per second to request from a capture device."""
    device_format: str | None = None
    """Pixel format or codec to request from a capture device, such as "yuyv422" or "mjpeg"."""

    def __post_init__(self) -> None:
        for name in ("watchdog_s", "first_frame_s", "connect_s", "first_retry_s", "longest_retry_s", "late_s"):
            if not 0 < getattr(self, name) <= 3600:
                raise ConfigError(f"{name} is {getattr(self, name)}; use more than 0 and at most 3600 seconds")
        if self.longest_retry_s < self.first_retry_s:
            raise ConfigError(
                f"longest_retry_s is {self.longest_retry_s}, less than first_retry_s, {self.first_retry_s}; "
                "the delay between attempts can only increase"
            )
        if self.device_size is not None and min(self.device_size) < 1:
            width, height = self.device_size
            raise ConfigError(f"device_size is {width} x {height}; width and height must be at least 1")
        if self.device_rate is not None and self.device_rate <= 0:
            raise ConfigError(f"device_rate is {self.device_rate}; use more than 0 frames per second")


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "the connection was refused: no server is running at this address"),
    (ConnectionResetError, "the connection was closed by the other side"),
    (BrokenPipeError, "the connection was closed by the other side"),
    (socket.gaierror, "the host name is unknown"),
    (FileNotFoundError, "there is no file or device of this name"),
    (PermissionError, "access is not permitted"),
    (av.HTTPUnauthorizedError, "the user name or password is wrong"),
    (av.HTTPForbiddenError, "access is not permitted"),
    (av.HTTPNotFoundError, "the server has no stream of this name"),
    (av.InvalidDataError, "the received data is not video that FFmpeg can read"),
    (av.ProtocolNotFoundError, "this build of FFmpeg lacks the protocol"),
)


def label_of(address: str) -> str:
    """Return an address for display, without everything up to its last @ and from its first ? or #.

    A password may contain any character, even unescaped special characters, so it is safer to remove too much.
    """
    scheme, separator, rest = address.partition("://")
    shown = rest.rpartition("@")[2]
    for mark in "?#":
        shown = shown.partition(mark)[0]
    return f"{scheme}{separator}{shown}" if separator else address


def with_credentials(address: str, credentials: str) -> str:
    """Add a user name and password that are stored elsewhere, as command-line arguments are visible to every user.

    Args:
        address: `scheme://host…`; if it already contains a user name, only the password is added.
        credentials: `user:password`, or only the password; special characters unescaped.

    Returns:
        The address with escaped credentials.

    Raises:
        ConfigError: The address is not a URL or already has a password, or there is no user name.
    """
    match = re.fullmatch(r"(\w+://)(?:([^/?#@]*)@)?(.*)", address, re.DOTALL)
    if match is None:
        raise ConfigError(f"{label_of(address)} does not accept credentials: use an address such as rtsp://host/path")
    scheme, user, rest = match.groups()
    if user is not None and ":" in user:
        raise ConfigError(f"{label_of(address)} already has a password; remove it from the address")
    name, separator, password = credentials.partition(":") if user is None else (user, ":", credentials)
    if not separator or not name:
        raise ConfigError("the credentials have no user name; write user:password, or add the user to the address")
    user_text = quote(name, safe="") if user is None else name
    return f"{scheme}{user_text}:{quote(password, safe='')}@{rest}"


def reason_of(error: BaseException) -> str:
    """Explain in one line why a connection failed, without FFmpeg's messages, which may contain the address."""
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, av.FFmpegError | OSError) and error.strerror:
        return error.strerror  # the system's text for the error number, never an address
    return "the connection failed"
