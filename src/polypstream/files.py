"""Atomic files, unfinished files that are usable at any time, locks, and messages for disk errors."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex

from platformdirs import user_cache_path

from polypstream.errors import OutputError, PolypstreamError

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows
    flock = None  # type: ignore[assignment]

NAME_BYTES = 255
"""Longest file name on nearly every file system."""

_FIXES = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file is larger than the system allows: raise the limit (ulimit -f) or use a lower quality",
    errno.EACCES: "the folder may not be written: choose another one",
    errno.EPERM: "the folder may not be written: choose another one",
    errno.ENOENT: "the folder no longer exists: create it again, or choose another one",
    errno.EEXIST: "there is a file where the folder should be: choose another folder",
    errno.ENOTDIR: "there is a file where the folder should be: choose another folder",
    errno.EISDIR: "there is a folder of this name: choose another name, or move the folder",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.ENAMETOOLONG: f"the file name is too long: file systems allow {NAME_BYTES} bytes; choose a shorter one",
    errno.EIO: "the disk reports a fault: choose another disk",
    errno.EILSEQ: "the file system does not allow this name: choose another one",
    errno.ELOOP: "symbolic links lead in a circle: choose another folder",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n)",
    errno.EWOULDBLOCK: "another polypstream is writing it: wait for it, or choose another folder",
}


def reason_and_fix(error: Exception, *, otherwise: str) -> str:
    """The reason of a write error, in parentheses, and its fix; `otherwise` is used for unknown errors."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"({reason}); {_FIXES.get(getattr(error, 'errno', None) or 0, otherwise)}"


_OTHERWISE = "check the folder and the disk"


def write_error(path: Path, error: Exception, *, otherwise: str = _OTHERWISE) -> OutputError:
    """Create the error for a file that cannot be written.

    Args:
        path: The file as named by the user.
        error: The error of the system.
        otherwise: The fix for unknown errors.
    """
    return OutputError(f"{path} cannot be written {reason_and_fix(error, otherwise=otherwise)}")


OnStopped = Callable[[str], None]
"""Called once, from a recorder's thread, with the reason for stopping early."""


def recording_error(path: Path, error: Exception) -> OutputError:
    """Message for a recording that stopped on an error; the part written so far is kept."""
    return OutputError(f"recording to {path} has stopped {reason_and_fix(error, otherwise=_OTHERWISE)}")


def unwritten(path: Path, error: Exception) -> str:
    """Message for a file whose writing is suspended until it is possible again."""
    return f"{path} is not written for now {reason_and_fix(error, otherwise=_OTHERWISE)}"


def saving_error(path: Path, error: Exception) -> OutputError:
    """Message for a file that could not be saved."""
    return OutputError(f"{path} could not be saved {reason_and_fix(error, otherwise=_OTHERWISE)}")


@contextmanager
def atomic_path(path: Path, *, otherwise: str = _OTHERWISE) -> Iterator[Path]:
    """A temporary file next to `path` that replaces it at the end of the block, or is deleted on an error.

    The folder is created if necessary. At the start of the block, the temporary file exists and is empty; it has a
    unique hidden name with the suffix of `path`, and is synced to disk before it is renamed.

    Args:
        path: The file to create or replace.
        otherwise: The fix for unknown errors.

    Yields:
        Path of the temporary file.

    Raises:
        OutputError: If the file cannot be written, or the block raises `OSError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = _new_hidden_file(path)
    except OSError as error:
        raise write_error(path, error, otherwise=otherwise) from error
    try:
        yield unfinished
        with unfinished.open("rb+") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except PolypstreamError:
        raise
    except OSError as error:
        raise write_error(path, error, otherwise=otherwise) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str, *, otherwise: str = _OTHERWISE) -> None:
    """Write a file atomically; text is written as UTF-8.

    Raises:
        OutputError: If the file cannot be written.
    """
    with atomic_path(path, otherwise=otherwise) as unfinished:
        unfinished.write_bytes(data.encode() if isinstance(data, str) else data)


def check_writable(folder: Path) -> None:
    """Create a folder if necessary, and make sure that files can be written in it.

    Raises:
        OutputError: If the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _new_hidden_file(folder / "polypstream").unlink()
    except OSError as error:
        raise write_error(folder, error) from error


@contextmanager
def locked(path: Path, *, otherwise: PolypstreamError | None = None) -> Iterator[None]:
    """Exclude other processes and threads that use the same lock file from the block.

    If the folder cannot be written, or the file system does not support locks, the block runs without one.

    Args:
        path: The lock file; created if necessary, and never removed.
        otherwise: Error to raise if another process or thread has the lock; without one, wait for it.

    Raises:
        PolypstreamError: `otherwise`.
    """
    from filelock import FileLock, Timeout  # takes as long as the rest of this module and its imports together

    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if otherwise is None else 0)
    except Timeout:
        assert otherwise is not None
        raise otherwise from None
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def cache_folder() -> Path:
    """Folder for files that can be recreated: `polypstream` in the user's cache folder, `~/.cache` on Linux."""
    return user_cache_path("polypstream", appauthor=False)


