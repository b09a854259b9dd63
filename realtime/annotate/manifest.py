"""The manifest of an output folder: one JSON line per finished video, with its content hash and settings."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av

from polypstream.files import write_error
from polypstream.realtime.annotate.storage import fingerprint, open_remote, read_at, sizes_at, url_of, write_at
from polypstream.realtime.video.container import stated_length_s

MANIFEST_NAME = "annotate_manifest.jsonl"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A video whose results are complete."""

    records: str
    """Path of its records, relative to the output folder; identifies the video."""
    fingerprint: str
    settings: str
    outputs: Mapping[str, int | str]
    """What was written, by path relative to the output folder: of a file, its size in bytes; of a folder, a hash of the
    names and sizes of its files, without images that were added later."""
    frames: int
    frames_with_polyp: int
    tracks: int
    finished_at: str = ""
    """UTC, ISO 8601."""


class Manifest:
    """The finished videos of an output folder.

    Each line is appended atomically and synced to disk before the next video begins, also by several processes. An
    incomplete line of a killed process is ignored. On object storage the whole manifest is replaced, so only one batch
    at a time may write to a folder there.

    Args:
        folder: Output folder, or its address on other storage; it need not exist yet.

    Raises:
        OutputError: If an existing manifest cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / MANIFEST_NAME
        self._entries: dict[str, Finished] = {}
        url = url_of(self._path)
        try:
            lines = (self._path.read_bytes() if url is None else read_at(url)).splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            raise write_error(self._path, error) from error
        for line in lines:
            try:
                entry = Finished(**json.loads(line))
            except (ValueError, TypeError):
                continue
            self._entries[entry.records] = entry

    def finished(self, records: Path, *, fingerprint: str, settings: str) -> Finished | None:
        """The entry of a video if its content, the settings and all results are unchanged.

        Args:
            records: Path of its records.
            fingerprint: See `fingerprint_of`.
            settings: See `settings_of`.
        """
        entry = self._entries.get(self._name(records))
        if entry is None or (entry.fingerprint, entry.settings) != (fingerprint, settings):
            return None
        return entry if all(self._state(name) == state for name, state in entry.outputs.items()) else None

    def add(
        self,
        records: Path,
        *,
        fingerprint: str,
        settings: str,
        outputs: Sequence[Path],
        frames: int,
        frames_with_polyp: int,
        tracks: int,
    ) -> None:
        """Add a finished video.

        Raises:
            OutputError: If the manifest cannot be written.
        """
        entry = Finished(
            records=self._name(records),
            fingerprint=fingerprint,
            settings=settings,
            outputs={name: state for name in map(self._name, outputs) if (state := self._state(name)) is not None},
            frames=frames,
            frames_with_polyp=frames_with_polyp,
            tracks=tracks,
            finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        line = _line(entry)
        self._entries[entry.records] = entry
        if (url := url_of(self._path)) is not None:  # object storage cannot append
            write_at(url, b"".join(map(_line, self._entries.values())))
            return
        try:
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    line = line if file.read(1) == b"\n" else b"\n" + line
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self._path, error) from error

    def _state(self, name: str) -> int | str | None:
        """Size of a file, or a hash of the contents of a folder; None if there is neither."""
        path = self._folder / name
        if (url := url_of(path)) is not None:
            sizes = sizes_at(url)
        else:
            try:
                sizes = _sizes_in(path)
            except OSError:
                return None
        if set(sizes) <= {""}:
            return sizes.get("")
        listed = sorted((file, size) for file, size in sizes.items() if _is_written(file))
        return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:32]

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


def _sizes_in(path: Path) -> dict[str, int]:
    """Sizes of all files in a folder by relative path; of a file, its own under the empty name. Raises `OSError`."""
    if not path.is_dir():
        return {"": path.stat().st_size}
    return {file.relative_to(path).as_posix(): file.stat().st_size for file in path.rglob("*") if file.is_file()}


def _is_written(file: str) -> bool:
    """Whether a file in a folder comes from annotation, not an added frame or the cache of a training program."""
    return not file.startswith("images/") and not file.endswith(".cache")


def fingerprint_of(video: Path) -> str:
    """Identify a file by its size and the hash of its first, middle and last MiB, without reading all of it.

    Raises:
        OSError: If the file cannot be read.
    """
    if (url := url_of(video)) is not None:
        return fingerprint(url)
    size = video.stat().st_size
    digest = hashlib.sha256()
    with video.open("rb") as file:
        for start in sorted({0, max(size - _BLOCK_BYTES, 0) // 2, max(size - _BLOCK_BYTES, 0)}):
            file.seek(start)
            digest.update(file.read(_BLOCK_BYTES))
    return f"{size}-{digest.hexdigest()[:32]}"


def settings_of(model: str, config: Any) -> str:  # noqa: ANN401 - any dataclass
    """Hash of the model and all options, on which the results depend besides the content."""
    text = json.dumps({"model": model, "config": asdict(config)}, sort_keys=True, default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stated_duration_s(video: Path) -> float | None:
    """Duration stated by the container, without decoding; None if it states none or cannot be opened."""
    url = url_of(video)
    try:
        if url is None:
            return stated_length_s(video)
        with open_remote(url) as file, av.open(file, "r", metadata_errors="surrogateescape") as container:
            return container.duration / av.time_base if container.duration else None
    except Exception:  # noqa: BLE001 - reported when the video is opened
        return None


def _line(entry: Finished) -> bytes:
    return json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n"
