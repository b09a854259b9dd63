"""Carrying streams from one container to another packet by packet: which container holds which, and how."""

import io
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.codec.codec import Codec
from av.stream import Disposition, Stream

from polypstream.errors import ConfigError
from polypstream.realtime.source import FileSource

if TYPE_CHECKING:
    from av.container import OutputContainer

MATROSKA = "matroska"
FALLBACKS = {MATROSKA: ".mkv", "mov": ".mov"}
"""Formats, and their suffixes, to turn to where the wanted one does not hold every stream."""

_MP4_FORMATS = frozenset({"mp4", "mov", "ipod", "3gp", "3g2"})
_MP4_TAGS = frozenset(
    {"title", "artist", "album_artist", "composer", "album", "date", "genre", "comment", "description", "synopsis"}
    | {"grouping", "copyright", "lyrics", "show", "episode_id", "network", "keywords", "track", "disc"}
    | {"creation_time", "location", "timecode"}
)
"""Container metadata that MP4 has a place for; all else needs QuickTime's free keys."""
_MADE_BY_MUXERS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})
_STATISTICS = frozenset({"DURATION", "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "vendor_id"})
_COVER_TYPES = {"mjpeg": "jpeg", "jpeg2000": "jp2"}
"""Image types whose MIME names differ from their codecs'."""
_MAX_TIMESCALE = 2**31 - 1


def describe(stream: Stream) -> str:
    """A stream in a few words for the user, such as "stream 2 (subtitle, subrip)"."""
    codec = (
        stream.codec_context.codec.canonical_name if stream.codec_context is not None else getattr(stream, "name", None)
    )
    return f"stream {stream.index} ({stream.type}{f', {codec}' if codec else ''})"


def add_copy(container: "OutputContainer", stream: Stream) -> Stream:
    """Add a stream that takes another one's packets, with its language, other metadata and disposition.

    Raises `ValueError` or `av.FFmpegError` where that cannot be.
    """
    copy = container.add_stream_from_template(stream, opaque=True)
    if stream.codec_context is not None:
        copy.time_base = stream.time_base
    copy_metadata(stream, copy)
    copy.disposition = stream.disposition
    if stream.type == "attachment":
        copy.metadata.setdefault("filename", f"attachment{stream.index}")
        copy.metadata.setdefault("mimetype", "application/octet-stream")
    return copy


def add_cover(container: "OutputContainer", stream: Stream, image: bytes) -> None:
    """Attach a cover picture to a Matroska file, which holds it as an attachment, not as a stream."""
    kind = _COVER_TYPES.get(stream.codec_context.name, stream.codec_context.name)
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    attached = container.add_attachment(name, f"image/{kind}", image)
    copy_metadata(stream, attached)


def copy_metadata(stream: Stream, copy: Stream) -> None:
    """Give a stream another one's metadata, less what muxers work out themselves."""
    if name := stream.metadata.get("name"):  # what MP4 calls the title of a stream, when read
        copy.metadata["title"] = name
    copy.metadata.update(
        {
            key: value
            for key, value in stream.metadata.items()
            if key.split("-")[0] not in _STATISTICS and not key.startswith("_STATISTICS") and key != "encoder"
        }
    )


def is_cover(stream: Stream) -> bool:
    """Whether a stream is a still picture attached to the file."""
    return stream.codec_context is not None and bool(stream.disposition & Disposition.attached_pic)


def can_hold(format_name: str, stream: Stream) -> bool:
    """Whether a container format takes a copy of a stream: tried out on a file in memory."""
    if format_name == MATROSKA and is_cover(stream):
        return True
    try:
        container = av.open(io.BytesIO(), "w", format=format_name, metadata_errors="surrogateescape")
        add_copy(container, stream)
        container.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    with suppress(ValueError, av.FFmpegError):  # some are not complete without a packet
        container.close()
    return True


def can_encode(format_name: str, encoder: Codec) -> bool:
    """Whether a container format takes an encoder's video."""
    return encoder.name in av.open(io.BytesIO(), "w", format=format_name).supported_codecs


def keeps_aspect(format_name: str, encoder: Codec) -> bool:
    """Whether the pixels' aspect ratio reaches players: through the container, or else within the coded video.

    PyAV cannot set the aspect ratio that Matroska's muxer writes.
    """
    return format_name in _MP4_FORMATS or encoder.canonical_name in {"h264", "hevc", "mpeg4", "mpeg2video"}


def container_options(format_name: str, streams: Iterable[Stream], metadata: Iterable[str]) -> dict[str, str]:
    """Options that have a container keep times exactly and all metadata."""
    if format_name not in _MP4_FORMATS:
        return {}
    # MP4 states a stream's first time in ticks of the whole movie: make them fine enough for every stream
    timescale = 1000
    for stream in streams:
        if stream.time_base is not None and stream.type in {"video", "audio"}:
            finer = lcm(timescale, stream.time_base.denominator)
            timescale = finer if finer <= _MAX_TIMESCALE else timescale
    options = {"movie_timescale": str(timescale)}
    if not _MP4_TAGS.issuperset({key.lower() for key in metadata} - _MADE_BY_MUXERS):
        options["movflags"] = "use_metadata_tags"
    return options


def container_metadata(metadata: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A container's metadata, less what every muxer writes for itself."""
    return {key: value for key, value in metadata if key.lower() not in _MADE_BY_MUXERS}


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """Which container a file becomes, and what of its source it cannot hold."""

    format_name: str
    path: Path
    left_out: frozenset[int]
    """Indices of the source's streams."""
    notices: tuple[str, ...]


def plan_container(path: Path, *, source: FileSource, encoder: Codec) -> ContainerPlan:
    """The container that `path` names, unless another one holds more of the source's streams.

    Raises `ConfigError` where `path` names none.
    """
    wanted = _format_of(path)
    others = [stream for stream in source.streams if stream.index != source.video.index]
    refused: dict[str, list[Stream]] = {}
    takes_video: dict[str, bool] = {}
    for name in dict.fromkeys((wanted, *FALLBACKS)):
        refused[name] = [stream for stream in others if not can_hold(name, stream)]
        takes_video[name] = can_encode(name, encoder)
        if takes_video[name] and not refused[name]:
            break
    chosen = min(refused, key=lambda name: (not takes_video[name], len(refused[name])))
    lost = refused[chosen]
    notices = [f"{describe(stream)} is left out: no container here can hold it" for stream in lost]
    if chosen != wanted:
        reasons = [describe(stream) for stream in refused[wanted] if stream not in lost]
        reasons += [] if takes_video[wanted] else [f"{encoder.canonical_name.upper()} video"]
        path = path.with_suffix(FALLBACKS[chosen])
        notices.append(f"written as {path.name}: {wanted.upper()} cannot hold {' and '.join(reasons)}")
    left_out = frozenset(stream.index for stream in lost)
    return ContainerPlan(format_name=chosen, path=path, left_out=left_out, notices=tuple(notices))


def _format_of(path: Path) -> str:
    try:
        return av.open(f"file:{path}", "w").format.name
    except ValueError:
        raise ConfigError(f"{path.name!r} names no video container; end it in .mp4, .mkv or .mov") from None
