"""De-identification: hides identifying parts of every output, renames results, and states the remaining risks.

The endoscope image is located on frames from the whole recording, so that dark or overexposed frames do not reveal the
border and its text. Intervals outside the body come from the records, with a margin on either side. This takes a second
pass over the video, since hiding starts before such an interval is recognized.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
from av.stream import Stream
from numpy.typing import NDArray

from polypstream.arrays import Mask, Rgb
from polypstream.content import content_area
from polypstream.realtime.annotate.manifest import fingerprint_of
from polypstream.realtime.annotate.records import FrameRecord, read_records
from polypstream.realtime.annotate.summary import Deidentification
from polypstream.realtime.live.visibility import Visibility
from polypstream.realtime.outlines.drawing import MarkerStyle, draw_markers
from polypstream.realtime.video.color import color_values
from polypstream.realtime.video.planes import planes_of
from polypstream.realtime.video.reader import StreamPacket, VideoReader
from polypstream.realtime.video.resize import ModelInputScaler, fitted
from polypstream.realtime.video.stills import stills
from polypstream.realtime.video.writer import Encoding, VideoWriter

if TYPE_CHECKING:
    from av.container.core import Chapter

MARGIN_S = 1.0
"""Margin in seconds around each interval outside the body."""
JOIN_S = 3.0
"""Intervals closer than this, in seconds, are merged."""
ENDS_S, ENDS_SHARE = 10.0, 0.1
"""An interval that begins or ends within this time of the recording's start or end is extended to it: in seconds, and
at most this fraction of the recording."""
SAMPLES = 48
"""Number of frames on which the endoscope image is located."""
BLOCKS = 24
"""Blocks along the longer side of a pixelated frame."""

_ANALYZED = (320, 320)
_STROKE = 7
"""Thinner bright regions, in pixels of the analyzed image, are removed as text."""
_RIM = 2
"""Margin hidden along the edge, in pixels of the analyzed image, as text may start there."""
_SAME_LAYOUT = 0.6
"""Minimum intersection over union with the usual layout."""
_BRIGHT = 24
_FULL_FRAME = 0.6
"""Minimum fraction of bright pixels for an image without a black border to be accepted."""


def case_name(video: Path) -> Path:
    """Name of the results: `case-` and digits of a hash of the file's content."""
    try:
        content = fingerprint_of(video).encode()
    except OSError:  # reported when the video is opened
        content = os.fsencode(video)
    return Path(f"case-{hashlib.sha256(content).hexdigest()[:12]}{video.suffix}")


@dataclass(frozen=True, kw_only=True)
class TimeInterval:
    """An interval in seconds."""

    start_s: float
    end_s: float


class Concealment:
    """Hides identifying parts of the frames of one recording. Use it from one thread.

    Args:
        area: Area of the endoscope image, bool (H, W) of any size; everything else is hidden.
        outside: Intervals during which the whole frame is pixelated.
    """

    def __init__(self, area: Mask, outside: Sequence[TimeInterval]) -> None:
        self.area, self.outside = area, tuple(outside)
        self._scaler = ModelInputScaler()

    def is_outside(self, pts_s: float) -> bool:
        """Whether the frame at this time is pixelated."""
        return any(each.start_s <= pts_s <= each.end_s for each in self.outside)

    def hide(self, picture: av.VideoFrame, pts_s: float) -> bool:
        """Hide parts of a writable frame of a drawable format, in place; returns whether it was pixelated."""
        size = (self.area.shape[1], self.area.shape[0])
        visible = self._visible(self._scaler.scale(picture, size))
        pixelates = self.is_outside(pts_s)
        for plane, black in zip(planes_of(picture), color_values(picture, (0, 0, 0)), strict=True):
            value = round(black) << plane.shift
            hidden = ~_scaled(visible, plane.samples.shape)
            plane.samples[hidden] = value
            if pixelates:
                plane.samples[:] = _mosaic(plane.samples)
                plane.samples[hidden] = value
        return pixelates

    def hide_image(self, image: Rgb, pts_s: float) -> Rgb:
        """A copy of a coded frame, uint8 RGB (H, W, 3), with the same parts hidden."""
        size = (self.area.shape[1], self.area.shape[0])
        small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        hidden = ~_scaled(self._visible(small), image.shape[:2])
        shown = image.copy()
        shown[hidden] = 0
        if self.is_outside(pts_s):
            shown = _mosaic(shown)
            shown[hidden] = 0
        return shown

    def _visible(self, rgb: Rgb) -> Mask:
        """The usual area, intersected with that of this frame if its layout differs."""
        own = _area(rgb)
        if own is None:
            return self.area
        overlap = int(np.count_nonzero(own & self.area)) / max(int(np.count_nonzero(own | self.area)), 1)
        return self.area if overlap >= _SAME_LAYOUT else own & self.area


