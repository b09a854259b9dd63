"""Stream copying: which container supports which streams, and how packets are copied between containers."""

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import lcm
from pathlib import Path
from typing import TYPE_CHECKING

import av
from av.audio.stream import AudioStream
from av.codec.codec import Codec, UnknownCodecError
from av.stream import Disposition, Stream

from polypstream.errors import ConfigError
from polypstream.realtime.video.reader import VideoReader

if TYPE_CHECKING:
    from av.container import OutputContainer

MATROSKA = "matroska"
FALLBACKS = {MATROSKA: ".mkv", "mov": ".mov"}
"""Container formats, with suffixes, to use instead if the requested one does not support every stream."""

_MP4_FORMATS = frozenset({"mp4", "mov", "ipod", "3gp", "3g2"})
_MATROSKA_FORMATS = frozenset({MATROSKA, "webm"})
_PIECE_MS = 500
"""Length of the fragments in which MP4 and Matroska files reach the disk; a killed program loses about one."""
_INTERLEAVING_S = 1
"""How far packets of one stream may be ahead of those of another."""
_NEED_PACKETS = frozenset({"ac3", "eac3"})
"""Codecs that MP4 can only describe after seeing a packet."""
_MP4_TAGS = frozenset(
    {"title", "artist", "album_artist", "composer", "album", "date", "genre", "comment", "description", "synopsis"}
    | {"grouping", "copyright", "lyrics", "show", "episode_id", "network", "keywords", "track", "disc"}
    | {"creation_time", "location", "timecode"}
)
"""Metadata that MP4 has standard fields for; everything else requires QuickTime's free keys."""
_MADE_BY_MUXERS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder"})
_STATISTICS = frozenset({"DURATION", "BPS", "NUMBER_OF_FRAMES", "NUMBER_OF_BYTES", "vendor_id"})
_COVER_TYPES = {"mjpeg": "jpeg", "jpeg2000": "jp2"}
"""Image types whose MIME names differ from their codec names."""
_USUAL_LAYOUTS = {
    1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1", 16: "hexadecagonal",
}  # fmt: skip
_SUGGESTED = "h264, hevc, av1, vp9 or ffv1"
_MAX_TIMESCALE = 2**31 - 1


def describe(stream: Stream) -> str:
    """Describe a stream briefly for the user, as in "stream 2 (subtitle, subrip)"."""
    codec = (
        stream.codec_context.codec.canonical_name if stream.codec_context is not None else getattr(stream, "name", None)
    )
    return f"stream {stream.index} ({stream.type}{f', {codec}' if codec else ''})"


def add_copy(container: "OutputContainer", stream: Stream) -> Stream:
    """Add a stream for another stream's packets, with its language, other metadata and disposition.

    Args:
        container: The output.
        stream: The stream of the source.

    Returns:
        The added stream.

    Raises:
        ValueError: The container does not support the stream.
        av.FFmpegError: The container does not support the stream.
    """
    copy = container.add_stream_from_template(stream, opaque=True)
    if stream.codec_context is not None:
        copy.time_base = stream.time_base
    if isinstance(copy, AudioStream):
        copy.codec_context.layout = named_layout(copy.codec_context.layout)
    copy_metadata(stream, copy)
    copy.disposition = stream.disposition
    if stream.type == "attachment":
        copy.metadata.setdefault("filename", f"attachment{stream.index}")
        copy.metadata.setdefault("mimetype", "application/octet-stream")
    return copy


def add_cover(container: "OutputContainer", stream: Stream, image: bytes) -> None:
    """Attach a cover image to a Matroska file, which stores it as an attachment instead of a stream."""
    kind = _COVER_TYPES.get(stream.codec_context.name, stream.codec_context.name)
    name = stream.metadata.get("filename", f"cover.{kind.replace('jpeg', 'jpg')}")
    attached = container.add_attachment(name, f"image/{kind}", image)
    copy_metadata(stream, attached)


