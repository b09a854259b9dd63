"""A picture without combing for the network, at once: one field of an interlaced frame."""

from typing import Any

import av
import numpy as np

from polypstream.realtime.preprocess import matrix_of


def progressive(picture: av.VideoFrame) -> av.VideoFrame:
    """The top field of an interlaced frame: every other line, half as high, for `SmallPicture` to stretch.

    A frame that is not interlaced is returned as it is. Filters such as bwdif look at the frame that comes next and so
    wait for it; the network's picture is smaller than a field of any capture card, which therefore loses nothing. The
    field lies a quarter of its line higher than the frame. What is shown stays the untouched frame.
    """
    if not picture.interlaced_frame or picture.height < 2:
        return picture
    field = av.VideoFrame(picture.width, (picture.height + 1) // 2, picture.format.name)
    whole_planes: Any = picture.planes
    field_planes: Any = field.planes
    for whole, half in zip(whole_planes, field_planes, strict=True):
        lines = np.frombuffer(whole, dtype=np.uint8)[: whole.height * whole.line_size].reshape(whole.height, -1)
        target = np.frombuffer(half, dtype=np.uint8)[: half.height * half.line_size].reshape(half.height, -1)
        shared = min(lines.shape[1], target.shape[1])
        target[:, :shared] = lines[::2, :shared]
    field.pts, field.time_base = picture.pts, picture.time_base
    field.color_range = picture.color_range
    field.colorspace = matrix_of(picture)  # by the frame's height: a field of 1080 lines would pass for SD
    return field
