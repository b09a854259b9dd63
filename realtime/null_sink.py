"""What every sink does, and the one that keeps nothing."""

import os
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av

from polypstream.realtime.frame import Frame
from polypstream.realtime.source import StreamPacket


class Sink(Protocol):
    """Anything that takes frames and copied packets: a context manager, used from one thread."""

    @property
    def path(self) -> Path:
        """The file's name once it is finished."""
        ...

    @property
    def notices(self) -> list[str]:
        """Facts for the user, one line each."""
        ...

    def prepared(self, frame: Frame) -> av.VideoFrame:
        """The frame's picture, writable and in the form in which it will be written."""
        ...

    def write(self, item: Frame | StreamPacket) -> None:
        """Write a frame as it is, or a packet of a copied stream."""
        ...

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Write a picture, such as `prepared` returns, at its own presentation time."""
        ...

    def finish(self) -> None:
        """End the output normally."""
        ...

    def abandon(self) -> None:
        """End the output early, keeping what is of use."""
        ...


class NullSink:
    """Takes everything and keeps nothing: for records alone, and for measuring all but the encoder."""

    def __init__(self) -> None:
        self.path = Path(os.devnull)
        self.notices: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def prepared(self, frame: Frame) -> av.VideoFrame:
        """The frame's own picture, writable."""
        frame.picture.make_writable()
        return frame.picture

    def write(self, item: Frame | StreamPacket) -> None:
        """Discard an item."""

    def write_picture(self, picture: av.VideoFrame) -> None:
        """Discard a picture."""

    def finish(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""
