"""Video encoding: codec, quality, pixel format, and conversion of frames that differ from the first one."""

import io
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import av
from av.codec.codec import Codec, UnknownCodecError
from av.codec.context import Flags, ThreadType
from av.codec.hwaccel import HWAccel
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from polypstream.errors import ConfigError
from polypstream.realtime.video.color import FULL, LIMITED, assumed_matrix, is_rgb, output_tags
from polypstream.realtime.video.container import VideoInfo
from polypstream.realtime.video.device import is_on_device, pixel_format_of
from polypstream.scheduling import ordinary_scheduling

if TYPE_CHECKING:
    from av.container import OutputContainer

Options = dict[str, str]

PRESETS: Mapping[str, Options] = {
    "libx264": {
        "preset": "ultrafast",
        "x264-params": "cabac=1:8x8dct=1:bframes=2:b-adapt=0:partitions=i8x8:deblock=0,0",
    },
    "libx265": {"preset": "superfast"},
    "libsvtav1": {"preset": "10"},
    "libaom-av1": {"cpu-used": "8", "row-mt": "1"},
    "librav1e": {"speed": "10"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "5", "row-mt": "1"},
    "libvpx": {"deadline": "good", "cpu-used": "5"},
}
"""Encoder options without a preset, where they differ from the preset `superfast`.

For x264, `ultrafast` plus those of its tools that cost little: at the same quality and size this takes 0.6 of the time
of `superfast`, and files are a quarter smaller than with `ultrafast` alone.
"""
_NEEDED: Mapping[str, Options] = {
    "libvpx-vp9": {"b": "0"},  # otherwise the bit rate is limited
    "libvpx": {"b": "100M"},
    "libaom-av1": {"b": "0"},
    "dnxhd": {"profile": "dnxhr_hq"},  # the other profiles only support certain sizes and rates
    "mjpeg": {"strict": "unofficial"},  # limited range
    "ljpeg": {"strict": "unofficial"},
    "vc2": {"strict": "experimental"},
    "mpeg1video": {"strict": "unofficial"},  # any frame rate
    "mpeg2video": {"strict": "unofficial"},
}
"""Options that encoders require to work, or to respect the settings."""
_MPEG_RATES = [Fraction(*rate) for rate in [(24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1)]] + [
    Fraction(60000, 1001),
    Fraction(60),
]
_COARSE = frozenset({"mpeg4", "h263", "h263p", "msmpeg4v2", "msmpeg4v3", "wmv1", "wmv2", "flv1"})
_MOST_TICKS = 65535
"""Highest number of ticks per second that the formats in `_COARSE` support."""
_PROBED_SIZE = (352, 288)
_PROVEN = frozenset({"libx264", "libx265", "ffv1"})
"""Encoders that work wherever they are available."""

