"""Messages between the page's server and its viewers over the WebSocket.

Each frame is one binary message: the length of a JSON header (uint32, big-endian), the header, and the image as JPEG,
which is empty if there is no image. All other messages are JSON text.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import av
import cv2
import numpy as np

from polypstream.arrays import Bgr, Contour
from polypstream.content import content_area, crop_of_area
from polypstream.errors import ConfigError
from polypstream.realtime.annotate.formats.export import formats_from
from polypstream.realtime.live.display_frame import DisplayFrame, Marker, Status
from polypstream.realtime.live.recording.sightings import Verdict
from polypstream.realtime.live.viewers.alerts import AlertConfig
from polypstream.realtime.live.viewers.viewer import (
    Action,
    Command,
    ExportReview,
    LiveStatistics,
    Review,
    SetThreshold,
)
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.frame import Frame
from polypstream.realtime.video.resize import ScreenScaler, fitted
from polypstream.realtime.video.rotation import Rotation, rotation_of

_MOST_PIXELS = 1e5
LONGEST_NOTE = 1000
"""Characters of a note about a sighting."""
_ACTIONS = {action.value: action for action in Action if action is not Action.QUIT}
"""Actions available on the page: all except ending the session, which is up to the user who started it."""


class FrameMessages:
    """Creates the messages of frames; for use in one thread.

    Images are sent upright and without markers, which are sent as contours. Images may be scaled down. JPEG implies
    full-range BT.601, so images are converted through RGB, as swscale would do anyway.
    """

    def __init__(self, *, max_width: int, quality: int) -> None:
        self._most = max_width, max_width
        self._screen = ScreenScaler(pixel_format="bgr24")
        self._options = [cv2.IMWRITE_JPEG_QUALITY, quality]
        self._content = ContentBox()

    def of_frame(self, shown: DisplayFrame, statistics: LiveStatistics, *, video_stamp: int | None = None) -> bytes:
        """Create the message for a frame with its markers, status and statistics.

        Args:
            shown: The frame.
            statistics: Current measurements.
            video_stamp: Time stamp of the frame in the WebRTC stream, for a message without image.
        """
        picture, rotation = shown.frame.picture, rotation_of(shown.frame)
        jpeg = b""
        if video_stamp is None or self._content.is_due(shown.frame.captured_at):
            small = self._screen.scale(picture, fitted((picture.width, picture.height), self._most))
            image = rotation.image(small.to_ndarray())
            self._content.of(image, at_s=shown.frame.captured_at)
            if video_stamp is None:
                jpeg = cv2.imencode(".jpg", image, self._options)[1].tobytes()
        header = {
            **_placed(shown.frame, rotation),
            **_light(shown.status),
            "content": self._content.box,
            **({} if video_stamp is None else {"video_stamp": video_stamp}),
            "inference_age_s": shown.inference_age_s,
            "markers": [_outlined(marker, picture, rotation) for marker in shown.markers],
            "statistics": asdict(statistics),
        }
        return _packed(header, jpeg)

    def of_status(self, status: Status, statistics: LiveStatistics) -> bytes:
        """Create the message with the status while there is no frame."""
        return _packed({**_light(status), "statistics": asdict(statistics)})


class ContentBox:
    """The part of the frame with the endoscope's picture; measured now and then, and only ever changed noticeably.

    It grows at once, so that nothing is cut off, and shrinks only after `STEADY_S`, so that dark frames change nothing.
    """

    EVERY_S = 0.5
    STEADY_S = 3.0
    _NOTICEABLE = 0.02

    def __init__(self) -> None:
        self._box: tuple[float, float, float, float] | None = None
        self._measured_s = self._smaller_since_s = float("-inf")
        self._shape: tuple[int, ...] = ()

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The newest result; None before the first."""
        return self._box

    def is_due(self, at_s: float) -> bool:
        """Whether a frame of this time should be measured."""
        return self._box is None or not 0 <= at_s - self._measured_s < self.EVERY_S

    def of(self, image: Bgr, *, at_s: float) -> tuple[float, float, float, float]:
        """Return left, top, width and height as shares of an upright image, uint8 (H, W, 3), captured at this time."""
        if self._box is not None and image.shape == self._shape and 0 <= at_s - self._measured_s < self.EVERY_S:
            return self._box
        crop, (height, width) = crop_of_area(content_area(image)), image.shape[:2]
        found = crop.left / width, crop.top / height, crop.width / width, crop.height / height
        is_new, self._shape, self._measured_s = image.shape != self._shape, image.shape, at_s
        if self._box is None or is_new:
            self._box = found
        elif _exceeds(found, self._box, self._NOTICEABLE):
            self._box, self._smaller_since_s = _union(found, self._box), at_s
        elif not _exceeds(self._box, found, self._NOTICEABLE):
            self._smaller_since_s = at_s
        elif at_s - self._smaller_since_s >= self.STEADY_S:
            self._box = found
        return self._box


def _exceeds(one: tuple[float, ...], other: tuple[float, ...], by: float) -> bool:
    """Whether a box reaches beyond another one by more than a share of the frame."""
    ends = one[0] + one[2] - other[0] - other[2], one[1] + one[3] - other[1] - other[3]
    return max(other[0] - one[0], other[1] - one[1], *ends) > by


def _union(one: tuple[float, ...], other: tuple[float, ...]) -> tuple[float, float, float, float]:
    left, top = min(one[0], other[0]), min(one[1], other[1])
    right, bottom = max(one[0] + one[2], other[0] + other[2]), max(one[1] + one[3], other[1] + other[3])
    return left, top, right - left, bottom - top


