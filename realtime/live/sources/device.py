"""Linux capture devices (Video4Linux): lists the connected devices, and opens a feed from one."""

import errno
import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from av.format import ContainerFormat

from polypstream.errors import ConfigError, SourceError
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import (
    Cancellation,
    Connection,
    ContainerConnection,
    Feed,
    open_quietly,
)

_DESCRIPTORS = Path("/proc/self/fd")
DEVICES = Path("/dev")
NAMES = Path("/sys/class/video4linux")
_GST_TIMEOUT_S = 15.0
_MOST_FORMATS = 64
_CAPTURE = 1
"""V4L2_BUF_TYPE_VIDEO_CAPTURE"""
_QUERY = 0x80685600
"""VIDIOC_QUERYCAP: _IOR('V', 0, struct v4l2_capability)"""
_FORMAT = 0xC0405602
"""VIDIOC_ENUM_FMT: _IOWR('V', 2, struct v4l2_fmtdesc)"""
_CAPABILITY_LAYOUT = "=16s32s32sIII12x"
"""driver, card, bus, version, capabilities, capabilities of this node"""
_FORMAT_LAYOUT = "=III32s4sI12x"
"""index, type, flags, description, four-character code, bus code"""


@dataclass(frozen=True, kw_only=True)
class CaptureDevice:
    """A video capture device of this machine."""

    path: str
    """Device node such as `/dev/video0`, to be used as the source of `polypstream live`."""
    name: str
    formats: tuple[str, ...] = ()
    """Its formats, such as "Motion-JPEG (MJPG)"; empty if it cannot be opened."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""


def capture_devices(devices: Path = DEVICES, names: Path = NAMES) -> list[CaptureDevice]:
    """List the devices that can capture video, by number.

    Args:
        devices: Folder of the device nodes.
        names: sysfs folder with their names.

    Returns:
        The devices, including those that cannot be opened.
    """
    nodes = (path for path in devices.glob("video*") if re.fullmatch(r"video\d+", path.name))
    found = (
        _described(path, names / path.name / "name") for path in sorted(nodes, key=lambda p: (len(p.name), p.name))
    )
    return [device for device in found if device is not None]


def gstreamer_devices() -> list[str]:
    """Return the names of GStreamer's video sources, including DeckLink and network cameras; empty without it."""
    monitor = shutil.which("gst-device-monitor-1.0")
    if monitor is None:
        return []
    try:
        done = subprocess.run(
            [monitor, "Video/Source"], capture_output=True, text=True, check=False, timeout=_GST_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^\s*name\s*:\s*(.+?)\s*$", done.stdout, re.MULTILINE)


def device_feed(device: str, config: SourceConfig) -> Feed:
    """Create a feed from a device such as /dev/video0, with the size, rate and format requested in the config.

    Reading a frame from a device cannot be interrupted, so it is only read once it reports that a frame is ready.

    Raises:
        ConfigError: This build of FFmpeg does not support capture devices.
    """
    try:
        ContainerFormat("v4l2", "r")
    except ValueError:
        raise ConfigError(
            f"{device} cannot be opened: this build of FFmpeg has no Video4Linux; install PyAV's official wheel: "
            "pip install --force-reinstall --only-binary av av"
        ) from None

    def open_device(cancellation: Cancellation) -> Connection:
        if not os.path.exists(device):  # noqa: PTH110 - a device may be any name that FFmpeg accepts
            raise SourceError(missing(device, capture_devices()))
        known = descriptors_of(device)
        try:
            container = open_quietly(device, device_options(config), format="v4l2")
        except OSError as error:
            raise SourceError(_unusable(device, error)) from error
        opened = descriptors_of(device) - known

        def wait() -> None:
            for descriptor in opened:
                cancellation.wait_ready(descriptor, select.POLLIN, config.watchdog_s)

        return ContainerConnection(container, cancellation, wait=wait)

    return open_device


def missing(device: str, present: Sequence[CaptureDevice]) -> str:
    """Explain in one line that a camera does not exist, and which ones do."""
    if not present:
        return f"there is no camera {device}, and no other one is connected; connect one, or give a video file"
    cameras = ", ".join(f"{each.path} ({each.name})" for each in present)
    return f"there is no camera {device}; connected: {cameras}"


def _unusable(device: str, error: OSError) -> str:
    reasons = {
        errno.EACCES: f"no permission to open {device}; sudo usermod -aG video $USER, then log in again",
        errno.EBUSY: f"{device} is in use by another program; close that program",
        errno.ENODEV: f"{device} is not a capture device, or was unplugged",
        errno.ENOTTY: f"{device} is not a capture device; polypstream live --list-devices shows them",
        errno.EINVAL: f"{device} does not have this size, rate or format; polypstream live --list-devices shows them",
    }
    return reasons.get(error.errno or 0, f"{device} cannot be opened ({error.strerror or 'unknown reason'})")


def device_options(config: SourceConfig) -> dict[str, str]:
    """The options of FFmpeg's v4l2 input."""
    options = {}
    if config.device_size is not None:
        width, height = config.device_size
        options["video_size"] = f"{width}x{height}"
    if config.device_rate is not None:
        options["framerate"] = str(config.device_rate)
    if config.device_format is not None:
        options["input_format"] = config.device_format
    return options


def descriptors_of(device: str) -> set[int]:
    """This process's open descriptors of a device."""
    wanted, found = os.path.realpath(device), set()
    for entry in _DESCRIPTORS.iterdir():
        with suppress(OSError):  # the one that lists them is gone by now
            if str(entry.readlink()) == wanted:
                found.add(int(entry.name))
    return found


def _described(path: Path, name_file: Path) -> CaptureDevice | None:
    """A device, or None for a node that cannot capture, such as the metadata node of a webcam."""
    try:
        name = name_file.read_text(encoding="utf-8").strip()
    except OSError:
        name = "unnamed"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return CaptureDevice(path=str(path), name=name, problem=_unusable(str(path), error))
    try:
        card, can_capture = capability_of(bytes(fcntl.ioctl(descriptor, _QUERY, bytes(104))))
        if not can_capture:
            return None
        return CaptureDevice(path=str(path), name=card or name, formats=tuple(_formats(descriptor)))
    except OSError as error:
        return CaptureDevice(path=str(path), name=name, problem=_unusable(str(path), error))
    finally:
        os.close(descriptor)


def _formats(descriptor: int) -> Iterator[str]:
    for index in range(_MOST_FORMATS):
        asked = struct.pack(_FORMAT_LAYOUT, index, _CAPTURE, 0, b"", b"", 0)
        try:
            yield format_of(bytes(fcntl.ioctl(descriptor, _FORMAT, asked)))
        except OSError:  # after the last
            return


def capability_of(answer: bytes) -> tuple[str, bool]:
    """Name of the device, and whether this node of it captures video, from a `struct v4l2_capability`."""
    _, card, _, _, whole, node = struct.unpack(_CAPABILITY_LAYOUT, answer)
    has_own, captures = 0x80000000, 0x00000001 | 0x00001000  # V4L2_CAP_DEVICE_CAPS, VIDEO_CAPTURE(_MPLANE)
    return _text(card), bool((node if whole & has_own else whole) & captures)


def format_of(answer: bytes) -> str:
    """Description and four-character code, from a `struct v4l2_fmtdesc`."""
    _, _, _, description, code, _ = struct.unpack(_FORMAT_LAYOUT, answer)
    return f"{_text(description)} ({_text(code).strip()})"


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace")
