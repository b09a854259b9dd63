"""One connection to a source: from its opening to its end, its video packets as they arrive."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol, Self

import av
from av.container import InputContainer
from av.logging import Capture
from av.stream import Disposition
from av.video.stream import VideoStream

from polypstream.errors import SourceError
from polypstream.realtime.decoding import VideoPacket
from polypstream.realtime.live.sources.halt import Halt, Halted

OPTIONS: Mapping[str, str] = {"fpsprobesize": "0"}
"""Else FFmpeg waits for twenty frames to guess the rate. Its "nobuffer" is no help: it loses the first keyframe."""

MICROSECONDS = 1_000_000
BUFFER = 1 << 16
"""Bytes that FFmpeg asks a file of ours for at once; no datagram is longer."""


class Connection(Protocol):
    """A context manager around an open stream. Everything but `close` is used by one thread at a time."""

    @property
    def stream(self) -> VideoStream:
        """The stream that is decoded."""
        ...

    def packets(self) -> Iterator[VideoPacket]:
        """The packets, each as soon as it is there.

        Returns at the end of what has one. Raises `Halted`, `OSError` or `av.FFmpegError` when the line is lost.
        """
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


Feed = Callable[[Halt], Connection]
"""Opens a connection; setting the `Halt` ends it, and its opening. Raises as `Connection.packets` does."""


class ContainerConnection:
    """A connection over a container that PyAV has opened.

    `stream` is its main video where not given; `resources` are closed after it; `wait` is called before each packet
    is read, where reading cannot be woken.
    """

    def __init__(
        self,
        container: InputContainer,
        halt: Halt,
        *,
        stream: VideoStream | None = None,
        resources: ExitStack | None = None,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._container, self._halt, self._wait = container, halt, wait
        self._resources = resources or ExitStack()
        try:
            self.stream = stream or video_of(container)
        except SourceError:
            self.__exit__(None, None, None)
            raise

    def packets(self) -> Iterator[VideoPacket]:
        """The packets until the line is lost; a live stream that says it ends is lost too."""
        yield from packets_of(self._container, self.stream, self._halt, self._wait)
        raise SourceError("the stream has ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._resources:
            self._container.close()


def open_quietly(file: Any, options: Mapping[str, str], **arguments: Any) -> InputContainer:  # noqa: ANN401
    """`av.open`, with what FFmpeg logs meanwhile thrown away: it names addresses with their passwords."""
    with Capture():
        container: InputContainer = av.open(
            file, "r", options={**OPTIONS, **options}, metadata_errors="replace", **arguments
        )
    return container


def packets_of(
    container: InputContainer, stream: VideoStream, halt: Halt, wait: Callable[[], None] = lambda: None
) -> Iterator[VideoPacket]:
    """The packets of one stream up to the end of the container, each after a `wait` for it.

    Raises `Halted`, `SourceError`, `av.FFmpegError`, and what `wait` raises.
    """
    demuxed = container.demux(stream)
    while True:
        wait()
        try:
            with Capture():
                packet = next(demuxed, None)
        except IndexError:  # PyAV knows only the streams of the beginning; damaged tables may announce others
            raise SourceError("the stream has changed") from None
        if halt.is_set:
            raise Halted
        if packet is None:
            return
        if packet.size:  # else PyAV's mark of the end, or "the picture stays as it is"
            yield packet


def video_of(container: InputContainer) -> VideoStream:
    """The stream to decode. Raises `SourceError` where there is none."""
    videos = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    decodable = [stream for stream in videos if stream.codec_context is not None]
    if not decodable:
        what = "a codec that FFmpeg cannot decode" if videos else "no video"
        raise SourceError(f"the stream holds {what}")
    best = container.streams.best("video")
    return next((stream for stream in decodable if best is not None and stream.index == best.index), decodable[0])