def greeting(
    style: MarkerStyle,
    *,
    lost_after_s: float,
    may_control: bool = True,
    alerts: AlertConfig | None = None,
    session: str = "",
    source: str = "",
    share: str | None = None,
    has_video: bool = False,
) -> str:
    """Create the first message to a viewer.

    Args:
        style: Appearance of the markers.
        lost_after_s: Timeout of the feed.
        may_control: Whether the viewer may control.
        alerts: Default alerts.
        session: Label of the session.
        source: Name of the source.
        has_video: Whether H.264 over WebRTC is offered.
        share: Address to watch on another screen, if there is one and the viewer may know it.
    """
    values = {
        "style": asdict(style),
        "lost_after_s": lost_after_s,
        "may_control": may_control,
        "alerts": asdict(alerts or AlertConfig()),
        "session": session,
        "source": source,
        "share": share,
        "has_video": has_video,
    }
    return json.dumps({"kind": "greeting", **values})


def pong(sent_ms: float, *, now_s: float) -> str:
    """Create the reply to a ping, from which a viewer computes the offset between the clocks."""
    return json.dumps({"kind": "pong", "sent_ms": sent_ms, "now_s": now_s})


@dataclass(frozen=True, kw_only=True)
class Ping:
    """A viewer requests the server's time."""

    sent_ms: float
    """Time of the viewer's clock."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A viewer has processed a message, and drawn its frame unless a newer one had arrived."""

    video_delay_s: float | None
    """Delay from capture until the frame was drawn, by the server's clock."""
    marker_delay_s: float | None
    """Delay from the capture of the newest inferred frame until its markers were drawn."""


@dataclass(frozen=True, kw_only=True)
class VideoOffer:
    """A viewer asks for H.264 over WebRTC."""

    sdp: str


@dataclass(frozen=True, kw_only=True)
class VideoEnd:
    """A viewer returns to JPEG."""


Reply = Ping | Drawn | VideoOffer | VideoEnd | Command


def reply_from_text(text: str) -> Reply:
    """Parse a message from a viewer; raises `ConfigError` for anything that the page would not send."""
    try:
        values = json.loads(text)
        match values:
            case {"kind": "ping", "sent_ms": sent_ms}:
                return Ping(sent_ms=_number(sent_ms))
            case {"kind": "drawn"}:
                return Drawn(
                    video_delay_s=_delay(values, "video_delay_s"), marker_delay_s=_delay(values, "marker_delay_s")
                )
            case {"kind": "video", "sdp": str(sdp)}:
                return VideoOffer(sdp=sdp)
            case {"kind": "no_video"}:
                return VideoEnd()
            case {"kind": "threshold", "value": value}:
                return SetThreshold(value=_number(value))
            case {"kind": "command", "action": str(action)} if action in _ACTIONS:
                return _ACTIONS[action]
            case {"kind": "review", "number": int(number), "verdict": str(verdict)} if verdict in set(Verdict):
                contour, note = _contour(values.get("points")), _note(values.get("note"))
                return Review(number=number, verdict=Verdict(verdict), contour=contour, note=note)
            case {"kind": "export", "formats": [*names]}:
                return ExportReview(formats=formats_from(str(name)[:20] for name in names))
    except (ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"the viewer sent {text[:80]!r} ({error}); reload the page") from None
    raise ConfigError(f"the viewer sent {text[:80]!r}, which is not a known message; reload the page")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _contour(points: object) -> Contour | None:
    """Parse x, y, x, y, …; None stays None."""
    if points is None:
        return None
    if not isinstance(points, list) or len(points) < 6 or len(points) % 2:
        raise ValueError("a contour needs at least three points")
    values = [_number(value) for value in points]
    if max(abs(value) for value in values) > _MOST_PIXELS:
        raise ValueError(f"a contour reaches beyond {_MOST_PIXELS:g} pixels")
    return np.array(values, np.float32).reshape(-1, 2)


def _note(text: object) -> str | None:
    """Parse a note, on one line; None stays None."""
    if text is None:
        return None
    if not isinstance(text, str) or len(text) > LONGEST_NOTE:
        raise ValueError(f"a note is text of at most {LONGEST_NOTE} characters")
    return " ".join(text.split())


def _delay(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else _number(value)


def _placed(frame: Frame, rotation: Rotation) -> dict[str, object]:
    """Describe the frame: number, time, and dimensions when upright, in pixels of the source."""
    width, height = rotation.size(frame.picture.width, frame.picture.height)
    aspect = frame.sample_aspect_ratio
    return {
        "index": frame.index,
        "captured_at_s": frame.captured_at,
        "width": width,
        "height": height,
        "aspect": float(1 / aspect if rotation.swaps_axes else aspect),
    }


def _light(status: Status) -> dict[str, object]:
    return {"light": status.light.value, "reason": status.reason}


def _outlined(marker: Marker, picture: av.VideoFrame, rotation: Rotation) -> dict[str, object]:
    """Describe a marker: its contour in pixels of the upright frame, as x, y, x, y, …"""
    contour = rotation.contour(marker.polyp.contour, width=picture.width, height=picture.height)
    points = [round(value, 1) for value in contour.ravel().tolist()]
    return {"identity": marker.identity, "opacity": round(marker.opacity, 3), "points": points}


def _packed(header: Mapping[str, Any], jpeg: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, jpeg))