def partial_path(path: Path) -> Path:
    """Name of an output file while it is unfinished: `clip_overlay.partial.mp4` for `clip_overlay.mp4`."""
    return path.with_name(f"{path.stem}.partial{path.suffix}")


class UnfinishedFile:
    """A file under a partial name that is readable at any time, even after a crash.

    It is a binary file for muxers, which write most bytes in order and then go back to complete a header. Bytes in
    order are written immediately. Changes of earlier bytes are deferred to `finish`, so that an unfinished file is
    never partially changed. After a failed write, the file is truncated to the last `checkpoint` and rejects further
    writes.

    An older file of that name is unchanged until the first byte is written. While this object exists, no other
    process can write the file.

    Args:
        path: The name of the finished file.

    Raises:
        OSError: If the file cannot be opened, or another process is writing it (`errno.EWOULDBLOCK`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.partial_path = partial_path(path)
        self.error: BaseException | None = None
        """Error of a failed write."""
        self.closed = False
        """Also read by PyAV, which then writes no trailer."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._is_new = not self.partial_path.exists()
        self._file = FileIO(self.partial_path, "r+", opener=_open_or_create)
        try:
            _lock_file(self._file)
        except OSError:
            self._file.close()
            raise
        self._is_started = False
        self._position = self._end = 0
        self._checkpoint: int | None = None
        self._changes: list[tuple[int, bytes]] = []

    @property
    def size(self) -> int:
        """Number of bytes written so far."""
        return self._end

    def write(self, data: bytes | memoryview) -> int:
        """Write at the current position."""
        if self.error is not None:
            raise OSError(errno.EIO, "an earlier write failed") from self.error
        view = memoryview(data).cast("B")
        count = len(view)
        earlier = min(max(self._end - self._position, 0), count)
        if earlier:
            self._changes.append((self._position, bytes(view[:earlier])))
        if earlier < count:
            self._append(view[earlier:], at=self._position + earlier)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the current position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """The current position."""
        return self._position

    def checkpoint(self) -> None:
        """Mark the data written so far as the part to keep if a later write fails."""
        if self.error is None:
            self._checkpoint = self._end

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a part to keep."""
        return self._checkpoint is not None

    def finish(self, *, rename: bool) -> None:
        """Apply deferred changes, and close. After `KeyboardInterrupt` it can be called again.

        Args:
            rename: Whether the file gets its final name, replacing an older file, or keeps the partial one.

        Raises:
            OSError: If that fails; the file is then closed, and keeps its partial name.
        """
        try:
            if self.error is not None:
                raise self.error
            if not self._is_started:
                self._append(memoryview(b""), at=0)
            while self._changes:
                offset, data = self._changes[0]
                self._file.seek(offset)
                _write_all(self._file, memoryview(data))
                del self._changes[0]
            if rename:
                self.partial_path.replace(self.path)
        except OSError:
            self.close()
            raise
        self.close()

    def close(self) -> None:
        """Close under the partial name, without deferred changes."""
        self.closed = True
        self._file.close()

    def discard(self) -> None:
        """Close, and remove the file; an older file that was not modified yet is kept."""
        self.close()
        if self._is_started or self._is_new:
            with suppress(OSError):
                self.partial_path.unlink(missing_ok=True)

    def _append(self, data: memoryview, *, at: int) -> None:
        try:
            if not self._is_started:
                self._is_started = True
                with suppress(OSError):  # a device
                    self._file.truncate(0)
            self._file.seek(at)
            _write_all(self._file, data)
        except BaseException as error:
            self.error, self.closed = error, True
            with suppress(OSError):
                self._file.truncate(self._checkpoint or 0)
            raise
        self._end = at + len(data)


def _open_or_create(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_CREAT, 0o666)


def _write_all(file: FileIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _lock_file(file: FileIO) -> None:
    """Lock the file; raises `OSError` (`errno.EWOULDBLOCK`) if another process holds the lock."""
    if flock is None:
        return
    try:
        flock(file.fileno(), LOCK_EX | LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        return


def _new_hidden_file(path: Path) -> Path:
    """Create an empty file with a unique name next to `path`, with its suffix."""
    stem = os.fsdecode(os.fsencode(path.stem)[:200])  # leaves room for the suffix
    hidden = path.with_name(f".{stem}-{token_hex(4)}{path.suffix}")
    os.close(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    return hidden