def concealment_of(video: Path, records: Path) -> Concealment:
    """Determine what to hide in an annotated recording whose records include visibility.

    Raises:
        SourceError: If the video cannot be read.
        DatasetError: If the records cannot be read.
    """
    times_s, outside_s, usable_s = [], [], []
    for record in read_records(records):
        times_s.append(record.pts_s)
        if record.visibility == Visibility.OUTSIDE.name.lower():
            outside_s.append(record.pts_s)
        elif record.visibility != Visibility.DARK.name.lower():
            usable_s.append(record.pts_s)
    sampled = usable_s or times_s
    chosen = sorted({sampled[round(place)] for place in np.linspace(0, len(sampled) - 1, SAMPLES)}) if sampled else []
    return Concealment(_usual_area(video, chosen), _intervals(outside_s, end_s=times_s[-1] if times_s else 0.0))


def write_deidentified(
    video: Path,
    records: Path,
    path: Path,
    *,
    concealment: Concealment,
    encoding: Encoding,
    style: MarkerStyle,
    keep_audio: bool,
) -> tuple[Path, tuple[str, ...]]:
    """Write the video with its contours, everything else hidden, and no metadata.

    Returns:
        The file, possibly with another suffix, and notices.

    Raises:
        SourceError: If the video cannot be read.
        OutputError: If the file cannot be written.
    """
    with (
        _BareReader(video, keep_audio=keep_audio) as source,
        VideoWriter(path, source=source, encoding=encoding) as writer,
    ):
        found = iter(read_records(records))
        for item in source:
            if isinstance(item, StreamPacket):
                writer.write(item)
                continue
            record: FrameRecord | None = next(found, None)
            picture = _bare(writer.prepared(item))
            if not concealment.hide(picture, item.pts_s) and record is not None:
                draw_markers(picture, record.polyps, style)
            writer.write_picture(picture)
    return writer.path, tuple(writer.notices)


def without_clock(notices: Sequence[str]) -> tuple[str, ...]:
    """Remove the notice about the clock in the file, which may be the time of day."""
    return tuple(notice for notice in notices if "the clock in the file" not in notice)


def account_of(concealment: Concealment, name: str, *, keep_audio: bool) -> Deidentification:
    """Describe what was done, and what cannot be guaranteed."""
    share = float(concealment.area.mean())
    if not share:
        area = "no endoscope image was recognized: every frame is black"
    else:
        area = (
            f"everything except the endoscope image ({share:.0%} of the frame) is black in the video and the thumbnails"
        )
    intervals = ", ".join(f"{each.start_s:.1f} to {each.end_s:.1f} s" for each in concealment.outside)
    return Deidentification(
        done=(
            area,
            f"pixelated as outside the body: {intervals}"
            if intervals
            else "no interval outside the body was recognized",
            "metadata, chapters, attachments, subtitles, captions, data streams and the clock of the file are removed",
            "sound is kept" if keep_audio else "sound is removed",
            f"results are named {name}, a hash of the file's content",
        ),
        limits=(
            "text and faces inside the endoscope image are not recognized",
            "intervals outside the body are recognized by color and may be missed: watch the video before sharing it",
            *(("voices are not changed",) if keep_audio else ()),
            "anyone with the original can match it by content, duration and images",
        ),
    )