_ENCODERS = {"h264": "libx264", "hevc": "libx265", "h265": "libx265", "av1": "libsvtav1", "vp9": "libvpx-vp9"}
_NVENC: Mapping[str, Mapping[str, str]] = {
    "h264_nvenc": {"yuv420p": "nv12"},
    "hevc_nvenc": {"yuv420p": "nv12", "yuv420p10le": "p010le"},
    "av1_nvenc": {"yuv420p": "nv12", "yuv420p10le": "p010le"},
}
"""Formats in which NVENC takes frames from GPU memory, by the format in which the CPU decodes the same video."""
_EVEN_CHROMA = frozenset({"h264", "hevc"})
"""Codecs that do not support odd sizes with subsampled chroma."""
_COMMON = {
    **{
        f"yuv{sampling}p{f'{bits}le' if bits > 8 else ''}": (shifts, bits)
        for sampling, shifts in {"420": (1, 1), "422": (1, 0), "444": (0, 0)}.items()
        for bits in (8, 10, 12, 14, 16)
    },
    **{f"gray{f'{bits}le' if bits > 8 else ''}": ((9, 9), bits) for bits in (8, 10, 12, 14, 16)},
    "p010le": ((1, 1), 10),  # for encoders without yuv420p10le
}
"""Conversion targets: log2 of the chroma subsampling across and down (9 without chroma), and bits."""
_PLANAR = re.compile(r"yuvj?4\d\dp(\d+le)?|gray(\d+le)?|nv12")
_PLANAR_OR_ALPHA = re.compile(rf"{_PLANAR.pattern}|yuva4\d\dp(\d+le)?")


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Video encoding settings.

    Raises:
        ConfigError: The codec is unknown or does not support the settings.
    """

    codec: str = "h264"
    """`h264`, `hevc`, `ffv1`, `av1`, `vp9`, or the name of any FFmpeg video encoder."""
    quality: int | Literal["lossless"] = 18
    """Constant rate factor, 0 (best) to 51; ignored by codecs that are always lossless."""
    preset: str | None = None
    """Trade-off between speed and file size, for encoders with presets of that name; None: polypstream's default."""

    def __post_init__(self) -> None:
        if self.quality != "lossless" and not 0 <= self.quality <= 51:
            raise ConfigError(f"the quality is {self.quality}; it must be between 0 (best) and 51, or be 'lossless'")
        codec = self.encoder
        if codec.name == "libsvtav1":
            os.environ.setdefault("SVT_LOG", "1")  # errors only; otherwise it logs to stderr
        if self.quality == "lossless" and codec.name not in _LOSSLESS and (codec.lossy or not codec.lossless):
            wanted = ", ".join(sorted(_LOSSLESS))
            raise ConfigError(f"no lossless mode is known for {codec.name}; use one of {wanted} or ffv1")
        if codec.name not in _PROVEN and (reason := _failure(codec.name, tuple(self.options().items()))):
            fix = f"use one of {usable_codecs()}"
            if codec.name in _NVENC:
                reason += (
                    "; it needs a recent NVIDIA driver and NVENC, which data-center GPUs such as A100 and H100 lack"
                )
                fix = f"write the soft overlay, or {fix}"
            raise ConfigError(f"{self.codec} video cannot be written here ({reason}); {fix}")

    @property
    def encoder(self) -> Codec:
        """FFmpeg encoder of the codec."""
        name = _ENCODERS.get(self.codec, self.codec)
        try:
            codec = Codec(name, "w")
        except UnknownCodecError:
            raise ConfigError(f"this FFmpeg has no encoder {name!r}; use one of {usable_codecs()}") from None
        if codec.type != "video":
            raise ConfigError(f"{name} encodes {codec.type}, not video; use one of {usable_codecs()}")
        return codec

    def options(self) -> Options:
        """Return the encoder's options for the quality and preset."""
        codec = self.encoder
        private = {option.name: option for option in av.CodecContext.create(codec).supported_options.private}
        options: Options = dict(_NEEDED.get(codec.name, {}))
        if codec.name == "ffv1":
            return {"level": "3", "slicecrc": "1"}
        if self.preset is not None and "preset" in private:
            choices = {choice.name for choice in private["preset"].choices}
            options |= {"preset": self.preset} if not choices or self.preset in choices else {}
        elif self.preset is None and codec.name in PRESETS:
            options |= {name: value for name, value in PRESETS[codec.name].items() if name in private}
        elif "superfast" in {choice.name for choice in private["preset"].choices} if "preset" in private else False:
            options["preset"] = "superfast"
        if self.quality == "lossless":
            options |= _LOSSLESS.get(codec.name, {})
        elif "crf" in private:
            options["crf"] = str(self.quality)
        elif "cq" in private:
            options |= {"rc": "vbr", "cq": str(self.quality)}
        elif "qp" in private:
            options["qp"] = str(self.quality)
        if codec.name == "libx265":  # x265 logs to stderr on its own
            lossless = ":lossless=1" if self.quality == "lossless" else ""
            options["x265-params"] = f"log-level=none{lossless}"
        return options


_SUGGESTED = ("h264", "hevc", "av1", "vp9", "vp8", "ffv1", "prores_ks", "mpeg4", "mpeg2video", "mjpeg", "png")


def usable_codecs() -> str:
    """List names for `Encoding.codec` that work well and are available in this FFmpeg, for messages."""
    return ", ".join(name for name in _SUGGESTED if _ENCODERS.get(name, name) in av.codecs_available or _is_there(name))


def _is_there(name: str) -> bool:
    try:
        Codec(_ENCODERS.get(name, name), "w")
    except UnknownCodecError:
        return False
    return True


