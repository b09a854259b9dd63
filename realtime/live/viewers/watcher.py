"""One open page, as the server sees it: the newest message for it, how far behind it is, and what it has measured."""

import asyncio
from collections.abc import Awaitable, Callable

from polypstream.realtime.live.gauges import Recent
from polypstream.realtime.live.viewers.messages import Drawn

UNDRAWN_MESSAGES = 3
"""A page that has not done with so many is sent no more until it has: so a slow line never holds old frames."""


class Watcher:
    """Belongs to the server's event loop; its counts and delays may be read from any thread."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sent = 0
        """Messages."""
        self.drawn = 0
        """Frames that reached the screen."""
        self.video_delay, self.marker_delay = Recent(), Recent()
        """Seconds, measured by the page; see `Drawn`."""
        self._newest: bytes | None = None
        self._undrawn = 0
        self._changed = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether a message would be sent at once."""
        return self._undrawn < UNDRAWN_MESSAGES

    def offer(self, message: bytes) -> None:
        """Have this message sent next, in place of any that still waits."""
        self._newest = message
        self._changed.set()

    def note(self, drawn: Drawn) -> None:
        """Learn that the page has done with one message."""
        self._undrawn = max(self._undrawn - 1, 0)
        self._changed.set()
        if drawn.video_delay_s is not None:
            self.drawn += 1
            self.video_delay.add(drawn.video_delay_s)
        if drawn.marker_delay_s is not None:
            self.marker_delay.add(drawn.marker_delay_s)

    async def send_on(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        """Send the newest message whenever there is one and the page is ready, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._newest is not None and self.is_ready:
                message, self._newest = self._newest, None
                self._undrawn += 1
                self.sent += 1
                await send(message)
