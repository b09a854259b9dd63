"""The virtual camera shows each frame with its markers; without one, the error says how to get one."""

import sys
import threading
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from time import sleep
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.errors import ConfigError, MissingExtraError, OutputError
from polypstream.realtime.live.display_frame import Light, Status
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.realtime.live.viewers.virtual_camera import VirtualCamera, VirtualCameraConfig
from tests.live_frames import live_frame, marker

pyvirtualcam = pytest.importorskip("pyvirtualcam", reason="needs the extra [camera]")
STATISTICS = LiveStatistics(operating_point="sensitive", threshold=0.5)


class Screen:
    """A pyvirtualcam backend that records the frames it receives."""

    opened: list[tuple[int, int]]
    sent: list[NDArray[np.uint8]]
    closed: int

    def __init__(self, width: int, height: int, **_: Any) -> None:
        if width > 1000:
            raise RuntimeError("too wide\nfor this screen")
        Screen.opened.append((width, height))

    def send(self, frame: NDArray[np.uint8]) -> None:
        Screen.sent.append(frame.copy())

    def close(self) -> None:
        Screen.closed += 1

    def device(self) -> str:
        return "screen"

    def native_fourcc(self) -> None:
        return None


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Screen]:
    (tmp_path / "video7").mkdir()
    monkeypatch.setattr("polypstream.realtime.live.viewers.virtual_camera._DEVICES", tmp_path)
    monkeypatch.setattr("pyvirtualcam.camera.BACKENDS", {"screen": Screen})
    Screen.opened, Screen.sent, Screen.closed = [], [], 0
    return Screen


def show(camera: VirtualCamera, screen: type[Screen], *frames: Any) -> None:
    """Show frames one by one, each when the one before has been sent."""
    for frame in frames:
        count = len(screen.sent)
        camera.show(frame, STATISTICS)
        while len(screen.sent) == count:
            sleep(0.001)


@pytest.mark.parametrize("pixel_format", ["yuv420p", "nv12", "bgr24", "yuyv422"])
def test_frames_are_sent_with_their_markers_and_stay_untouched(screen: type[Screen], pixel_format: str) -> None:
    before = set(threading.enumerate())
    plain, with_marker = (live_frame(0, markers=m, pixel_format=pixel_format) for m in ((), (marker(),)))
    with VirtualCamera(on_stopped=pytest.fail) as camera:
        show(camera, screen, plain, with_marker, plain)
        camera.tell(Status(light=Light.LOST), STATISTICS)
    first, marked, last = screen.sent
    assert first.shape == (48 * 64 * 3,)
    assert (first != marked).any()
    np.testing.assert_array_equal(first, last)
    assert screen.opened == [(64, 48)]
    assert screen.closed == 1
    assert set(threading.enumerate()) <= before


def test_a_change_of_size_reopens_it(screen: type[Screen]) -> None:
    with VirtualCamera(on_stopped=pytest.fail) as camera:
        show(camera, screen, live_frame(0), live_frame(1, size=(128, 96)))
    assert screen.opened == [(64, 48), (128, 96)]
    assert screen.closed == 2


def test_its_pixels_are_square_for_any_feed(screen: type[Screen]) -> None:
    item = live_frame(0, markers=(marker(),))
    narrow = replace(item, frame=replace(item.frame, sample_aspect_ratio=Fraction(4, 3)))
    with VirtualCamera(on_stopped=pytest.fail) as camera:
        show(camera, screen, item, narrow)
    assert screen.opened == [(64, 48), (85, 48)]
    square, stretched = (sent.reshape(48, -1, 3) for sent in screen.sent)
    wide = cv2.resize(square, (85, 48), interpolation=cv2.INTER_CUBIC)
    assert np.median(abs(wide.astype(int) - stretched)) < 3


def test_a_camera_that_cannot_be_opened_is_reported_once_and_raises_nothing(screen: type[Screen]) -> None:
    reported: list[str] = []
    with VirtualCamera(on_stopped=reported.append) as camera:
        for index in range(3):
            camera.show(live_frame(index, size=(1280, 720)), STATISTICS)
            sleep(0.05)
    assert len(reported) == 1
    assert reported[0].startswith(
        "no virtual camera of 1280x720 can be opened ('screen' backend: too wide); load its driver"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="v4l2loopback is Linux's")
def test_without_a_device_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polypstream.realtime.live.viewers.virtual_camera._DEVICES", tmp_path)
    with pytest.raises(OutputError, match="sudo modprobe v4l2loopback"):
        VirtualCamera(on_stopped=pytest.fail)
    with pytest.raises(OutputError, match="there is no device /dev/video99"):
        VirtualCamera(VirtualCameraConfig(device="/dev/video99"), on_stopped=pytest.fail)
    with pytest.raises(ConfigError, match="rate is 0"):
        VirtualCameraConfig(fps=0)


def test_without_the_extra_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(MissingExtraError, match=r"\[camera\]'"):
        VirtualCamera(on_stopped=pytest.fail)