def named_layout(layout: av.AudioLayout) -> av.AudioLayout:
    """Return the usual layout for a number of channels, for files that state only the number, such as AVI."""
    is_named = all(channel.name != "NONE" for channel in layout.channels) and "channels" not in layout.name
    name = _USUAL_LAYOUTS.get(layout.nb_channels)
    return layout if is_named or name is None else av.AudioLayout(name)


def is_timecode(stream: Stream) -> bool:
    """Whether a stream only contains the timecode of the first frame, which muxers write from the metadata."""
    return stream.type == "data" and stream.codec_context is None and "timecode" in stream.metadata


def copy_metadata(stream: Stream, copy: Stream) -> None:
    """Copy a stream's metadata, except what muxers compute themselves."""
    if name := stream.metadata.get("name"):  # MP4's name for the title of a stream when reading
        copy.metadata["title"] = name
    copy.metadata.update(
        {
            key: value
            for key, value in stream.metadata.items()
            if key.split("-")[0] not in _STATISTICS and not key.startswith("_STATISTICS") and key != "encoder"
        }
    )


def is_cover(stream: Stream) -> bool:
    """Whether a stream is a cover image attached to the file."""
    return stream.codec_context is not None and bool(stream.disposition & Disposition.attached_pic)


def can_hold(format_name: str, stream: Stream) -> bool:
    """Whether a container format supports a copy of a stream; tested with a file in memory."""
    if format_name == MATROSKA and is_cover(stream):
        return True
    # Write an MP4 file's stream descriptions first, so that a stream it cannot describe is rejected now
    is_described = format_name in _MP4_FORMATS and _codec_name(stream) not in _NEED_PACKETS
    options = {"movflags": "empty_moov"} if is_described else {}
    try:
        container = av.open(
            io.BytesIO(), "w", format=format_name, metadata_errors="surrogateescape", container_options=options
        )
        add_copy(container, stream)
        container.start_encoding()
    except (ValueError, av.FFmpegError):
        return False
    with suppress(ValueError, av.FFmpegError):  # some are incomplete without a packet
        container.close()
    return True


def can_convert(stream: Stream) -> bool:
    """Whether a stream is audio that this FFmpeg can decode, so that it can be stored as PCM in a Matroska file."""
    if not isinstance(stream, AudioStream) or stream.codec_context is None:
        return False
    try:
        Codec(stream.codec_context.codec.name, "r")
    except UnknownCodecError:
        return False
    return stream.codec_context.channels > 0 and stream.codec_context.sample_rate > 0


def can_encode(format_name: str, encoder: Codec) -> bool:
    """Whether a container format supports an encoder's video."""
    return encoder.name in av.open(io.BytesIO(), "w", format=format_name).supported_codecs


def keeps_aspect(format_name: str, encoder: Codec) -> bool:
    """Whether the pixel aspect ratio reaches players, through the container or the coded video.

    PyAV cannot set the aspect ratio that Matroska's muxer writes.
    """
    return format_name in _MP4_FORMATS or encoder.canonical_name in {"h264", "hevc", "mpeg4", "mpeg2video"}


def container_options(format_name: str, streams: Sequence[Stream], metadata: Iterable[str]) -> dict[str, str]:
    """Return options that preserve exact times and all metadata, and keep an unfinished file playable."""
    # A stream with a gap must not delay the others, whose packets are buffered in memory
    options = {"flush_packets": "1", "max_interleave_delta": str(_INTERLEAVING_S * av.time_base)}
    if format_name in _MATROSKA_FORMATS:
        options["cluster_time_limit"] = str(_PIECE_MS)
    if format_name not in _MP4_FORMATS:
        return options
    # MP4 stores a stream's start time in ticks of the movie time scale: make them fine enough for every stream
    timescale = 1000
    for stream in streams:
        if stream.time_base is not None and stream.type in {"video", "audio"}:
            finer = lcm(timescale, stream.time_base.denominator)
            timescale = finer if finer <= _MAX_TIMESCALE else timescale
    options["movie_timescale"] = str(timescale)
    # The file is fragmented while it is being written; closing it adds an index and makes it an ordinary file.
    # With delay_moov, nothing is written until every stream has started and all start times are known. If a stream
    # may start late or never, the unfinished file has approximate start times; the finished file has exact ones.
    is_delayed = _begin_together(streams) or not _NEED_PACKETS.isdisjoint(map(_codec_name, streams))
    flags = ["hybrid_fragmented", "delay_moov" if is_delayed else "empty_moov"]
    if not _MP4_TAGS.issuperset({key.lower() for key in metadata} - _MADE_BY_MUXERS):
        flags.append("use_metadata_tags")
    return options | {"movflags": "+".join(flags), "frag_duration": str(_PIECE_MS * 1000), "use_editlist": "1"}


