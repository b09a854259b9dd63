"""Capture devices that Linux offers as /dev/video*, by Video4Linux."""

import os
import select
from contextlib import suppress
from pathlib import Path

from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import Connection, ContainerConnection, Feed, open_quietly
from polypstream.realtime.live.sources.halt import Halt

_DESCRIPTORS = Path("/proc/self/fd")


def device_feed(device: str, config: SourceConfig) -> Feed:
    """A feed from a device such as /dev/video0, in the size, rate and format of the config where it names them.

    Asking a device for its next picture cannot be interrupted, so it is asked when it says that there is one.
    """

    def open_device(halt: Halt) -> Connection:
        known = descriptors_of(device)
        container = open_quietly(device, device_options(config), format="v4l2")
        opened = descriptors_of(device) - known

        def wait() -> None:
            for descriptor in opened:
                halt.until_ready(descriptor, select.POLLIN, config.watchdog_s)

        return ContainerConnection(container, halt, wait=wait)

    return open_device


def device_options(config: SourceConfig) -> dict[str, str]:
    """What FFmpeg's v4l2 input is told."""
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
