"""Opening video files, and saying in one line why one cannot be opened."""

from pathlib import Path

import av
from av.container import InputContainer
from av.stream import Discard, Disposition, Stream
from av.video.stream import VideoStream

from polypstream.errors import SourceError

_WANTED = "MP4, MOV, MKV, AVI, MPG, TS or another format that FFmpeg reads"
_TEXT_FORMATS = frozenset({"tty", "bin", "xbin", "idf", "adf"})
"""FFmpeg would draw a text file as ANSI art."""


def open_video(path: Path) -> InputContainer:
    """Open a file for reading. Raises `SourceError`."""
    if path.is_dir():
        raise SourceError(f"{path} is a folder, not a video; name the video files inside it")
    try:
        if not path.stat().st_size:
            raise SourceError(f"{path} is empty (0 bytes); copy the recording again from where it came")
        # "file:" since a colon in a name would else be taken for a protocol; metadata may be in any encoding
        container = av.open(f"file:{path}", "r", metadata_errors="surrogateescape")
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}; check the path") from None
    except PermissionError:
        raise SourceError(f"{path} may not be read; check its permissions") from None
    except av.FFmpegError as error:
        raise SourceError(_unreadable(path, error)) from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}); check the path and the disk") from None
    if container.format.name in _TEXT_FORMATS:
        container.close()
        raise SourceError(f"{path} is a text file, not a video; give {_WANTED}")
    return container


def _unreadable(path: Path, error: av.FFmpegError) -> str:
    with path.open("rb") as file:
        head = file.read(12)
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free"}:
        return (
            f"{path} is an MP4 or MOV file without a usable index: its recording or its copying was cut off; "
            "copy it again, or repair it (the program untrunc can)"
        )
    return f"{path} is not a video ({error.strerror}); give {_WANTED}"


def main_video(container: InputContainer, path: Path) -> VideoStream:
    """The stream to decode: a film, not the cover picture of a sound file. Raises `SourceError` without one."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not videos:
        found = ", ".join(sorted({s.type for s in container.streams})) or "no"
        raise SourceError(f"{path} holds no video ({found} streams only); give a file with a video stream")
    if not (decodable := [stream for stream in videos if stream.codec_context is not None]):
        raise SourceError(f"the video in {path} has a codec that FFmpeg cannot decode; convert it to H.264 first")
    best = container.streams.best("video")
    return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])


def is_chapter_text(stream: Stream) -> bool:
    """Whether a stream only holds the titles of the chapters, which are carried as chapters."""
    return stream.type == "data" and stream.discard == Discard.all
