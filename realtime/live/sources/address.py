"""Addresses as users write them, and the source that each stands for."""

import re
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from polypstream.errors import ConfigError
from polypstream.realtime.live.feed import FrameSource
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import Feed
from polypstream.realtime.live.sources.device import device_feed
from polypstream.realtime.live.sources.file import file_feed
from polypstream.realtime.live.sources.line import LineSource
from polypstream.realtime.live.sources.network import network_feed
from polypstream.realtime.live.sources.secrets import label_of
from polypstream.realtime.live.sources.sockets import socket_feed

_DEVICE_PREFIX = "v4l2:"
_DEVICE = re.compile(r"/dev/(video\d+|v4l/.+)")
_FEEDS = {
    "udp": socket_feed,
    "tcp": socket_feed,
    "rtsp": network_feed,
    "rtsps": network_feed,
    "http": network_feed,
    "https": network_feed,
    "srt": network_feed,
}
_KNOWN = f"/dev/video0, v4l2:DEVICE, {', '.join(f'{scheme}://' for scheme in _FEEDS)} or a video file"


def source_from_address(text: str, config: SourceConfig | None = None) -> FrameSource:
    """The live source that an address stands for; nothing is connected before it is iterated.

    `/dev/video0` and `v4l2:DEVICE` are capture devices; `udp://@:port` listens, `tcp://host:port` connects; `rtsp://`,
    `http(s)://` and `srt://` are left to FFmpeg; anything else is a video file, played in real time. Raises
    `ConfigError` for an address of another kind and `SourceError` for a file that is not there or holds no video: a
    network or a device that is not there is waited for.
    """
    config = config or SourceConfig()
    label = label_of(text)
    return LineSource(_feed(text, label, config), label=label, config=config)


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
        raise ConfigError(f"{label} begins with {scheme}://, which is no source; give {_KNOWN}")
    return _FEEDS[scheme.lower()](_split(text, label), config)


def _split(text: str, label: str) -> SplitResult:
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:  # whose text may hold a part of the password
        raise ConfigError(
            f"{label} is no address: its port is no number from 0 to 65535, or its host is in wrong brackets; "
            "a / ? # or @ in a password must be written as %2F %3F %23 or %40"
        ) from None
    return url
