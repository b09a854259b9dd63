"""Atomic files, and unfinished files that are usable at any time."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from polypstream.errors import OutputError, SourceError
from polypstream.files import UnfinishedFile, atomic_path, check_writable, locked, partial_path, write_atomically


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_atomic_file_appears_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.onnx"
    with atomic_path(target) as unfinished:
        assert unfinished.parent == target.parent
        assert unfinished.suffix == ".onnx"
        assert not target.exists()
        unfinished.write_bytes(b"whole")
    assert target.read_bytes() == b"whole"
    assert names_in(target.parent) == ["model.onnx"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("error", [ValueError("bug"), SourceError("unreadable"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_stays_the_one_raised(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def write() -> None:
        with atomic_path(target) as unfinished:
            unfinished.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        write()
    assert caught.value is error
    assert target.read_bytes() == b"old"
    assert names_in(tmp_path) == ["file"]


def test_a_very_long_name_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / f"{'大' * 83}.jsonl"  # 255 bytes
    write_atomically(target, "text: 大\n")
    assert target.read_text(encoding="utf-8") == "text: 大\n"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (f"{'n' * 300}.txt", "too long"),
        ("file/deeper.txt", "there is a file where the folder should be"),
        ("folder", "there is a folder of this name"),
    ],
)
def test_an_unwritable_file_is_reported_with_reason_and_fix(tmp_path: Path, target: str, says: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=says):
        write_atomically(tmp_path / target, b"data")
    assert names_in(tmp_path) == ["file", "folder"]


def test_an_unwritable_folder_is_reported_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert names_in(tmp_path / "a" / "b") == []
    with pytest.raises(OutputError, match="/proc"):
        check_writable(Path("/proc/nothing"))


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    inside = most = 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(tmp_path / "folder" / ".lock"):
                with counting:
                    inside += 1
                    most = max(most, inside)
                with counting:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_changes_of_earlier_bytes_wait_until_the_file_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    file = UnfinishedFile(target)
    file.write(b"head....")
    file.write(b"body")
    file.seek(4)
    file.write(b"size" + b"BODY" + b"tail")
    assert partial_path(target).read_bytes() == b"head....body" + b"tail"
    assert not target.exists()
    file.finish(rename=True)
    assert target.read_bytes() == b"headsizeBODYtail"
    assert names_in(tmp_path) == ["film.mp4"]


def test_an_older_unfinished_file_stays_until_something_is_written(tmp_path: Path) -> None:
    old = partial_path(tmp_path / "film.mp4")
    old.write_bytes(b"what was saved yesterday")
    UnfinishedFile(tmp_path / "film.mp4").discard()
    assert old.read_bytes() == b"what was saved yesterday"
    file = UnfinishedFile(tmp_path / "film.mp4")
    file.write(b"new")
    file.close()
    assert old.read_bytes() == b"new"


def test_only_one_process_writes_a_file(tmp_path: Path) -> None:
    file = UnfinishedFile(tmp_path / "film.mp4")
    with pytest.raises(BlockingIOError) as caught:
        UnfinishedFile(tmp_path / "film.mp4")
    assert caught.value.errno == errno.EWOULDBLOCK
    file.close()
    UnfinishedFile(tmp_path / "film.mp4").close()


LIMITED = """
import resource, sys
from pathlib import Path
from polypstream.files import UnfinishedFile
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
file = UnfinishedFile(Path(sys.argv[1]))
file.write(b"a" * 60)
file.checkpoint()
for _ in range(2):
    try:
        file.write(b"b" * 60)
    except OSError as error:
        print(error.errno)
file.close()
"""


def test_a_failed_write_cuts_the_file_to_what_was_complete(tmp_path: Path) -> None:
    target = tmp_path / "film.mp4"
    done = subprocess.run([sys.executable, "-c", LIMITED, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(errno.EFBIG), str(errno.EIO)]
    assert partial_path(target).read_bytes() == b"a" * 60
