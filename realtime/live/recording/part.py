"""One file of a recording: written such that whatever ends the program, the file plays up to its last moment.

Matroska in clusters of at most half a second, each handed to the system as soon as it is complete. A program that is
killed loses the cluster it was collecting; players read the rest without the index that a proper end would have added.
"""

import os
from io import FileIO
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av

from polypstream.realtime.live.recording.failure import recording_error

if TYPE_CHECKING:
    from av.container import OutputContainer

SUFFIX = ".mkv"
_OPTIONS = {"cluster_time_limit": "500", "flush_packets": "1"}
_SYNC_S = 1.0
"""A loss of power costs about this much more than a kill."""


class PartNames:
    """Names for the parts of a recording, `feed.mkv`, `feed-2.mkv` and so on; files that exist are passed over."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(SUFFIX)
        self._number = 0
        self.used: list[Path] = []
        """In order."""

    @property
    def first(self) -> Path:
        """The name that the user gave."""
        return self._path

    def take(self) -> Path:
        """The next free one."""
        while True:
            self._number += 1
            suffix = "" if self._number == 1 else f"-{self._number}"
            path = self._path.with_name(f"{self._path.stem}{suffix}{SUFFIX}")
            if not path.exists():
                self.used.append(path)
                return path


class Part:
    """A Matroska file that comes into being with the first packet. A context manager; only `mux` touches the disk.

    Add the streams to `container` first, in any thread; mux in one. Raises `SinkError`.
    """

    def __init__(self, names: PartNames) -> None:
        self._file = _File(names)
        self.container: OutputContainer = av.open(self._file, "w", format="matroska", container_options=_OPTIONS)

    @property
    def path(self) -> Path:
        """The file's name, or the recording's while there is no file."""
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
        """Write the index, and close. After a failure what is there is left as it is."""
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
    """What the muxer writes to. The file is made with the first byte, and nothing is held back."""

    def __init__(self, names: PartNames) -> None:
        self._names, self.path = names, names.first
        self._file: FileIO | None = None
        self._synced_at = monotonic()
        self.error: OSError | None = None
        self.closed = False
        """PyAV looks at this too, and then writes no index."""

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
        """Have the disk keep what was written, now and then."""
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
