"""Saying in one line why a recording cannot go on."""

from collections.abc import Callable
from pathlib import Path

from polypstream.errors import SinkError
from polypstream.realtime.disk import reason_and_mend

OnStopped = Callable[[str], None]
"""Told once, from a recorder's thread, why it stopped before its time."""

_OTHERWISE = "check the folder and the disk"


def recording_error(path: Path, error: Exception) -> SinkError:
    """What stopped the writing of a file; what was written so far stays."""
    return SinkError(f"recording to {path} has stopped {reason_and_mend(error, otherwise=_OTHERWISE)}")


def unwritten(path: Path, error: Exception) -> str:
    """Why a file that is written when that is possible again is not written now."""
    return f"{path} is not written for now {reason_and_mend(error, otherwise=_OTHERWISE)}"


def saving_error(path: Path, error: Exception) -> SinkError:
    """Why one file could not be written."""
    return SinkError(f"{path} could not be saved {reason_and_mend(error, otherwise=_OTHERWISE)}")
