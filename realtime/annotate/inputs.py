"""Finds the videos of a batch: files, folders, glob patterns and lists of names."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from polypstream.realtime.annotate.storage import find, url_of
from polypstream.realtime.video.dicom import SUFFIXES as DICOM_SUFFIXES
from polypstream.realtime.video.dicom import is_dicom

VIDEO_SUFFIXES = frozenset(
    {
        *(".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mkv"),
        *(".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
        *DICOM_SUFFIXES,
    }
)
"""File name extensions by which videos are recognized in folders, in lower case; DICOM objects need none."""
_WRITTEN = ("_overlay", "_soft", "_proxy", "_polyps", ".partial")
"""Endings of the names of files written by annotation, without their extension."""


@dataclass(frozen=True, kw_only=True)
class InputVideo:
    """A video of a batch."""

    path: Path
    subfolder: Path = Path()
    """Subfolder of the output folder for its results; subfolders of an input folder are repeated there."""


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """A folder or pattern without a video."""

    name: str
    error: str


def find_videos(names: Iterable[str | Path], *, output: Path) -> tuple[list[InputVideo], list[Unmatched]]:
    """Find the videos of a batch.

    Args:
        names: Files, folders (searched recursively for `VIDEO_SUFFIXES`), glob patterns (`**` for any folders), and
            addresses of these on other storage, such as `s3://bucket/folder`.
            Any other name counts as a file; if it is missing, opening it reports that.
        output: Folder of the results; excluded from the search.

    Returns:
        The videos in the order of the names, by path within a folder, each once; and the names without a video.
    """
    videos: dict[str, InputVideo] = {}
    unmatched = []
    for name in names:
        found = list(_videos_of(name, output))
        for video in found:
            videos.setdefault(os.path.realpath(video.path), video)
        if not found:
            what = "folder" if Path(name).is_dir() else "pattern"
            error = f"no video is in the {what} {name}; videos are recognized by extensions such as .mp4 and .mkv"
            unmatched.append(Unmatched(name=str(name), error=error))
    return list(videos.values()), unmatched


def names_in(text: str) -> list[str]:
    """Names in a list: one per line, or terminated by zero bytes as in `find -print0`. Empty lines are skipped."""
    names = text.split("\0") if "\0" in text else text.splitlines()
    return [name for name in names if name.strip()]


def _videos_of(name: str | Path, output: Path) -> Iterator[InputVideo]:
    path = Path(name)
    if (url := url_of(name)) is not None:
        for found, subfolder in find(url):
            if found == url or _has_video_name(Path(found)):
                yield InputVideo(path=Path(found), subfolder=subfolder)
    elif path.is_dir():
        for video in _walk(path, output):
            yield InputVideo(path=video, subfolder=video.parent.relative_to(path))
    elif not path.exists() and glob.has_magic(str(name)):
        root = _literal_part(path)
        for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - also handles absolute patterns
            video = Path(match)
            if _is_video(video) and not (_is_below(output, root) and _is_below(video, output)):
                yield InputVideo(path=video, subfolder=video.parent.relative_to(root))
    else:
        yield InputVideo(path=path)


def _walk(folder: Path, output: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not (name.startswith(".") or _is_same(Path(place, name), output))
        )
        yield from (path for name in sorted(files) if _is_video(path := Path(place, name)))


def _is_video(path: Path) -> bool:
    return path.is_file() and (_has_video_name(path) or _is_bare_dicom(path))


def _is_bare_dicom(path: Path) -> bool:
    """Whether a file is a DICOM object without an extension, as archives export them."""
    if path.suffix or path.name.startswith(".") or path.name == "DICOMDIR":
        return False
    try:
        return is_dicom(path)
    except OSError:
        return False


def _has_video_name(path: Path) -> bool:
    is_hidden_or_written = path.name.startswith(".") or path.stem.endswith(_WRITTEN)
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_hidden_or_written


def _literal_part(pattern: Path) -> Path:
    """The folders of a pattern up to the first wildcard."""
    parts = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return Path(*parts)


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _is_same(path: Path, other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)
