"""Names of the files that annotation writes, and checks for name conflicts."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

from polypstream.errors import ConfigError, OutputError
from polypstream.files import NAME_BYTES, partial_path
from polypstream.realtime.annotate.summary import summary_path

OVERLAY_SUFFIXES = (".mp4", ".mkv", ".mov")
"""Suffixes of an overlay: MP4, or another container if MP4 cannot contain all streams."""

_Identity = tuple[int, int] | str


def outputs_of(video: Path, folder: Path) -> tuple[Path, Path]:
    """Paths of the overlay and the records of a video; the suffix of the overlay may still change."""
    return folder / f"{video.stem}_overlay.mp4", folder / f"{video.stem}_polyps.jsonl"


def soft_overlay_path(video: Path, folder: Path) -> Path:
    """Path of the copy of a video with contours as a subtitle track."""
    return folder / f"{video.stem}_soft.mkv"


def proxy_path(video: Path, folder: Path) -> Path:
    """Path of the constant-rate copy of a video."""
    return folder / f"{video.stem}_proxy.mp4"


def report_path(video: Path, folder: Path) -> Path:
    """Path of the HTML report of a video."""
    return folder / f"{video.stem}_report.html"


def check_name(video: Path, folder: Path) -> None:
    """Check that the names of the results of a video are not too long.

    Raises:
        OutputError: If a name is longer than file systems allow.
    """
    longest = max((partial_path(path).name for path in outputs_of(video, folder)), key=_length)
    if _length(longest) > NAME_BYTES:
        raise OutputError(
            f"the name {_abbreviated(video.name)} is too long ({_length(video.name)} bytes) for its results, "
            f"such as {_abbreviated(longest)} ({_length(longest)} of at most {NAME_BYTES} bytes); rename the video"
        )


def check_batch(videos: Sequence[Path], folder: Path, *, inputs: Sequence[Path] | None = None) -> None:
    """Check, before anything is written, that no result overwrites a video or another result.

    Files rather than names are compared, so links and different paths to one file are recognized.

    Args:
        videos: All videos whose results go into one folder.
        folder: The output folder.
        inputs: All videos of the batch, which no result may overwrite; None for `videos`.

    Raises:
        ConfigError: If a result would overwrite a video of the batch or the result of another video.
    """
    by_stem: dict[str, Path] = {}
    for video in videos:
        stem = _folded(video.stem) if _ignores_case(folder) else video.stem
        other = by_stem.setdefault(stem, video)
        if other is not video:
            raise ConfigError(
                f"several videos are named {video.stem} ({other} and {video}); "
                "annotate them into different folders, or rename one"
            )
    known: dict[_Identity, Path] = {}
    for video in videos if inputs is None else inputs:
        known |= dict.fromkeys(_identities(video), video)
    for video in videos:
        for result in _all_outputs(video, folder):
            replaced = next((known[name] for name in _identities(result) if name in known), None)
            if replaced is not None:
                raise ConfigError(
                    f"the result of {video} may be written to {result}, which is {_relation(replaced, video)}; "
                    "choose another output folder"
                )


def _relation(replaced: Path, video: Path) -> str:
    return "the same file" if replaced is video else f"the file of another video to annotate, {replaced}"


def _all_outputs(video: Path, folder: Path) -> Iterator[Path]:
    overlay, records = outputs_of(video, folder)
    overlays = (overlay.with_suffix(suffix) for suffix in OVERLAY_SUFFIXES)
    copies = (*overlays, soft_overlay_path(video, folder), proxy_path(video, folder))
    for path in (*copies, report_path(video, folder), records, summary_path(records)):
        yield path
        yield partial_path(path)


def _identities(path: Path) -> Iterator[_Identity]:
    """Identities shared by all paths to the same file."""
    try:
        status = path.stat()
        yield status.st_dev, status.st_ino
    except (OSError, ValueError):  # the file does not exist yet
        pass
    try:
        yield os.path.realpath(path.parent) + os.sep + path.name
        yield os.path.realpath(path)
    except (OSError, ValueError):
        pass


def _ignores_case(folder: Path) -> bool:
    """Whether the file system is case-insensitive."""
    existing = next((each for each in (folder, *folder.absolute().parents) if each.is_dir()), Path.cwd()).resolve()
    swapped = existing.with_name(existing.name.swapcase())
    try:
        return swapped.name != existing.name and swapped.samefile(existing)
    except OSError:
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _length(name: str) -> int:
    return len(os.fsencode(name))


def _abbreviated(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:20]}…{name[-15:]}"
