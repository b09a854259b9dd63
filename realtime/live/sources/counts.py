"""What a live source has done so far, in numbers."""

from dataclasses import dataclass


@dataclass(kw_only=True)
class LineCounts:
    """Written by the iterating thread, read by any."""

    connections: int = 0
    """Connections that stood."""
    delivered: int = 0
    """Frames handed out."""
    skipped: int = 0
    """Packets not decoded and frames not handed out since newer ones waited."""
    undecodable: int = 0
    """Packets that could not be decoded."""
    damaged: int = 0
    """Frames that are not what the camera sent; see `integrity_of`."""
