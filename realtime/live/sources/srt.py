"""SRT source: uses GStreamer's `srtsrc`, because PyAV's FFmpeg is built without SRT.

GStreamer runs in a separate process with the system's Python and writes the stream to a pipe. The address is passed
through standard input, as process arguments are visible to every user of the machine.
"""

import select
import subprocess
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import SplitResult

from polypstream.errors import ConfigError, SourceError
from polypstream.realtime.live.sources.config import SourceConfig
from polypstream.realtime.live.sources.connection import BUFFER, Cancellation, Connection, Feed
from polypstream.realtime.live.sources.ffmpeg import opened_stream

PYTHON = Path("/usr/bin/python3")
"""Debian's Python, which has the GStreamer bindings."""
PACKAGES = "gstreamer1.0-plugins-bad python3-gst-1.0"
_ENDS_S = 2.0
_IMPORT = """
import sys
import gi
gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst
Gst.init(None)
"""
_PROBE = _IMPORT + 'sys.exit(Gst.ElementFactory.find("srtsrc") is None)'
_PROGRAM = (
    _IMPORT
    + """
import os, threading
address = sys.stdin.readline().strip()
pipeline = Gst.parse_launch("srtsrc name=source ! fdsink fd=1 sync=false")
source = pipeline.get_by_name("source")
source.set_property("uri", address)
if source.find_property("auto-reconnect") is not None:
    source.set_property("auto-reconnect", False)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
pipeline.set_state(Gst.State.PLAYING)
message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, Gst.MessageType.ERROR | Gst.MessageType.EOS)
if message.type == Gst.MessageType.ERROR:
    error, debug = message.parse_error()
    print(error.message, debug, file=sys.stderr, flush=True)
os._exit(1)
"""
)
_REASONS = (
    ("bad secret", "the passphrase is wrong"),
    ("unsecure", "the passphrase is missing, or the sender does not use one"),
    ("rejected", "the sender rejected the connection"),
    ("time", "there is no response from this address"),
    ("resolve", "the host name is unknown"),
)


def srt_feed(url: SplitResult, config: SourceConfig) -> Feed:
    """Create a feed from an `srt://` address; its query may contain `mode`, `passphrase`, `streamid` and `latency`.

    Raises:
        ConfigError: GStreamer's `srtsrc` is not installed.
    """
    if not is_available():
        raise ConfigError(
            f"srt:// needs GStreamer's srtsrc: sudo apt-get install {PACKAGES}; or relay the stream: srt-live-transmit "
            "ADDRESS udp://127.0.0.1:5000, then open udp://@:5000"
        )

    def open_stream(cancellation: Cancellation) -> Connection:
        with ExitStack() as resources:
            reader = resources.enter_context(SrtReader(url.geturl(), cancellation))
            return opened_stream(reader.read, cancellation, resources, config)

    return open_stream


@lru_cache(maxsize=1)
def is_available() -> bool:
    """Whether GStreamer, its Python bindings and `srtsrc` are installed on this machine."""
    if not PYTHON.exists():
        return False
    return subprocess.run([PYTHON, "-c", _PROBE], capture_output=True, check=False).returncode == 0


class SrtReader:
    """The bytes from an SRT sender, as a file for FFmpeg. A context manager that ends the GStreamer process."""

    def __init__(self, address: str, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._process = subprocess.Popen(
            [PYTHON, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # Ctrl-C is handled by the session, which ends this process itself
        )
        assert self._process.stdin is not None
        self._process.stdin.write(address.encode() + b"\n")
        self._rest = b""

    def read(self, size: int) -> bytes:
        """Read between 1 and `size` bytes.

        Raises:
            SourceError: The connection failed or ended; the message has the reason.
            Cancelled: The source is being closed.
        """
        assert self._process.stdout is not None
        if not self._rest:
            self._cancellation.wait_ready(self._process.stdout.fileno(), select.POLLIN, None)
            self._rest = self._process.stdout.read(BUFFER) or b""
        if not self._rest:
            raise SourceError(self._reason())
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def _reason(self) -> str:
        """Explain why the process ended, without GStreamer's message, which may contain the passphrase."""
        assert self._process.stderr is not None
        text = self._process.stderr.read().decode(errors="replace").lower()
        found = (reason for mark, reason in _REASONS if mark in text)
        return next(found, "the SRT connection failed" if text else "the stream has ended")

    def __enter__(self) -> "SrtReader":
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(_ENDS_S)  # it ends when its standard input is closed
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
