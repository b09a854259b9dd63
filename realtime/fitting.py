"""Bringing pictures into the one form that an encoder takes; the usual ones are in it already and stay untouched."""

import av
from av.video.reformatter import Interpolation, VideoReformatter

from polypstream.realtime.encoding import FULL, LIMITED, colour_tags, rgb_matrix
from polypstream.realtime.video import VideoInfo

_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT


class Fitter:
    """Converts pictures to a pixel format and to the size of the source's first frame, each at most once."""

    def __init__(self, info: VideoInfo, pixel_format: str) -> None:
        self._info, self._pixel_format = info, pixel_format
        self._tags = colour_tags(info)
        self._reformatter = VideoReformatter()
        self.notices: list[str] = []

    def fitted(self, picture: av.VideoFrame) -> av.VideoFrame:
        """The picture itself where it fits; else a converted copy, which belongs to the caller."""
        info, name = self._info, picture.format.name
        has_size = picture.width == info.width and picture.height == info.height
        if name == self._pixel_format and has_size:
            return picture
        if not has_size or name != info.pixel_format:
            self._note_change(picture)
        is_rgb = picture.format.is_rgb or picture.format.has_palette
        source_range, target_range = self._ranges(picture)
        matrix = rgb_matrix(info.height) if is_rgb else None
        fitted = self._reformatter.reformat(
            picture,
            width=info.width,
            height=info.height,
            format=self._pixel_format,
            dst_colorspace=matrix,
            interpolation=_SCALING,
            src_color_range=source_range,
            dst_color_range=target_range,
        )
        fitted.color_range, fitted.colorspace, fitted.color_primaries, fitted.color_trc = self._tags
        return fitted

    def _ranges(self, picture: av.VideoFrame) -> tuple[int, int]:
        """The ranges to convert from and to; the same, so that values stay, unless the source changed its range."""
        if picture.format.name.startswith("gray"):  # always full in swscale's eyes
            return FULL, FULL
        is_rgb = picture.format.is_rgb or picture.format.has_palette
        is_full = is_rgb or picture.format.name.startswith("yuvj") or picture.color_range == FULL
        source_range = FULL if is_full else LIMITED
        return source_range, self._tags[0] or source_range

    def _note_change(self, picture: av.VideoFrame) -> None:
        info = self._info
        notice = (
            f"the picture changes from {info.width}x{info.height} {info.pixel_format} "
            f"to {picture.width}x{picture.height} {picture.format.name}: written as the first frame is"
        )
        if notice not in self.notices:
            self.notices.append(notice)
