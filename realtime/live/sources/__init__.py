"""Live sources: an address becomes a feed of frames that survives whatever happens to its line."""

from polypstream.realtime.live.sources.address import source_from_address
from polypstream.realtime.live.sources.config import AtEnd, Framing, RtspTransport, SourceConfig
from polypstream.realtime.live.sources.decoder import Integrity, integrity_of
from polypstream.realtime.live.sources.line import LineSource

__all__ = [
    "AtEnd",
    "Framing",
    "Integrity",
    "LineSource",
    "RtspTransport",
    "SourceConfig",
    "integrity_of",
    "source_from_address",
]
