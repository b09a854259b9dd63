"""Markers drawn on a copy, so that the picture itself stays as it came."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import av
import numpy as np

from polypstream.realtime.live.shown import Marker
from polypstream.realtime.overlay import MarkerStyle, draw_markers, is_drawable


def marked(picture: av.VideoFrame, markers: Sequence[Marker], style: MarkerStyle) -> av.VideoFrame:
    """A copy of a drawable picture with markers on it, each as opaque as its evidence is fresh."""
    copy = copied(picture)
    draw_on(copy, markers, style)
    return copy


def draw_on(picture: av.VideoFrame, markers: Sequence[Marker], style: MarkerStyle) -> None:
    """Draw markers on a writable picture, in place."""
    for marker in markers:
        draw_markers(picture, [marker.polyp], faded(style, marker.opacity))


def faded(style: MarkerStyle, opacity: float) -> MarkerStyle:
    """The style of a marker whose evidence has lost some of its weight."""
    return replace(style, opacity=style.opacity * opacity)


def drawable(picture: av.VideoFrame) -> av.VideoFrame:
    """The picture itself, or one with the same samples in a format that markers can be drawn on."""
    if is_drawable(picture.format.name):
        return picture
    return picture.reformat(format="gbrp" if picture.format.is_rgb else "yuv422p")


def copied(picture: av.VideoFrame) -> av.VideoFrame:
    """A picture with memory of its own: the same samples, time and colour tags."""
    copy = av.VideoFrame(picture.width, picture.height, picture.format.name)
    planes: Any = zip(copy.planes, picture.planes, strict=True)
    for target, source in planes:
        to, what = (np.frombuffer(plane, np.uint8).reshape(plane.height, -1) for plane in (target, source))
        width = min(to.shape[1], what.shape[1])
        to[:, :width] = what[:, :width]
    copy.pts, copy.time_base = picture.pts, picture.time_base
    copy.color_range, copy.colorspace = picture.color_range, picture.colorspace
    copy.color_primaries, copy.color_trc = picture.color_primaries, picture.color_trc
    return copy