@lru_cache
def _failure(name: str, options: tuple[tuple[str, str], ...]) -> str | None:
    """Return why an encoder cannot write video here, found by encoding a few frames in memory; None if it can."""
    encoder, (width, height) = Codec(name, "w"), _PROBED_SIZE
    holders = [
        format_name
        for format_name in ("mp4", "matroska", "mov")
        if name in av.open(io.BytesIO(), "w", format=format_name).supported_codecs
    ]
    if not holders:
        return "MP4, Matroska and QuickTime do not support it"
    try:
        pixel_format = working_format("yuv420p", encoder, width, height)
    except ConfigError:
        return "it does not support planar YUV"
    try:
        with ordinary_scheduling(), av.open(io.BytesIO(), "w", format=holders[0]) as container:
            stream = container.add_stream(name, rate=25, width=width, height=height, options=dict(options))
            assert isinstance(stream, VideoStream)
            stream.codec_context.pix_fmt = pixel_format
            for index in range(3):
                picture = av.VideoFrame(width, height, pixel_format)
                picture.pts, picture.time_base = index, Fraction(1, 25)
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    except (av.FFmpegError, OSError, ValueError, RuntimeError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return None


_LOSSLESS: dict[str, Options] = {
    "libx264": {"qp": "0"},
    "libx265": {},  # through x265-params
    "h264_nvenc": {"tune": "lossless"},
    "hevc_nvenc": {"tune": "lossless"},
    "libvpx-vp9": {"lossless": "1"},
}


def working_format(source_format: str, encoder: Codec, width: int, height: int) -> str:
    """Choose the pixel format for drawing and encoding: the decoded one if the encoder supports it.

    Otherwise the closest planar YUV or gray format that the encoder supports. In order of priority, it preserves
    chroma resolution and bit depth, then exceeds neither more than necessary.

    Args:
        source_format: FFmpeg name of the decoded pixel format.
        encoder: The encoder.
        width: Width of the frames in pixels.
        height: Height of the frames in pixels.

    Returns:
        FFmpeg name of the pixel format.

    Raises:
        ConfigError: The encoder does not support any planar YUV format at this size.
    """
    most_bits = 8 if encoder.name == "h264_nvenc" else 16  # few GPUs encode H.264 with 10 bits
    formats = encoder.video_formats or ()
    offered = {each.name for each in formats if all(part.bits <= most_bits for part in each.components)}
    planar = _PLANAR_OR_ALPHA if encoder.name == "ffv1" else _PLANAR
    if source_format in offered and planar.fullmatch(source_format) and _fits(source_format, encoder, width, height):
        return source_format
    source = av.VideoFormat(source_format)
    across, down = _chroma_shifts(source)
    bits = max(component.bits for component in source.components)
    candidates = [name for name in _COMMON if name in offered and _fits(name, encoder, width, height)]
    if not candidates:
        raise ConfigError(
            f"{encoder.name} supports no planar YUV format at {width}x{height}; use one of {usable_codecs()}"
        )

    def cost(name: str) -> tuple[int, ...]:
        (to_across, to_down), to_bits = _COMMON[name]
        lost_chroma = max(to_across - across, 0) + max(to_down - down, 0)
        gained_chroma = max(across - to_across, 0) + max(down - to_down, 0)
        return lost_chroma, max(bits - to_bits, 0), gained_chroma, max(to_bits - bits, 0)

    return min(candidates, key=cost)


def device_format(encoder: Codec, info: VideoInfo) -> str | None:
    """FFmpeg name of the pixel format in which an encoder takes the frames of a video from GPU memory; None if not."""
    is_even = not (info.width % 2 or info.height % 2)
    return _NVENC.get(encoder.name, {}).get(info.pixel_format) if is_even else None


def format_notice(source_format: str, target_format: str, encoder: Codec, width: int, height: int) -> str | None:
    """Describe a change of pixel format for the user; None if only the memory layout changes."""
    source, target = av.VideoFormat(source_format), av.VideoFormat(target_format)
    name = encoder.canonical_name.upper()
    if source.is_rgb or source.has_palette:
        return f"{source_format} is written as {target_format}, as markers and {name} require luma and chroma"
    was, now = _sampling_name(source), _sampling_name(target)
    parts = []
    if was != now:
        odd = f" with odd size {width}x{height}" if (width % 2 or height % 2) and "4:4:4" in now else ""
        parts.append(f"{was}{odd} is written as {now}: {name} does not support it")
    bits = [max(component.bits for component in pixel_format.components) for pixel_format in (source, target)]
    if bits[0] > bits[1]:
        parts.append(f"{bits[0]} bits are written as {bits[1]}: {name} does not support more")
    if any(c.is_alpha for c in source.components) and not any(c.is_alpha for c in target.components):
        parts.append(f"the transparency in {source_format} is dropped: {name} does not support it")
    return "; ".join(parts) or None


def encoder_time_base(encoder: Codec, info: VideoInfo) -> Fraction:
    """Return the encoder's time base in seconds: that of the source, unless its format only supports coarser ones."""
    if encoder.canonical_name in {"mpeg1video", "mpeg2video"} and info.average_rate:
        return 1 / min(_MPEG_RATES, key=lambda rate: abs(rate - (info.average_rate or 25)))
    ticks = info.time_base.denominator
    if encoder.canonical_name in _COARSE and ticks > _MOST_TICKS:
        return Fraction(1, ticks // -(-ticks // _MOST_TICKS))
    return info.time_base


def add_video_stream(
    container: "OutputContainer",
    encoding: Encoding,
    info: VideoInfo,
    pixel_format: str,
    *,
    has_aspect: bool,
    hardware: HWAccel | None = None,
) -> VideoStream:
    """Add the encoder's stream to a container, with the color, aspect, rotation and scan type of the source.

    With `hardware`, the encoder takes frames from GPU memory, and uploads others.
    """
    encoder = encoding.encoder
    stream = container.add_stream(
        encoder.name,
        **({} if hardware is None else {"hwaccel": hardware}),
        rate=(info.average_rate or Fraction(25)).limit_denominator(100_000),
        options=encoding.options(),
        width=info.width,
        height=info.height,
        time_base=encoder_time_base(encoder, info),
    )
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    if hardware is None:
        context.pix_fmt = pixel_format
    else:
        context.pix_fmt, context.sw_format = "cuda", pixel_format
    context.thread_type = ThreadType.AUTO  # with PyAV's default, x264 splits frames into slices
    context.flags |= Flags.frame_duration
    if has_aspect:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    context.color_range, context.colorspace, context.color_primaries, context.color_trc = output_tags(info)
    if info.is_interlaced and _can_interlace(encoder, pixel_format, info.height):
        context.flags |= Flags.interlaced_dct | Flags.interlaced_me
    if encoding.quality != "lossless" and not (encoder.lossless or {"crf", "cq", "qp"}.intersection(context.options)):
        context.qmin = context.qmax = 2 + encoding.quality * 29 // 51  # the range of MPEG quantizers, 2 to 31
    if encoder.canonical_name == "hevc" and container.format.name in {"mp4", "mov"}:
        context.codec_tag = "hvc1"  # otherwise Apple's players reject it
    if info.display_matrix is not None:
        stream.set_display_matrix(info.display_matrix)
    elif info.rotation:
        stream.set_display_rotation(info.rotation)
    return stream


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
    names = {(1, 1): "4:2:0", (1, 0): "4:2:2", (0, 0): "4:4:4", (2, 0): "4:1:1", (0, 1): "4:4:0", (9, 9): "gray"}
    return names.get(_chroma_shifts(pixel_format), pixel_format.name)


_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class FrameConverter:
    """Converts images to a pixel format and to the size of the source's first frame, in a single step.

    Args:
        info: The source.
        pixel_format: FFmpeg name of the pixel format.
        keeps_on_device: Whether an image in GPU memory that fits stays there; others are converted in host memory.
    """

    def __init__(self, info: VideoInfo, pixel_format: str, *, keeps_on_device: bool = False) -> None:
        self._info, self._pixel_format, self._keeps_on_device = info, pixel_format, keeps_on_device
        self._tags = output_tags(info)
        self._reformatter = VideoReformatter()
        self.notices: list[str] = []

    def convert(self, picture: av.VideoFrame) -> av.VideoFrame:
        """Return the image itself if it fits, otherwise a converted copy that belongs to the caller."""
        info, name = self._info, pixel_format_of(picture)
        has_size = picture.width == info.width and picture.height == info.height
        stored = picture.sw_format if self._keeps_on_device and is_on_device(picture) else picture.format
        if has_size and stored is not None and stored.name == self._pixel_format:
            return picture
        if not has_size or name != info.pixel_format:
            self._note_change(picture)
        source_range, target_range = self._ranges(picture)
        matrix = assumed_matrix(info.height) if is_rgb(picture.format) else None
        converted = self._reformatter.reformat(
            picture,
            width=info.width,
            height=info.height,
            format=self._pixel_format,
            dst_colorspace=matrix,
            interpolation=_SCALING,
            src_color_range=source_range,
            dst_color_range=target_range,
        )
        converted.color_range, converted.colorspace, converted.color_primaries, converted.color_trc = self._tags
        return converted

    def _ranges(self, picture: av.VideoFrame) -> tuple[int, int]:
        """Return source and target range; equal, which preserves values, unless the source changed its range."""
        if picture.format.name.startswith("gray"):  # swscale treats gray as full range
            return FULL, FULL
        is_full = is_rgb(picture.format) or picture.format.name.startswith("yuvj") or picture.color_range == FULL
        source_range = FULL if is_full else LIMITED
        return source_range, self._tags[0] or source_range

    def _note_change(self, picture: av.VideoFrame) -> None:
        info = self._info
        notice = (
            f"frames change from {info.width}x{info.height} {info.pixel_format} to {picture.width}x{picture.height} "
            f"{pixel_format_of(picture)}: converted to the format of the first frame"
        )
        if notice not in self.notices:
            self.notices.append(notice)
