"""Carrying streams from one container to another packet by packet: which container holds which, and how."""

import io
from collections.abc import Iterable
from contextlib import suppress
from math import lcm
from typing import TYPE_CHECKING

import av
from av.codec.codec import Codec
from av.stream import Disposition, Stream

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
    codec = stream.codec_context.name if stream.codec_context is not None else stream.name
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
