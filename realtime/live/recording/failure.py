"""Saying in one line why a recording cannot go on."""

import errno
from collections.abc import Callable
from pathlib import Path

from polypstream.errors import SinkError

OnStopped = Callable[[str], None]
"""Told once, from a recorder's thread, why it stopped before its time."""

_MENDS = {
    errno.ENOSPC: "the disk is full: free some space, or record to another folder",
    errno.EDQUOT: "your disk quota is used up: free some space, or record to another folder",
    errno.EFBIG: "the file grows larger than the system allows: raise the limit (ulimit -f)",
    errno.EACCES: "the folder may not be written: choose another one",
    errno.EPERM: "the folder may not be written: choose another one",
    errno.EEXIST: "there is a file where the folder should be: choose another folder",
    errno.ENOTDIR: "there is a file where the folder should be: choose another folder",
    errno.EROFS: "the file system is read-only: choose another folder",
}


def recording_error(path: Path, error: Exception) -> SinkError:
    """What stopped the writing of a file; what was written so far stays."""
    return SinkError(f"recording to {path} has stopped {_reason(error)}")


def saving_error(path: Path, error: Exception) -> SinkError:
    """Why one file could not be written."""
    return SinkError(f"{path} could not be saved {_reason(error)}")


def _reason(error: Exception) -> str:
    """In brackets, and how to mend it."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"({reason}); {_MENDS.get(getattr(error, 'errno', None) or 0, 'check the folder and the disk')}"
