"""Segments: the files of a recording, written so that they are playable however the program ends.

Matroska in clusters of at most half a second, each written as soon as it is complete. If the program is killed, the
current cluster is lost; players can read the rest without the index that is added at the end.
"""

import os
from io import FileIO
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av

from polypstream.files import recording_error

if TYPE_CHECKING:
    from av.container import OutputContainer

SUFFIX = ".mkv"
_OPTIONS = {"cluster_time_limit": "500", "flush_packets": "1"}
_SYNC_S = 1.0
"""Interval between syncs in seconds: about this much more is lost in a power failure than if the program is killed."""


class SegmentNames:
    """Generates the names of a recording's files, `feed.mkv`, `feed-2.mkv` and so on, skipping existing ones."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(SUFFIX)
        self._number = 0
        self.used: list[Path] = []
        """In order."""

    @property
    def first(self) -> Path:
        """The name given by the user."""
        return self._path

    def take(self) -> Path:
        """Return the next unused name."""
        while True:
            self._number += 1
            suffix = "" if self._number == 1 else f"-{self._number}"
            path = self._path.with_name(f"{self._path.stem}{suffix}{SUFFIX}")
            if not path.exists():
                self.used.append(path)
                return path


class Segment:
    """A Matroska file that is created with the first packet; only `mux` accesses the disk. Use as a context manager.

    First add the streams to `container`, in any thread; then call `mux` from a single thread.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, names: SegmentNames) -> None:
        self._file = _File(names)
        self.container: OutputContainer = av.open(self._file, "w", format="matroska", container_options=_OPTIONS)

    @property
    def path(self) -> Path:
        """Name of the file, or of the recording while there is no file."""
        return self._file.path

    def mux(self, packet: "av.Packet[Any]") -> None:
        """Write one packet."""
        try:
            self.container.mux_one(packet)
            self._file.sync()
        except (OSError, av.FFmpegError, ValueError) as error:
            raise self._failed(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the index and close the file. After a failure, the file is left unchanged."""
        try:
            self.container.close()
        except (OSError, av.FFmpegError, ValueError) as failure:
            if error is None:
                raise self._failed(failure) from failure
        finally:
            self._file.close()

    def _failed(self, error: Exception) -> Exception:
        self._file.closed = True
        return recording_error(self._file.path, self._file.error or error)


class _File:
    """File object for the muxer. The file is created with the first byte, and writes are unbuffered."""

    def __init__(self, names: SegmentNames) -> None:
        self._names, self.path = names, names.first
        self._file: FileIO | None = None
        self._synced_at = monotonic()
        self.error: OSError | None = None
        self.closed = False
        """PyAV also checks this, and then does not write an index."""

    def write(self, data: bytes) -> int:
        if self.closed:
            return len(data)
        try:
            left = memoryview(data)
            while left:
                left = left[self._opened().write(left) :]
        except OSError as error:
            self.error, self.closed = error, True
            raise
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._opened().seek(offset, whence)

    def tell(self) -> int:
        return self._opened().tell()

    def sync(self) -> None:
        """Sync the file to disk at intervals."""
        if self._file is not None and monotonic() - self._synced_at >= _SYNC_S:
            os.fdatasync(self._file.fileno())
            self._synced_at = monotonic()

    def close(self) -> None:
        self.closed = True
        if self._file is not None:
            self._file.close()

    def _opened(self) -> FileIO:
        if self._file is None:
            self.path = self._names.take()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = FileIO(self.path, "xb")
        return self._file
