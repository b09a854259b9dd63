"""Live sources: turns an address into a feed of frames that survives lost connections."""

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from polypstream.errors import ConfigError
from polypstream.realtime.live.sources.config import AtEnd, Framing, RtspTransport, SourceConfig, label_of
from polypstream.realtime.live.sources.connection import Feed
from polypstream.realtime.live.sources.decoder import Integrity, integrity_of
from polypstream.realtime.live.sources.device import device_feed
from polypstream.realtime.live.sources.ffmpeg import file_feed, network_feed, socket_feed
from polypstream.realtime.live.sources.source import FrameSource, LiveSource
from polypstream.realtime.live.sources.srt import srt_feed

__all__ = [
    "AtEnd",
    "Framing",
    "Integrity",
    "LiveSource",
    "RtspTransport",
    "SourceConfig",
    "integrity_of",
    "source_from_address",
]


_DEVICE_PREFIX = "v4l2:"
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)")
_FEEDS = {
    "udp": socket_feed,
    "tcp": socket_feed,
    "rtsp": network_feed,
    "rtsps": network_feed,
    "http": network_feed,
    "https": network_feed,
    "srt": srt_feed,
}
_KNOWN = f"/dev/video0, v4l2:DEVICE, {', '.join(f'{scheme}://' for scheme in _FEEDS)} or a video file"
_FILES = frozenset({"file", "sftp", "scp", "ssh", "smb", "nfs", "ftp"})
_RELAY = "ffmpeg -i ADDRESS -c copy -f mpegts 'udp://127.0.0.1:5000?pkt_size=1316', then open udp://@:5000"


def source_from_address(text: str, config: SourceConfig | None = None) -> FrameSource:
    """Create the live source for an address; the connection is opened when iteration starts.

    If a network source or a device does not respond, the source keeps trying.

    Args:
        text: `/dev/video0` or `v4l2:DEVICE`, a capture device; `udp://@:port`, which listens; `tcp://host:port`, which
            connects; `rtsp(s)://` or `http(s)://`, read by FFmpeg; `srt://`, read by GStreamer; or the path of a
            video file, played in real time.
        config: Options; those of other kinds of source are ignored.

    Returns:
        The source, to be used as a context manager.

    Raises:
        ConfigError: The address is invalid, or its kind is not supported on this machine.
        SourceError: The file does not exist or contains no video.
    """
    config = config or SourceConfig()
    label = label_of(text)
    return LiveSource(_feed(text, label, config), label=label, config=config)


def _feed(text: str, label: str, config: SourceConfig) -> Feed:
    if text.startswith(_DEVICE_PREFIX):
        return device_feed(text.removeprefix(_DEVICE_PREFIX), config)
    if _DEVICE.fullmatch(text):
        return device_feed(text, config)
    scheme, separator, _ = text.partition("://")
    if not separator:
        if not text:
            raise ConfigError(f"the source is empty; give {_KNOWN}")
        return file_feed(Path(text), config)
    if scheme.lower() not in _FEEDS:
        raise ConfigError(_unsupported(label, scheme.lower()))
    return _FEEDS[scheme.lower()](_split(text, label), config)


def _unsupported(label: str, scheme: str) -> str:
    """Suggest what to do about an address that is not supported."""
    if scheme in _FILES:
        return f"{label}: {scheme}:// is not supported; copy the file or mount its folder, and give the path"
    return f"{label}: {scheme}:// is not supported; relay it with: {_RELAY}; or give {_KNOWN}"


def _split(text: str, label: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:  # its message may contain part of the password
        raise ConfigError(
            f"{label} is not a valid address: the port must be a number from 0 to 65535 and the host without stray "
            "brackets; write a / ? # or @ in a password as %2F %3F %23 or %40"
        ) from None
    return url
