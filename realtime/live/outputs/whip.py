"""WHIP relay: the process that sends the packets of one push to a WebRTC server (RFC 9725, extra [webrtc]).

It has the interface of `relay`: target and packets on the standard input, `ready` or a reason on the standard output.
A process of its own also keeps aiortc away from TensorFlow, which cannot be loaded into the same one. A server that
does not accept H.264 gets VP8, encoded from the same packets.
"""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import av
from av.codec.context import Flags, ThreadType

from polypstream.errors import OutputError
from polypstream.realtime.live.outputs.relay import READY, packets_of
from polypstream.realtime.live.sources.config import reason_of

if TYPE_CHECKING:
    from aiohttp import ClientSession
    from aiortc import MediaStreamTrack, RTCPeerConnection

_CODECS = ("video/H264", "video/VP8")
"""In the order in which they are offered."""
_FIRST_PAYLOAD = re.compile(r"^m=video \S+ \S+ (\d+)", re.MULTILINE)
_END_S = 1.0
"""Seconds that the server may take to delete the session at the end."""


def main() -> None:
    """Send what the standard input provides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session ends the relay in its own time
    target = json.loads(sys.stdin.buffer.readline())
    try:
        asyncio.run(_Sender(target, packets_of(sys.stdin.buffer)).run())
    except Exception as error:  # noqa: BLE001 - whatever aiortc raises, the reason goes to the session
        print(str(error) if isinstance(error, OutputError) else _reason(error), flush=True)
        os._exit(1)  # a thread still waits for packets


class _Sender:
    """One session at a server.

    Args:
        target: `url`, `token` and `timeout_s` in seconds.
        packets: H.264, beginning with a key frame.
    """

    def __init__(self, target: dict[str, Any], packets: "Iterator[av.Packet[Any]]") -> None:
        self._url, self._token, self._timeout_s = target["url"], target["token"], target["timeout_s"]
        self._packets = packets
        self._decoder: av.VideoCodecContext | None = None
        self._ended, self._lost, self._connected = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Send until there are no more packets.

        Raises:
            OutputError: The server rejects the session or the connection is lost.
        """
        import aioice.ice
        from aiohttp import ClientSession, ClientTimeout
        from aiortc import RTCConfiguration, RTCPeerConnection

        # a server that vanished is noticed within the time that any other server has to respond
        aioice.ice.CONSENT_INTERVAL, aioice.ice.CONSENT_FAILURES = 1, self._timeout_s
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))

        @connection.on("connectionstatechange")
        def changed() -> None:
            if connection.connectionState == "connected":
                self._connected.set()
            elif connection.connectionState in {"failed", "closed"}:
                self._lost.set()

        async with ClientSession(timeout=ClientTimeout(total=self._timeout_s)) as web:
            resource: str | None = None
            try:
                resource = await self._negotiate(connection, web)
                await self._first_of(self._connected, self._lost, within_s=self._timeout_s)
                if not self._connected.is_set():
                    raise OutputError(f"no WebRTC connection within {self._timeout_s} s; check that UDP is permitted")
                print(READY, flush=True)
                await self._first_of(self._ended, self._lost)
                if self._lost.is_set():
                    resource = None
                    raise OutputError("the connection was closed by the other side")
            finally:
                if resource is not None:
                    await self._delete(resource, web)
                await connection.close()

    async def _negotiate(self, connection: "RTCPeerConnection", web: "ClientSession") -> str | None:
        """Offer the stream; returns the address of the session at the server, if it names one."""
        from aiortc import RTCRtpSender, RTCSessionDescription

        transceiver = connection.addTransceiver(self._track(), direction="sendonly")
        known = RTCRtpSender.getCapabilities("video").codecs
        transceiver.setCodecPreferences([each for name in _CODECS for each in known if each.mimeType == name])
        await connection.setLocalDescription(await connection.createOffer())
        headers = {"Content-Type": "application/sdp", "Accept": "application/sdp", **self._authorization}
        async with web.post(self._url, data=connection.localDescription.sdp.encode(), headers=headers) as response:
            if response.status in {401, 403}:
                raise OutputError(
                    f"the server rejects the token ({response.status}); put the right one into "
                    "POLYPSTREAM_PUSH_CREDENTIALS or the file with the credentials"
                )
            if response.status != 201:
                raise OutputError(f"the server answered {response.status} instead of 201; check the address")
            answer, location = await response.text(), response.headers.get("Location")
            resource = None if location is None else urljoin(str(response.url), location)
        try:
            payload = _FIRST_PAYLOAD.search(answer)
            codec = re.search(rf"^a=rtpmap:{payload[1] if payload else ''} ([^/]+)/", answer, re.MULTILINE)
            if codec is not None and codec[1].upper() != "H264":
                self._decoder = _decoder()
            await connection.setRemoteDescription(RTCSessionDescription(sdp=answer, type="answer"))
        except Exception as error:
            if resource is not None:
                await self._delete(resource, web)
            raise OutputError(f"the server's answer is not valid ({type(error).__name__})") from error
        return resource

    @property
    def _authorization(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    async def _delete(self, resource: str, web: "ClientSession") -> None:
        """End the session at the server, which also ends it by itself some time after the connection."""
        from aiohttp import ClientError, ClientTimeout

        try:
            async with web.delete(resource, headers=self._authorization, timeout=ClientTimeout(total=_END_S)):
                pass
        except (TimeoutError, ClientError):
            return

    def _track(self) -> "MediaStreamTrack":
        from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

        sender = self

        class Track(MediaStreamTrack):
            kind = "video"

            async def recv(self) -> "av.Packet[Any] | av.VideoFrame":
                item = await asyncio.get_running_loop().run_in_executor(None, sender._next)
                if item is None:
                    sender._ended.set()
                    raise MediaStreamError
                return item

        return Track()

    def _next(self) -> "av.Packet[Any] | av.VideoFrame | None":
        """The next packet, or frame where the server does not accept H.264; waits for it. None at the end."""
        for packet in self._packets:
            if self._decoder is None:
                return packet
            for frame in self._decoder.decode(packet):
                return frame
        return None

    async def _first_of(self, *events: asyncio.Event, within_s: float | None = None) -> None:
        tasks = [asyncio.create_task(event.wait()) for event in events]
        await asyncio.wait(tasks, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _decoder() -> av.VideoCodecContext:
    context = av.CodecContext.create("h264", "r")
    assert isinstance(context, av.VideoCodecContext)
    context.thread_type = ThreadType.SLICE  # frame threads would delay each frame by some others
    context.flags |= Flags.low_delay
    return context


def _reason(error: Exception) -> str:
    from aiohttp import ClientConnectorError

    if isinstance(error, TimeoutError):
        return "the server did not respond in time"
    if isinstance(error, ClientConnectorError):
        return reason_of(error.os_error)
    return reason_of(error)


if __name__ == "__main__":
    main()
