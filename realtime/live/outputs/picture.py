"""Pictures of a pushed stream: marked frames and placeholders, all of one size."""

import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, VideoReformatter

from polypstream.arrays import Rgb, Size
from polypstream.realtime.live.display_frame import DisplayFrame, drawable, marked
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.color import is_full_range, scaler_matrix
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.resize import ScreenScaler
from polypstream.realtime.video.rotation import Rotation, rotation_of

PIXEL_FORMAT = "yuv420p"
_BACKGROUND, _TEXT = 16, 200
"""Gray levels of a placeholder."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def upright_size(frame: Frame, *, most: int = 3840) -> Size:
    """Width and height of a frame when upright with square pixels, even and at most `most`, in pixels."""
    width, height = rotation_of(frame).size(*frame.square_size)
    scale = min(1.0, most / max(width, height))
    return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)


class PushedPictures:
    """Makes yuv420p images of one size from frames of any size and format. Not thread-safe.

    They have limited range and the matrix that players assume for their height.

    Args:
        size: Width and height in pixels, both even.
        style: Appearance of the markers.
    """

    def __init__(self, size: Size, style: MarkerStyle) -> None:
        self._size, self._style = size, style
        self._matrix = scaler_matrix(VideoFrame(*size, PIXEL_FORMAT))
        self._to_rgb, self._to_yuv = ScreenScaler(pixel_format="rgb24"), VideoReformatter()

    def of_frame(self, shown: DisplayFrame) -> VideoFrame:
        """A frame with its markers, upright and as large as fits, with black borders where its shape differs."""
        picture = marked(drawable(shown.frame.picture), shown.markers, self._style)
        rotation, square = rotation_of(shown.frame), shown.frame.square_size
        if self._is_ready(picture) and square == self._size and rotation == Rotation():
            return picture
        scale = min(most / side for most, side in zip(self._size, rotation.size(*square), strict=True))
        width, height = (max(1, round(side * scale)) for side in square)
        rgb = np.asarray(self._to_rgb.scale(picture, (width, height)).to_ndarray(), np.uint8)
        return self._yuv(_bordered(rotation.image(rgb), self._size))

    def placeholder(self, reason: str, *, clock: str) -> VideoFrame:
        """An image that states that there is no video, why, and the time, so that viewers see that it is live."""
        width, height = self._size
        rgb: Rgb = np.full((height, width, 3), _BACKGROUND, np.uint8)
        for number, (text, share) in enumerate((("No video", 1.0), (reason, 0.5), (clock, 0.5))):
            plain = text.encode("ascii", "replace").decode()
            (text_width, text_height), _ = cv2.getTextSize(plain, _FONT, 1.0, 1)
            scale = min(share * height / 10 / text_height, 0.9 * width / max(text_width, 1))
            place = round((width - text_width * scale) / 2), round(height * (0.45 + 0.12 * number))
            cv2.putText(rgb, plain, place, _FONT, scale, (_TEXT,) * 3, max(1, height // 360), cv2.LINE_AA)
        return self._yuv(rgb)

    def _is_ready(self, picture: VideoFrame) -> bool:
        """Whether an image can be encoded as it is."""
        is_plain = picture.format.name == PIXEL_FORMAT and (picture.width, picture.height) == self._size
        return is_plain and not is_full_range(picture) and scaler_matrix(picture) == self._matrix

    def _yuv(self, rgb: Rgb) -> VideoFrame:
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        return self._to_yuv.reformat(
            picture, format=PIXEL_FORMAT, dst_colorspace=self._matrix, dst_color_range=ColorRange.MPEG
        )


def _bordered(rgb: Rgb, size: Size) -> Rgb:
    """Center an image on black; what exceeds the size by rounding is cut off."""
    width, height = size
    rgb = rgb[:height, :width]
    rows, columns = rgb.shape[:2]
    if (columns, rows) == size:
        return rgb
    whole: Rgb = np.zeros((height, width, 3), np.uint8)
    top, left = (height - rows) // 2, (width - columns) // 2
    whole[top : top + rows, left : left + columns] = rgb
    return whole
