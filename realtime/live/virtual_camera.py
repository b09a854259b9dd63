"""The feed with its markers as a camera, for OBS and meetings: the extra `[camera]` and, on Linux, v4l2loopback."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from av.video.reformatter import VideoReformatter

from polypstream.errors import ConfigError, MissingExtraError, SinkError
from polypstream.realtime.frame import Rgb
from polypstream.realtime.live.drawing import drawable, marked
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.recording.failure import OnStopped
from polypstream.realtime.live.shown import LiveFrame, Status
from polypstream.realtime.live.turn import turn_of
from polypstream.realtime.live.viewing import Gauges
from polypstream.realtime.overlay import MarkerStyle
from polypstream.realtime.preprocess import matrix_of

if TYPE_CHECKING:
    from pyvirtualcam import Camera  # type: ignore[import-untyped, import-not-found, unused-ignore]

_DEVICES = Path("/sys/devices/virtual/video4linux")
_MEND = "load its driver with: sudo modprobe v4l2loopback exclusive_caps=1 card_label=polypstream"


@dataclass(frozen=True, kw_only=True)
class VirtualCameraConfig:
    """What the camera is."""

    device: str | None = None
    """`/dev/video7`, say; None for the first one that is free."""
    fps: float = 30.0
    """What programs are told; frames are handed on as they come."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 240:
            raise ConfigError(f"the camera's rate is {self.fps:g}; give one above 0 and up to 240 frames a second")


class VirtualCamera(Background[LiveFrame]):
    """A viewer that other programs see as a camera. A context manager; the newest frame only, in a thread of its own.

    Raises `MissingExtraError`, or `SinkError` where there is no virtual camera. Where it fails later on, `on_stopped`
    is told why, once, and nothing raises.
    """

    def __init__(self, config: VirtualCameraConfig | None = None, *, on_stopped: OnStopped) -> None:
        try:
            import pyvirtualcam  # noqa: F401
        except ImportError:
            raise MissingExtraError("a virtual camera", "camera") from None
        self._config = config or VirtualCameraConfig()
        _check_device(self._config.device)
        super().__init__("virtual-camera", capacity=1, on_stopped=on_stopped)

    def show(self, shown: LiveFrame, gauges: Gauges) -> None:
        """Hand on a frame."""
        self._give(shown)

    def tell(self, status: Status) -> None:
        """A camera has no words; its last picture stays."""

    def _work(self, items: Iterator[LiveFrame]) -> None:
        reformatter = VideoReformatter()
        with ExitStack() as open_camera:
            camera: Camera | None = None
            for item in items:
                picture = marked(drawable(item.frame.picture), item.markers, self._config.style)
                width, height = item.frame.square_size
                shown = reformatter.reformat(picture, width, height, "rgb24", src_colorspace=matrix_of(picture))
                rgb: Rgb = turn_of(item.frame).image(shown.to_ndarray())
                size = rgb.shape[1], rgb.shape[0]
                if camera is None or (camera.width, camera.height) != size:
                    open_camera.close()
                    camera = open_camera.enter_context(self._opened(*size))
                camera.send(rgb)

    def _opened(self, width: int, height: int) -> "Camera":
        from pyvirtualcam import Camera

        try:
            return Camera(width=width, height=height, fps=self._config.fps, device=self._config.device)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise SinkError(f"no virtual camera of {width}x{height} can be opened ({reason}); {_MEND}") from None


def _check_device(device: str | None) -> None:
    """On Linux, see whether there is one at all."""
    if not sys.platform.startswith("linux"):
        return
    if device is not None and not Path(device).exists():
        raise SinkError(f"there is no device {device}; {_MEND}")
    if device is None and not any(_DEVICES.glob("video*")):
        raise SinkError(f"there is no virtual camera on this machine; {_MEND}")
