"""The network's small picture, straight from the decoded frame in one swscale pass."""

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from polypstream.realtime.frame import Rgb

HD_HEIGHT = 720
"""From this height on, an untagged picture is taken as BT.709; below, as BT.601, as players do."""


class SmallPicture:
    """Scales frames to one size and converts them to RGB; reuses its scaler, so it belongs to one thread."""

    def __init__(self, *, height: int, width: int) -> None:
        self._height, self._width = height, width
        self._scaler = VideoReformatter()

    def of(self, picture: av.VideoFrame) -> Rgb:
        """uint8 RGB (height, width, 3) of a whole frame of any size and pixel format, stretched to fit."""
        small = self._scaler.reformat(
            picture,
            width=self._width,
            height=self._height,
            format="rgb24",
            src_colorspace=matrix_of(picture),
            interpolation=Interpolation.AREA,
        )
        return np.asarray(small.to_ndarray(), dtype=np.uint8)


def matrix_of(picture: av.VideoFrame) -> Colorspace:
    """The frame's own Y'CbCr matrix, or the customary one for its height where it names none."""
    customary = Colorspace.ITU709 if picture.height >= HD_HEIGHT else Colorspace.ITU601
    return _MATRIX_OF_TAG.get(int(picture.colorspace), customary)


_MATRIX_OF_TAG = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
"""By FFmpeg's AVColorSpace, which is what a frame's tag counts in."""