class _BareReader(VideoReader):
    """Reads only the main video stream and, if wanted, the sound: no metadata, chapters or covers."""

    def __init__(self, path: Path, *, keep_audio: bool) -> None:
        self._keep_audio = keep_audio
        super().__init__(path)

    @property
    def streams(self) -> Sequence[Stream]:
        """The main video, and the sound if it is kept, without metadata."""
        kept = tuple(
            stream
            for stream in super().streams
            if stream.index == self.video.index or (self._keep_audio and stream.type == "audio")
        )
        for stream in kept:
            stream.metadata.clear()
        return kept

    @property
    def metadata(self) -> Mapping[str, str]:
        """None."""
        return {}

    @property
    def chapters(self) -> "list[Chapter]":
        """None."""
        return []

    @property
    def covers(self) -> Mapping[int, bytes]:
        """None."""
        return {}


def _bare(picture: av.VideoFrame) -> av.VideoFrame:
    """Copy a frame without side data, such as captions and camera data in the coded video."""
    bare = av.VideoFrame(picture.width, picture.height, picture.format.name)
    old_planes: Any = picture.planes
    new_planes: Any = bare.planes
    for old, new in zip(old_planes, new_planes, strict=True):
        source = np.frombuffer(old, np.uint8).reshape(old.height, -1)
        target = np.frombuffer(new, np.uint8).reshape(new.height, -1)
        shared = min(source.shape[1], target.shape[1])
        target[:, :shared] = source[:, :shared]
    bare.pts, bare.time_base, bare.duration = picture.pts, picture.time_base, picture.duration
    bare.color_range, bare.colorspace = picture.color_range, picture.colorspace
    bare.color_primaries, bare.color_trc = picture.color_primaries, picture.color_trc
    return bare


def _usual_area(video: Path, times_s: Sequence[float]) -> Mask:
    """Area of the endoscope image on most of the frames at these times; empty if it is found on none."""
    votes: NDArray[np.int32] | None = None
    count = 0
    scaler = ModelInputScaler()
    for _, frame in stills(video, times_s):
        size = fitted((frame.picture.width, frame.picture.height), _ANALYZED)
        area = _area(scaler.scale(frame.picture, size))
        if area is not None and (votes is None or votes.shape == area.shape):
            votes = area.astype(np.int32) if votes is None else votes + area
            count += 1
    if votes is None:
        return np.zeros((_ANALYZED[1], _ANALYZED[0]), np.bool_)
    usual = (2 * votes > count).astype(np.uint8)
    rim = np.ones((2 * _RIM + 1, 2 * _RIM + 1), np.uint8)
    return cv2.erode(usual, rim, borderType=cv2.BORDER_CONSTANT, borderValue=1).view(np.bool_)


def _area(rgb: Rgb) -> Mask | None:
    """Area of the endoscope image on one frame, without adjacent text; None if it is not found."""
    kernel = np.ones((_STROKE, _STROKE), np.uint8)
    coarse = np.asarray(cv2.morphologyEx(rgb, cv2.MORPH_OPEN, kernel), np.uint8)
    area = content_area(coarse)
    if area.all() and (coarse.max(axis=2) > _BRIGHT).mean() < _FULL_FRAME:
        return None
    return area


def _intervals(outside_s: Sequence[float], *, end_s: float) -> list[TimeInterval]:
    """Intervals outside the body, from the times of frames outside."""
    if not outside_s:
        return []
    breaks = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(outside_s)) if b - a > JOIN_S), len(outside_s)]
    intervals, ends_s = [], min(ENDS_S, ENDS_SHARE * end_s)
    for first, last in pairwise(breaks):
        start, end = outside_s[first] - MARGIN_S, outside_s[last - 1] + MARGIN_S
        start = 0.0 if start < ends_s else start
        end = max(end_s, end) if end > end_s - ends_s else end
        intervals.append(TimeInterval(start_s=max(start, 0.0), end_s=end))
    return intervals


def _scaled(visible: Mask, shape: tuple[int, ...]) -> Mask:
    """Scale the mask to the size of a plane; samples on its edge are hidden."""
    soft = cv2.resize(visible.astype(np.uint8) * 255, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(soft == 255)


def _mosaic(samples: NDArray[Any]) -> NDArray[Any]:
    """Pixelate a plane, with `BLOCKS` blocks along its longer side."""
    height, width = samples.shape[:2]
    scale = BLOCKS / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    native = np.ascontiguousarray(samples, dtype=samples.dtype.newbyteorder("="))
    small = cv2.resize(native, size, interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), samples.dtype)
