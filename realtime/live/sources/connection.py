"""Connections: opening and reading a source, and the cancellation that interrupts both."""

import os
import select
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from threading import Lock
from types import TracebackType
from typing import Any, Protocol, Self

import av
from av.container import InputContainer
from av.logging import Capture
from av.stream import Disposition
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.video.decoding import VideoPacket


class Cancelled(Exception):  # noqa: N818 - not an error
    """Raised in a waiting thread when it should stop."""


class Cancellation:
    """Cancels waiting operations; can be set once, from any thread. A context manager that owns a file descriptor."""

    def __init__(self) -> None:
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = Lock()
        self._is_cancelled = self._is_closed = False

    @property
    def is_cancelled(self) -> bool:
        """Whether it has been cancelled."""
        return self._is_cancelled

    def cancel(self) -> None:
        """Wake all current and future waiting threads."""
        with self._lock:
            self._is_cancelled = True
            if not self._is_closed:
                os.eventfd_write(self._event, 1)

    def wait(self, seconds: float) -> None:
        """Wait for a number of seconds; raises `Cancelled` immediately when cancelled."""
        self._poll([], seconds)

    def wait_ready(self, descriptor: int, events: int, timeout_s: float | None) -> None:
        """Wait for `select.poll` events on a descriptor; raises `Cancelled`, or `TimeoutError` after the timeout."""
        if not self._poll([(descriptor, events)], timeout_s):
            raise TimeoutError

    def _poll(self, wanted: list[tuple[int, int]], timeout_s: float | None) -> bool:
        poll = select.poll()
        for descriptor, events in [(self._event, select.POLLIN), *wanted]:
            poll.register(descriptor, events)
        ready = poll.poll(None if timeout_s is None else max(timeout_s, 0) * 1000)
        if self._is_cancelled:
            raise Cancelled
        return bool(ready)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_closed = True
            os.close(self._event)


OPTIONS: Mapping[str, str] = {"fpsprobesize": "0"}
"""Otherwise FFmpeg waits for 20 frames to estimate the rate. Not "nobuffer", which drops the first keyframe."""

MICROSECONDS = 1_000_000
_TEXT = frozenset({"tty", "ansi"})
"""FFmpeg would render any text as video of a terminal."""
BUFFER = 1 << 16
"""Bytes that FFmpeg requests from a Python file object at a time; datagrams are never longer."""


class Connection(Protocol):
    """An open stream, as a context manager. Everything except `close` is used by one thread at a time."""

    @property
    def stream(self) -> VideoStream:
        """The stream to decode."""
        ...

    @property
    def is_file(self) -> bool:
        """Whether the packets are those of a file, delivered at the pace of its decoding times."""
        ...

    def packets(self) -> Iterator[VideoPacket]:
        """Yield the packets as soon as they arrive.

        Returns at the end of a source that has an end. If the connection is lost, it raises `Cancelled`, `OSError` or
        `av.FFmpegError`.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


Feed = Callable[[Cancellation], Connection]
"""Opens a connection; `Cancellation` interrupts it, also while opening. Raises like `Connection.packets`."""


class ContainerConnection:
    """A connection based on an open PyAV container.

    Args:
        container: The open container, which the connection closes.
        cancellation: Interrupts reading.
        stream: The stream to decode; None: the main video stream.
        resources: Closed after the container.
        wait: Called before each packet, for containers whose reading cannot be interrupted.
    """

    is_file = False

    def __init__(
        self,
        container: InputContainer,
        cancellation: Cancellation,
        *,
        stream: VideoStream | None = None,
        resources: ExitStack | None = None,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._container, self._cancellation, self._wait = container, cancellation, wait
        self._resources = resources or ExitStack()
        try:
            self.stream = stream or video_of(container)
        except SourceError:
            self.__exit__(None, None, None)
            raise

    def packets(self) -> Iterator[VideoPacket]:
        """Yield packets until the connection is lost; the end of a live stream counts as a lost connection."""
        yield from packets_of(self._container, self.stream, self._cancellation, self._wait)
        raise SourceError("the stream has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            self._container.close()


def open_quietly(file: Any, options: Mapping[str, str], **arguments: Any) -> InputContainer:  # noqa: ANN401
    """Call `av.open` without FFmpeg's log output, which may contain passwords in addresses."""
    with Capture():
        container: InputContainer = av.open(
            file, "r", options={**OPTIONS, **options}, metadata_errors="replace", **arguments
        )
    if container.format.name in _TEXT:
        container.close()
        raise SourceError("the received data is text, not video")
    return container


def packets_of(
    container: InputContainer, stream: VideoStream, cancellation: Cancellation, wait: Callable[[], None] = lambda: None
) -> Iterator[VideoPacket]:
    """Yield the packets of one stream until the end of the container, calling `wait` before each.

    Raises `Cancelled`, `SourceError`, `av.FFmpegError`, and the errors of `wait`.
    """
    demuxed = container.demux(stream)
    while True:
        wait()
        try:
            with Capture():
                packet = next(demuxed, None)
        except IndexError:  # PyAV only knows the initial streams; damaged tables may announce others
            raise SourceError("the stream has changed") from None
        if cancellation.is_cancelled:
            raise Cancelled
        if packet is None:
            return
        if packet.size:  # otherwise it is PyAV's end marker, or means "repeat the image"
            yield packet


def video_of(container: InputContainer) -> VideoStream:
    """Return the stream to decode; raises `SourceError` if there is none."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        what = "a codec that FFmpeg cannot decode" if videos else "no video"
        raise SourceError(f"the stream contains {what}")
    best = container.streams.best("video")
    return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])
