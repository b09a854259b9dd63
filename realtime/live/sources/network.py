"""Streams over protocols that FFmpeg speaks: RTSP, HTTP and SRT."""

from collections.abc import Mapping
from urllib.parse import SplitResult
from urllib.request import getproxies

from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import (
    MICROSECONDS,
    Connection,
    ContainerConnection,
    Feed,
    open_quietly,
)
from polypstream.realtime.live.sources.halt import Halt
from polypstream.realtime.live.sources.sockets import connected_tcp

_PORTS = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


def network_feed(url: SplitResult, config: SourceConfig) -> Feed:
    """A feed from an address as FFmpeg takes it.

    FFmpeg cannot be woken while it connects or waits for a packet. A server that does not answer at all is therefore
    found out first, by a connection that can; one that falls silent later holds the reading thread for as long as the
    watchdog waits anyway.
    """

    def open_stream(halt: Halt) -> Connection:
        if url.scheme in _PORTS and url.hostname and url.scheme not in getproxies():
            connected_tcp(url.hostname, url.port or _PORTS[url.scheme], halt, config.connect_s).close()
        options = _options(url.scheme, config)
        container = open_quietly(url.geturl(), options, timeout=(config.connect_s, config.watchdog_s))
        return ContainerConnection(container, halt)

    return open_stream


def _options(scheme: str, config: SourceConfig) -> Mapping[str, str]:
    # FFmpeg may look for what the stream holds for less than the time after which PyAV breaks the opening off
    analysis = {"analyzeduration": str(round(config.connect_s / 2 * MICROSECONDS))}
    if scheme in {"rtsp", "rtsps"}:
        return analysis | {
            "rtsp_transport": config.rtsp_transport.value,
            "timeout": str(round(config.connect_s * MICROSECONDS)),
        }
    return analysis
