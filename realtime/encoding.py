"""How pictures are encoded: codec and quality, and the pixel format that keeps the most of what was decoded."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import av
from av.codec.codec import Codec, UnknownCodecError
from av.codec.context import Flags, ThreadType
from av.video.stream import VideoStream

from polypstream.errors import ConfigError
from polypstream.realtime.video import VideoInfo

if TYPE_CHECKING:
    from av.container import OutputContainer

Options = dict[str, str]

LIMITED, FULL = 1, 2
"""FFmpeg's `AVColorRange`."""

PRESETS: Mapping[str, Options] = {
    "libx264": {
        "preset": "ultrafast",
        "x264-params": "cabac=1:8x8dct=1:bframes=2:b-adapt=0:partitions=i8x8:deblock=0,0",
    },
}
"""What encoders are told where no preset is named, if not the preset `superfast`.

For x264, `ultrafast` and those of its tools that cost little: at one quality and one size it takes 0.6 of the time of
`superfast`, and is a quarter smaller than `ultrafast` alone.
"""

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "h265": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
_EVEN_CHROMA = frozenset({"h264", "hevc"})
"""Codecs that cannot hold an odd size with subsampled chroma."""
_COMMON = {
    **{
        f"yuv{sampling}p{f'{bits}le' if bits > 8 else ''}": (shifts, bits)
        for sampling, shifts in {"420": (1, 1), "422": (1, 0), "444": (0, 0)}.items()
        for bits in (8, 10, 12, 14, 16)
    },
    **{f"gray{f'{bits}le' if bits > 8 else ''}": ((9, 9), bits) for bits in (8, 10, 12, 14, 16)},
}
"""Formats to convert to: how often chroma is halved across and down (9 where there is none), and bits."""
_PLANAR = re.compile(r"yuvj?4\d\dp(\d+le)?|gray(\d+le)?|nv12")
_PLANAR_OR_ALPHA = re.compile(rf"{_PLANAR.pattern}|yuva4\d\dp(\d+le)?")
_BT709, _BT601 = 1, 5
"""swscale's names for the colour matrices."""


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """How the video is encoded.

    Raises `ConfigError` where the codec is unknown or cannot do what is asked.
    """

    codec: str = "h264"
    """`h264`, `hevc`, `ffv1`, `av1`, `vp9`, or the name of any of FFmpeg's video encoders."""
    quality: int | Literal["lossless"] = 18
    """Constant rate factor, 0 (best) to 51; ignored by codecs that are lossless in any case."""
    preset: str | None = None
    """Speed against size, for encoders that have presets of that name; None for `PRESETS`' own."""

    def __post_init__(self) -> None:
        if self.quality != "lossless" and not 0 <= self.quality <= 51:
            raise ConfigError(f"the quality is {self.quality}; it must lie between 0 (best) and 51, or be 'lossless'")
        codec = self.encoder
        if self.quality == "lossless" and codec.name not in _LOSSLESS and (codec.lossy or not codec.lossless):
            wanted = ", ".join(sorted(_LOSSLESS))
            raise ConfigError(f"{codec.name} has no lossless mode known here; take one of {wanted} or ffv1")

    @property
    def encoder(self) -> Codec:
        """FFmpeg's encoder for the codec."""
        name = _ENCODERS.get(self.codec, self.codec)
        try:
            codec = Codec(name, "w")
        except UnknownCodecError:
            raise ConfigError(f"there is no encoder {name!r} in this FFmpeg; take h264, hevc or ffv1") from None
        if codec.type != "video":
            raise ConfigError(f"{name} encodes {codec.type}, not video; take h264, hevc or ffv1")
        return codec

    def options(self) -> Options:
        """The encoder's own options for the quality and preset."""
        codec = self.encoder
        private = {option.name: option for option in av.CodecContext.create(codec).supported_options.private}
        options: Options = {}
        if codec.name == "ffv1":
            return {"level": "3", "slicecrc": "1"}
        if "preset" in private:
            choices = {choice.name for choice in private["preset"].choices}
            wanted = (
                PRESETS.get(codec.name, {"preset": "superfast"}) if self.preset is None else {"preset": self.preset}
            )
            options |= wanted if not choices or wanted["preset"] in choices else {}
        if self.quality == "lossless":
            options |= _LOSSLESS.get(codec.name, {})
        elif "crf" in private:
            options["crf"] = str(self.quality)
        elif "cq" in private:
            options |= {"rc": "vbr", "cq": str(self.quality)}
        elif "qp" in private:
            options["qp"] = str(self.quality)
        if codec.name == "libx265":  # x265 writes to stderr by itself
            lossless = ":lossless=1" if self.quality == "lossless" else ""
            options["x265-params"] = f"log-level=none{lossless}"
        return options


_LOSSLESS: dict[str, Options] = {
    "libx264": {"qp": "0"},
    "libx265": {},  # through x265-params
    "h264_nvenc": {"tune": "lossless"},
    "hevc_nvenc": {"tune": "lossless"},
    "libvpx-vp9": {"lossless": "1"},
}