def _begin_together(streams: Iterable[Stream]) -> bool:
    """Whether every stream has packets, and all start at nearly the same time."""
    begins_s = [
        None if stream.start_time is None or stream.time_base is None else stream.start_time * stream.time_base
        for stream in streams
        if not is_cover(stream)
    ]
    known = [begin for begin in begins_s if begin is not None]
    is_dense = all(stream.type in {"video", "audio"} for stream in streams)
    return is_dense and len(known) == len(begins_s) and max(known) - min(known) <= _INTERLEAVING_S


def _codec_name(stream: Stream) -> str:
    return "" if stream.codec_context is None else stream.codec_context.codec.canonical_name


def container_metadata(metadata: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return a container's metadata without the fields that every muxer writes itself."""
    return {key: value for key, value in metadata if key.lower() not in _MADE_BY_MUXERS}


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """The container format of the output, and the streams of the source that it does not support."""

    format_name: str
    path: Path
    left_out: frozenset[int]
    """Indices of source streams that are not written."""
    converted: frozenset[int]
    """Indices of streams whose audio is stored as PCM."""
    notices: tuple[str, ...]


def plan_container(path: Path, *, source: VideoReader, encoder: Codec) -> ContainerPlan:
    """Choose the container that `path` names, unless another one supports more of the source's streams.

    Args:
        path: The requested file; its suffix selects the container.
        source: The video whose streams are to be copied.
        encoder: The encoder of the video stream.

    Returns:
        Container, file name, and the streams that are dropped or converted.

    Raises:
        ConfigError: `path` does not name a container, or no container supports the encoder's video.
    """
    wanted = _format_of(path)
    others = [s for s in source.streams if s.index != source.video.index and not is_timecode(s)]
    refused: dict[str, list[Stream]] = {}
    lost: dict[str, list[Stream]] = {}
    takes_video: dict[str, bool] = {}
    for name in dict.fromkeys((wanted, *FALLBACKS)):
        refused[name] = [stream for stream in others if not can_hold(name, stream)]
        lost[name] = [stream for stream in refused[name] if name != MATROSKA or not can_convert(stream)]
        takes_video[name] = can_encode(name, encoder)
        if takes_video[name] and not refused[name]:
            break
    if not any(takes_video.values()):
        raise ConfigError(f"no container supports {encoder.name} video; use {_SUGGESTED}")
    chosen = min(refused, key=lambda name: (not takes_video[name], len(lost[name]), len(refused[name])))
    converted = [stream for stream in refused[chosen] if stream not in lost[chosen]]
    notices = [f"{describe(stream)} is dropped: no container supports it" for stream in lost[chosen]]
    notices += [f"{describe(stream)} is stored as PCM: no container supports its format" for stream in converted]
    if chosen != wanted:
        reasons = [describe(stream) for stream in refused[wanted] if stream not in lost[chosen]]
        reasons += [] if takes_video[wanted] else [f"{encoder.canonical_name.upper()} video"]
        path = path.with_suffix(FALLBACKS[chosen])
        notices.append(f"written as {path.name}: {wanted.upper()} does not support {' and '.join(reasons)}")
    return ContainerPlan(
        format_name=chosen,
        path=path,
        left_out=frozenset(s.index for s in source.streams if s in lost[chosen] or is_timecode(s)),
        converted=frozenset(stream.index for stream in converted),
        notices=tuple(notices),
    )


def _format_of(path: Path) -> str:
    try:
        return av.open(f"file:{path}", "w").format.name
    except ValueError:
        raise ConfigError(f"{path.name!r} is not a video file name; end it in .mp4, .mkv or .mov") from None
