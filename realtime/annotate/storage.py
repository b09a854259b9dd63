"""Videos and results on object storage and other file systems of fsspec, such as `s3://bucket/folder`.

An address is passed as a `Path`, which drops one of its slashes; `url_of` restores it.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from polypstream.errors import MissingExtraError, OutputError, PolypstreamError, SourceError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])")


def url_of(path: Path | str) -> str | None:
    """The address that a path stands for; None for a local file."""
    text = str(path)
    found = _ADDRESS.match(text)
    return f"{found[1]}://{text[found.end() :]}" if found and not Path(found[1] + ":").exists() else None


def find(url: str) -> list[tuple[str, Path]]:
    """Files at an address: a file, a folder with its subfolders, or a pattern.

    Returns:
        The address of each file, and its folder relative to the given one. Empty if there are none.

    Raises:
        SourceError: If the storage cannot be reached.
    """
    scheme = url.split("://", 1)[0]
    with _translated(SourceError, f"{url} cannot be listed"):
        system, place = _system(url)
        if any(sign in place for sign in "*?["):
            root = place[: re.search(r"[*?\[]", place).start()].rpartition("/")[0]  # type: ignore[union-attr]
            files = system.glob(place)
        elif system.isdir(place):
            root, files = place.rstrip("/"), system.find(place)
        else:
            return [(url, Path())]
    return [(f"{scheme}://{file}", Path(file[len(root) :].lstrip("/")).parent) for file in sorted(files)]


def fingerprint(url: str) -> str:
    """Identify a remote file by its size and metadata such as an ETag.

    Raises:
        OSError: If it cannot be found.
    """
    try:
        system, place = _system(url)
        return f"{system.info(place)['size']}-{system.ukey(place)}"
    except Exception as error:  # noqa: BLE001 - storage clients share no base class of exceptions
        raise OSError(str(error)) from None


def open_remote(url: str) -> Any:  # noqa: ANN401 - a seekable binary file
    """Open a remote file for random access. Raises the exceptions of the storage client."""
    system, place = _system(url)
    return system.open(place, "rb")


def sizes_at(url: str) -> dict[str, int]:
    """Sizes of all files in a remote folder by relative path; of a file, its own under the empty name; else nothing."""
    try:
        system, place = _system(url)
        about = system.info(place)
        if about["type"] == "file":
            return {"": int(about["size"])}
        found = system.find(place, detail=True)
        return {name[len(place) :].lstrip("/"): int(info["size"]) for name, info in found.items()}
    except Exception:  # noqa: BLE001 - as above; what cannot be inspected counts as missing and is written again
        return {}


def read_at(url: str) -> bytes:
    """Content of a remote file; empty if there is none."""
    with _translated(OutputError, f"{url} cannot be read"):
        system, place = _system(url)
        return bytes(system.cat_file(place)) if system.exists(place) else b""


def write_at(url: str, data: bytes) -> None:
    """Write a remote file atomically. Raises `OutputError`."""
    with _translated(OutputError, f"{url} cannot be written"):
        system, place = _system(url)
        system.pipe_file(place, data)


@contextmanager
def staged(video: Path, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Provide a video and an output folder locally; results are uploaded if the block succeeds.

    Args:
        video: File or address of the video.
        folder: Folder or address of the results.

    Yields:
        The local video, downloaded if necessary, and the folder to write to.

    Raises:
        SourceError: If the video cannot be downloaded.
        OutputError: If results cannot be uploaded.
    """
    source, target = url_of(video), url_of(folder)
    if source is None and target is None:
        yield video, folder
        return
    with tempfile.TemporaryDirectory(prefix="polypstream-") as place:
        local = video
        if source is not None:
            local = Path(place, "source", video.name)
            local.parent.mkdir()
            with _translated(SourceError, f"{source} cannot be downloaded"):
                system, path = _system(source)
                system.get_file(path, str(local))
        results = Path(place, "results") if target is not None else folder
        yield local, results
        if target is not None:
            _upload(results, target)


def _upload(folder: Path, url: str) -> None:
    with _translated(
        OutputError, f"results cannot be uploaded to {url}", fix="check the credentials and the free space"
    ):
        system, place = _system(url)
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            to = f"{place.rstrip('/')}/{path.relative_to(folder).as_posix()}"
            system.makedirs(to.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), to)


@contextmanager
def _translated(
    kind: type[PolypstreamError], failure: str, *, fix: str = "check the address and the credentials"
) -> Iterator[None]:
    """Raise exceptions of storage clients as `kind`, with what failed, the reason and the fix."""
    try:
        yield
    except PolypstreamError:
        raise
    except Exception as error:  # noqa: BLE001 - storage clients share no base class of exceptions
        raise kind(f"{failure} ({error}); {fix}") from None


def _system(url: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ModuleNotFoundError:
        raise MissingExtraError(f"{url.split('://', 1)[0]}://", "cluster") from None
    try:
        system, place = url_to_fs(url)
    except ImportError as error:
        raise SourceError(f"{url} cannot be reached ({error}); install the package it names") from None
    return system, str(place)