def working_format(source_format: str, encoder: Codec, width: int, height: int) -> str:
    """The pixel format in which pictures are drawn upon and encoded: the decoded one wherever the encoder takes it.

    Otherwise the planar YUV or grey format nearest to it that the encoder takes: first as much chroma resolution, then
    as many bits, then no more than needed of either. Raises `ConfigError` where the encoder takes none.
    """
    offered = {pixel_format.name for pixel_format in encoder.video_formats or ()}
    planar = _PLANAR_OR_ALPHA if encoder.name == "ffv1" else _PLANAR
    if source_format in offered and planar.fullmatch(source_format) and _fits(source_format, encoder, width, height):
        return source_format
    source = av.VideoFormat(source_format)
    across, down = _chroma_shifts(source)
    bits = max(component.bits for component in source.components)
    candidates = [name for name in _COMMON if name in offered and _fits(name, encoder, width, height)]
    if not candidates:
        raise ConfigError(f"{encoder.name} takes no planar YUV pictures of {width}x{height}; take h264, hevc or ffv1")

    def cost(name: str) -> tuple[int, ...]:
        (to_across, to_down), to_bits = _COMMON[name]
        lost_chroma = max(to_across - across, 0) + max(to_down - down, 0)
        gained_chroma = max(across - to_across, 0) + max(down - to_down, 0)
        return lost_chroma, max(bits - to_bits, 0), gained_chroma, max(to_bits - bits, 0)

    return min(candidates, key=cost)


def format_notice(source_format: str, target_format: str, encoder: Codec, width: int, height: int) -> str | None:
    """What the user should know of a change of pixel format; None where nothing changes but the memory layout."""
    source, target = av.VideoFormat(source_format), av.VideoFormat(target_format)
    name = encoder.canonical_name.upper()
    if source.is_rgb or source.has_palette:
        return f"{source_format} is written as {target_format}: markers are drawn on, and {name} holds, luma and chroma"
    was, now = _sampling_name(source), _sampling_name(target)
    parts = []
    if was != now:
        odd = f" with odd size {width}x{height}" if (width % 2 or height % 2) and "4:4:4" in now else ""
        parts.append(f"{was}{odd} is written as {now}: {name} cannot hold it")
    bits = [max(component.bits for component in pixel_format.components) for pixel_format in (source, target)]
    if bits[0] > bits[1]:
        parts.append(f"{bits[0]} bits are written as {bits[1]}: {name} cannot hold more")
    if any(c.is_alpha for c in source.components) and not any(c.is_alpha for c in target.components):
        parts.append(f"the transparency in {source_format} is left out: {name} cannot hold it")
    return "; ".join(parts) or None


def add_video_stream(
    container: "OutputContainer", encoding: Encoding, info: VideoInfo, pixel_format: str, *, has_aspect: bool
) -> VideoStream:
    """Add the encoder's stream to a container, with all that the source's stream says of its pictures."""
    encoder = encoding.encoder
    stream = container.add_stream(
        encoder.name,
        rate=(info.average_rate or Fraction(25)).limit_denominator(100_000),
        options=encoding.options(),
        width=info.width,
        height=info.height,
        time_base=info.time_base,
    )
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.pix_fmt = pixel_format
    context.thread_type = ThreadType.AUTO  # PyAV's default would have x264 cut pictures into slices
    context.flags |= Flags.frame_duration
    if has_aspect:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = colour_tags(info)
    if info.is_interlaced and _can_interlace(encoder, pixel_format, info.height):
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    if encoding.quality != "lossless" and not (encoder.lossless or {"crf", "cq", "qp"}.intersection(context.options)):
        context.qmin = context.qmax = 2 + encoding.quality * 29 // 51  # the scale of MPEG's quantisers, 2 to 31
    if encoder.canonical_name == "hevc" and container.format.name in {"mp4", "mov"}:
        context.codec_tag = "hvc1"  # else Apple's players refuse it
    if info.display_matrix is not None:
        stream.set_display_matrix(info.display_matrix)
    elif info.rotation:
        stream.set_display_rotation(info.rotation)
    return stream


def colour_tags(info: VideoInfo) -> tuple[int, int, int, int]:
    """Range, matrix, primaries and transfer of the encoded pictures: the source's, but for RGB, which gets a matrix."""
    if av.VideoFormat(info.pixel_format).is_rgb or av.VideoFormat(info.pixel_format).has_palette:
        return LIMITED, rgb_matrix(info.height), info.color_primaries, info.color_trc
    is_full = info.pixel_format.startswith("yuvj")
    return FULL if is_full else info.color_range, info.colorspace, info.color_primaries, info.color_trc


def rgb_matrix(height: int) -> int:
    """The matrix for pictures that come as RGB: BT.709 from 720 rows up, else BT.601, as players assume."""
    return _BT709 if height >= 720 else _BT601


def _fits(name: str, encoder: Codec, width: int, height: int) -> bool:
    across, down = _chroma_shifts(av.VideoFormat(name))
    is_even = not (width % 2 and across == 1) and not (height % 2 and down == 1)
    return is_even or encoder.canonical_name not in _EVEN_CHROMA


def _can_interlace(encoder: Codec, pixel_format: str, height: int) -> bool:
    down = _chroma_shifts(av.VideoFormat(pixel_format))[1]
    return encoder.name == "libx264" and height % (4 if down == 1 else 2) == 0


def _chroma_shifts(pixel_format: av.VideoFormat) -> tuple[int, int]:
    if pixel_format.is_rgb or pixel_format.has_palette or pixel_format.is_bayer:
        return 0, 0
    if len(pixel_format.components) < 3:
        return 9, 9
    across, down = 64 // pixel_format.chroma_width(64), 64 // pixel_format.chroma_height(64)
    return across.bit_length() - 1, down.bit_length() - 1


def _sampling_name(pixel_format: av.VideoFormat) -> str:
    names = {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 0): "4:4:4", (2, 0): "4:1:1", (0, 1): "4:4:0", (9, 9): "grey"}
    return names.get(_chroma_shifts(pixel_format), pixel_format.name)
