"""What the page's server and its viewers say to each other over the socket.

To a viewer goes one binary message a frame: the length of a JSON header (uint32, big-endian), the header, and the
picture as JPEG, or nothing where there is no picture. Everything else is JSON text.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import av
import cv2

from polypstream.errors import ConfigError
from polypstream.realtime.frame import Frame
from polypstream.realtime.live.shown import LiveFrame, Marker, Status
from polypstream.realtime.live.turn import Turn, turn_of
from polypstream.realtime.live.viewers.picture import ScreenPicture, fitted
from polypstream.realtime.live.viewing import Action, Command, Gauges, SetThreshold
from polypstream.realtime.overlay import MarkerStyle

_ACTIONS = {action.value: action for action in Action if action is not Action.QUIT}
"""What the page may ask for: all but to end the session, which is for whoever has started it."""


class FrameMessages:
    """Makes the messages of frames; for one thread.

    The picture is sent as it came, but for its size, and upright: markers travel beside it. JPEG knows the full range
    of BT.601 only, so the picture goes by way of RGB, which is where swscale would take it as well.
    """

    def __init__(self, *, max_width: int, quality: int) -> None:
        self._most = max_width, max_width
        self._screen = ScreenPicture(pixel_format="bgr24")
        self._options = [cv2.IMWRITE_JPEG_QUALITY, quality]

    def of_frame(self, shown: LiveFrame, gauges: Gauges) -> bytes:
        """A frame with all that belongs to it."""
        picture, turn = shown.frame.picture, turn_of(shown.frame)
        small = self._screen.of(picture, fitted((picture.width, picture.height), self._most))
        _, jpeg = cv2.imencode(".jpg", turn.image(small.to_ndarray()), self._options)
        header = {
            **_placed(shown.frame, turn),
            **_told(shown.status),
            "evidence_age_s": shown.evidence_age_s,
            "markers": [_outlined(marker, picture, turn) for marker in shown.markers],
            "gauges": asdict(gauges),
        }
        return _packed(header, jpeg.tobytes())

    def of_status(self, status: Status) -> bytes:
        """How things stand without a frame."""
        return _packed(_told(status))


def greeting(style: MarkerStyle, *, lost_after_s: float) -> str:
    """The first message to a viewer: how to draw, and when to give the picture up."""
    return json.dumps({"kind": "greeting", "style": asdict(style), "lost_after_s": lost_after_s})


def pong(sent_ms: float, *, now_s: float) -> str:
    """The answer to a ping, from which a viewer works out how its clock and ours differ."""
    return json.dumps({"kind": "pong", "sent_ms": sent_ms, "now_s": now_s})


@dataclass(frozen=True, kw_only=True)
class Ping:
    """A viewer wants to know our time."""

    sent_ms: float
    """By its own clock."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A viewer has done with one message, and drawn its frame unless a newer one had come."""

    video_delay_s: float | None
    """From capture to the moment of drawing, by our clock."""
    marker_delay_s: float | None
    """From the capture of the newest frame judged to the moment its markers were drawn."""


Reply = Ping | Drawn | Command


def reply_from_text(text: str) -> Reply:
    """Read what a viewer says; raises `ConfigError` for anything that our page would not send."""
    try:
        values = json.loads(text)
        match values:
            case {"kind": "ping", "sent_ms": sent_ms}:
                return Ping(sent_ms=_number(sent_ms))
            case {"kind": "drawn"}:
                return Drawn(
                    video_delay_s=_delay(values, "video_delay_s"), marker_delay_s=_delay(values, "marker_delay_s")
                )
            case {"kind": "threshold", "value": value}:
                return SetThreshold(value=_number(value))
            case {"kind": "command", "action": str(action)} if action in _ACTIONS:
                return _ACTIONS[action]
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the viewer sent {text[:80]!r} ({error}); reload the page") from None
    raise ConfigError(f"the viewer sent {text[:80]!r}, which means nothing here; reload the page")


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is no finite number")
    return float(value)


def _delay(values: Mapping[str, object], name: str) -> float | None:
    value = values.get(name)
    return None if value is None else _number(value)


def _placed(frame: Frame, turn: Turn) -> dict[str, object]:
    """The frame's number, its time, and its shape when upright, in pixels of the source."""
    width, height = turn.size(frame.picture.width, frame.picture.height)
    aspect = frame.sample_aspect_ratio
    return {
        "index": frame.index,
        "captured_at_s": frame.captured_at,
        "width": width,
        "height": height,
        "aspect": float(1 / aspect if turn.swaps_axes else aspect),
    }


def _told(status: Status) -> dict[str, object]:
    return {"light": status.light.value, "reason": status.reason}


def _outlined(marker: Marker, picture: av.VideoFrame, turn: Turn) -> dict[str, object]:
    """A marker's contour in pixels of the upright frame, as x, y, x, y, …"""
    contour = turn.contour(marker.polyp.contour, width=picture.width, height=picture.height)
    points = [round(value, 1) for value in contour.ravel().tolist()]
    return {"identity": marker.identity, "opacity": round(marker.opacity, 3), "points": points}


def _packed(header: Mapping[str, Any], jpeg: bytes = b"") -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "big"), text, jpeg))
