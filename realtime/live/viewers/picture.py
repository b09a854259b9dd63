"""A decoded picture brought to the size and the RGB of a screen, its colours as they were meant."""

from fractions import Fraction

import av
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from polypstream.realtime.preprocess import matrix_of


class ScreenPicture:
    """Scales pictures down to at most `max_width`; for one thread."""

    def __init__(self, *, max_width: int, pixel_format: str) -> None:
        self._max_width, self._pixel_format = max_width, pixel_format
        self._scaler = VideoReformatter()

    def of(self, picture: av.VideoFrame, *, aspect: Fraction = Fraction(1)) -> av.VideoFrame:
        """The picture in the RGB format asked for, full range, by its own matrix and range.

        `aspect` is the width of its pixels by their height; those of the result are square.
        """
        across = round(picture.width * aspect)
        width = min(across, self._max_width)
        return self._scaler.reformat(
            picture,
            width=width,
            height=max(1, round(picture.height * width / across)),
            format=self._pixel_format,
            src_colorspace=matrix_of(picture),
            src_color_range=ColorRange.JPEG if picture.format.name.startswith("yuvj") else None,
            dst_color_range=ColorRange.JPEG,
            interpolation=Interpolation.AREA,
            threads=1,
        )
