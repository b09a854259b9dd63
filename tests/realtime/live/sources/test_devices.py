"""Capture devices are listed; the error for a missing one names those that are connected."""

import os
import struct
from pathlib import Path

import pytest

from polypstream.errors import ConfigError
from polypstream.realtime.live.sources import SourceConfig, source_from_address
from polypstream.realtime.live.sources.device import (
    CaptureDevice,
    capability_of,
    capture_devices,
    format_of,
    missing,
)
from polypstream.realtime.live.sources.source import ConnectionStatus
from tests.realtime.live.feeds import Playback, wait_until

pytestmark = pytest.mark.realtime


def test_a_missing_camera_is_named_with_what_to_do_instead() -> None:
    source = source_from_address("/dev/video97", SourceConfig())
    with Playback(source):
        wait_until(lambda: source.state.status is ConnectionStatus.LOST)
        assert source.state.reason.startswith("there is no camera /dev/video97")
    assert "video file" in missing("/dev/video97", [])
    webcam = CaptureDevice(path="/dev/video0", name="HD Webcam")
    assert missing("/dev/video97", [webcam]).endswith("connected: /dev/video0 (HD Webcam)")


def test_other_devices_are_reported_as_such(tmp_path: Path) -> None:
    (tmp_path / "video0").touch()
    (tmp_path / "video-notes").touch()
    names = tmp_path / "sys"
    (names / "video0").mkdir(parents=True)
    (names / "video0" / "name").write_text("HD Webcam\n")
    (found,) = capture_devices(tmp_path, names)
    assert (found.path, found.name, found.formats) == (str(tmp_path / "video0"), "HD Webcam", ())
    assert "is not a capture device" in found.problem


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_camera_without_permission_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "video0").touch(mode=0)
    (found,) = capture_devices(tmp_path, tmp_path)
    assert "usermod -aG video" in found.problem


def test_without_cameras_none_are_listed(tmp_path: Path) -> None:
    assert capture_devices(tmp_path, tmp_path) == []


@pytest.mark.parametrize(
    ("whole", "node", "captures"),
    [
        (0x84A00001, 0x04200001, True),
        (0x84A00001, 0x04A00000, False),
        (0x05200001, 0, True),
        (0x84201000, 0x1000, True),
    ],
    ids=["webcam", "metadata_node", "old_driver", "multiplanar"],
)
def test_a_node_that_cannot_capture_is_distinguished_from_one_that_can(whole: int, node: int, captures: bool) -> None:
    answer = struct.pack("=16s32s32sIII12x", b"uvcvideo", b"HD Webcam", b"usb-1", 0x60000, whole, node)
    assert capability_of(answer) == ("HD Webcam", captures)


def test_formats_are_named_as_the_driver_does() -> None:
    answer = struct.pack("=III32s4sI12x", 0, 1, 1, b"Motion-JPEG", b"MJPG", 0)
    assert format_of(answer) == "Motion-JPEG (MJPG)"


@pytest.mark.parametrize(
    "scheme", ["rtmp", "rtmps", "rist", "zmq", "amqp", "sctp", "whip", "whep", "ndi", "mms", "dtls"]
)
def test_protocols_that_cannot_work_are_refused_with_a_way_around_them(scheme: str) -> None:
    with pytest.raises(ConfigError, match=rf"{scheme}:// is not supported; relay it with: ffmpeg -i .*udp://@:5000"):
        source_from_address(f"{scheme}://nurse:secret@host/app")


@pytest.mark.parametrize("scheme", ["sftp", "smb", "nfs", "file"])
def test_files_of_other_machines_are_to_be_mounted(scheme: str) -> None:
    with pytest.raises(ConfigError, match="mount its folder"):
        source_from_address(f"{scheme}://host/clip.mp4")
