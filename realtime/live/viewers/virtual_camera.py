"""Virtual camera: the feed with markers, for OBS and meetings; requires `[camera]` and, on Linux, v4l2loopback."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from av.video.reformatter import VideoReformatter

from polypstream.arrays import Rgb
from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.files import OnStopped
from polypstream.realtime.live.display_frame import DisplayFrame, Status, drawable, marked
from polypstream.realtime.live.recording.background import Background
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.realtime.outlines.drawing import MarkerStyle
from polypstream.realtime.video.color import scaler_matrix
from polypstream.realtime.video.rotation import rotation_of

if TYPE_CHECKING:
    from pyvirtualcam import Camera  # type: ignore[import-untyped, import-not-found, unused-ignore]

_DEVICES = Path("/sys/devices/virtual/video4linux")
_FIX = "load its driver with: sudo modprobe v4l2loopback exclusive_caps=1 card_label=polypstream"


@dataclass(frozen=True, kw_only=True)
class VirtualCameraConfig:
    """Device and frame rate of the virtual camera."""

    device: str | None = None
    """Device node such as `/dev/video7`; None for the first free one."""
    fps: float = 30.0
    """Frame rate reported to other programs; frames are sent as they arrive."""
    style: MarkerStyle = field(default_factory=MarkerStyle)

    def __post_init__(self) -> None:
        if not 0 < self.fps <= 240:
            raise ConfigError(f"the camera's rate is {self.fps:g}; use more than 0 and at most 240 frames per second")


class VirtualCamera(Background[DisplayFrame]):
    """A viewer that other programs see as a camera. It sends the newest frame from its own thread.

    Use as a context manager. If it fails later on, `on_stopped` is called once with the reason, and nothing raises.

    Raises:
        MissingExtraError: pyvirtualcam is not installed.
        OutputError: There is no virtual camera.
    """

    def __init__(self, config: VirtualCameraConfig | None = None, *, on_stopped: OnStopped) -> None:
        try:
            import pyvirtualcam  # noqa: F401
        except ImportError:
            raise MissingExtraError("a virtual camera", "camera") from None
        self._config = config or VirtualCameraConfig()
        _check_device(self._config.device)
        super().__init__("virtual-camera", capacity=1, on_stopped=on_stopped)

    def show(self, shown: DisplayFrame, statistics: LiveStatistics) -> None:
        """Send a frame."""
        self._give(shown)

    def tell(self, status: Status, statistics: LiveStatistics) -> None:
        """Do nothing: a camera cannot show a status, so its last frame stays."""

    def _work(self, items: Iterator[DisplayFrame]) -> None:
        reformatter = VideoReformatter()
        with ExitStack() as open_camera:
            camera: Camera | None = None
            for item in items:
                picture = marked(drawable(item.frame.picture), item.markers, self._config.style)
                width, height = item.frame.square_size
                shown = reformatter.reformat(picture, width, height, "rgb24", src_colorspace=scaler_matrix(picture))
                rgb: Rgb = rotation_of(item.frame).image(shown.to_ndarray())
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
            raise OutputError(f"no virtual camera of {width}x{height} can be opened ({reason}); {_FIX}") from None


def _check_device(device: str | None) -> None:
    """Check on Linux that the device, or any virtual camera, exists."""
    if not sys.platform.startswith("linux"):
        return
    if device is not None and not Path(device).exists():
        raise OutputError(f"there is no device {device}; {_FIX}")
    if device is None and not any(_DEVICES.glob("video*")):
        raise OutputError(f"there is no virtual camera on this machine; {_FIX}")
