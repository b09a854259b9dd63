"""Relayed packets: the session's end of the process that sends a pushed stream."""

import json
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import av

from polypstream.errors import OutputError
from polypstream.realtime.live.outputs import relay, whip
from polypstream.realtime.live.outputs.address import WHIP, PushAddress

SERVER_S = 5
"""Seconds that a server may take to accept a connection or a packet."""
END_S = 2.0
"""Seconds that it may take to complete the stream at the end."""


class Relay:
    """Sends packets to a server through a process of its own. Use as a context manager.

    Args:
        address: Where to send them.

    Raises:
        OutputError: The folder for HLS cannot be created.
    """

    def __init__(self, address: PushAddress) -> None:
        self._label = address.label
        if address.folder is not None:
            try:
                address.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{address.label} cannot be created: {error.strerror}") from error
        self._process = subprocess.Popen(
            [sys.executable, "-m", (whip if address.format == WHIP else relay).__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        target = {
            "url": address.url,
            "format": address.format,
            "options": dict(address.options),
            "token": address.token,
            "timeout_s": SERVER_S,
        }
        self._write(json.dumps(target).encode() + b"\n")

    def start(self, first: "av.Packet[Any]") -> None:
        """Connect, and send the first packet, a key frame; its times are in milliseconds.

        Raises:
            OutputError: The server does not accept the stream.
        """
        self.send(first)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode().strip()
        if line != relay.READY:
            raise self._failed(line)

    def send(self, packet: "av.Packet[Any]") -> None:
        """Send a packet; waits for a server that is slow, up to a limit.

        Raises:
            OutputError: The server no longer accepts the stream.
        """
        data, pts = bytes(packet), packet.pts or 0
        dts = pts if packet.dts is None else packet.dts
        self._write(relay.HEAD.pack(pts, dts, packet.is_keyframe, len(data)) + data)

    def kill(self) -> None:
        """End the process immediately; may be called from any thread."""
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except BrokenPipeError:
            assert self._process.stdout is not None
            lines = self._process.stdout.read().decode().split("\n")
            raise self._failed(next((line for line in lines if line not in {"", relay.READY}), "")) from None

    def _failed(self, reason: str) -> OutputError:
        if not reason and self._process.wait() == -signal.SIGALRM:
            reason = f"the server did not respond within {SERVER_S} s"
        return OutputError(f"{self._label}: {reason or 'the stream was interrupted'}")
