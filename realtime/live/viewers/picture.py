"""A decoded picture brought to the size and the RGB of a screen, its colours as they were meant."""

from fractions import Fraction

import av
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from polypstream.realtime.live.tracker import Size
from polypstream.realtime.preprocess import matrix_of


def fitted(size: Size, within: Size) -> Size:
    """A size scaled down, where that is needed, such that neither side is longer than those of `within`."""
    (width, height), (most_across, most_down) = size, within
    scale = min(Fraction(1), Fraction(most_across, width), Fraction(most_down, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


class ScreenPicture:
    """Scales pictures down, as they were coded, without turning them; for one thread."""

    def __init__(self, *, pixel_format: str) -> None:
        self._pixel_format = pixel_format
        self._scaler = VideoReformatter()

    def of(self, picture: av.VideoFrame, size: Size) -> av.VideoFrame:
        """The picture in that size and the RGB format asked for, full range, by its own matrix and range."""
        width, height = size
        return self._scaler.reformat(
            picture,
            width=width,
            height=height,
            format=self._pixel_format,
            src_colorspace=matrix_of(picture),
            src_color_range=ColorRange.JPEG if picture.format.name.startswith("yuvj") else None,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
