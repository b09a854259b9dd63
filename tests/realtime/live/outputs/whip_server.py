"""A WHIP server for tests, in a process of its own: `whip_server.py PORT TOKEN CODEC`.

It prints JSON lines: `ready`, requests, and the number that each received frame shows, with the time.
"""

import asyncio
import json
import sys
from time import monotonic

import numpy as np
from aiohttp import web
from aiortc import RTCPeerConnection, RTCRtpReceiver, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from polypstream.synthetic.counter import counter_from_rgb

PORT, TOKEN, CODEC = int(sys.argv[1]), sys.argv[2], sys.argv[3]
connections: dict[str, RTCPeerConnection] = {}
tasks: set[asyncio.Task[None]] = set()


def say(**values: object) -> None:
    print(json.dumps(values), flush=True)


def codecs_in(sdp: str) -> list[str]:
    return sorted({line.split()[1].partition("/")[0] for line in sdp.splitlines() if line.startswith("a=rtpmap")})


async def post(request: web.Request) -> web.Response:
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        say(event="rejected")
        return web.Response(status=401)
    offer = await request.text()
    assert request.content_type == "application/sdp"
    name = str(len(connections))
    connection = connections[name] = RTCPeerConnection()

    @connection.on("track")
    def started(track: MediaStreamTrack) -> None:
        task = asyncio.create_task(receive(track))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    accepted = [
        each for each in RTCRtpReceiver.getCapabilities("video").codecs if each.mimeType.lower() == f"video/{CODEC}"
    ]
    connection.addTransceiver("video", direction="recvonly").setCodecPreferences(accepted)
    await connection.setRemoteDescription(RTCSessionDescription(sdp=offer, type="offer"))
    await connection.setLocalDescription(await connection.createAnswer())
    answer = connection.localDescription.sdp
    say(event="posted", offered=codecs_in(offer), accepted=codecs_in(answer))
    return web.Response(
        status=201,
        text=answer,
        content_type="application/sdp",
        headers={"Location": f"session/{name}"},
    )


async def receive(track: MediaStreamTrack) -> None:
    try:
        while True:
            frame = await track.recv()
            rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)  # type: ignore[union-attr]
            say(number=counter_from_rgb(rgb), at=monotonic(), shape=rgb.shape, brightest=int(rgb.max()))
    except MediaStreamError:
        say(event="track ended")


async def delete(request: web.Request) -> web.Response:
    is_permitted = request.headers.get("Authorization") == f"Bearer {TOKEN}"
    say(event="deleted" if is_permitted else "rejected")
    await connections[request.match_info["name"]].close()
    return web.Response(status=200 if is_permitted else 401)


async def main() -> None:
    app = web.Application()
    app.router.add_post("/secretkey/whip", post)
    app.router.add_delete("/secretkey/session/{name}", delete)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", PORT).start()
    say(event="ready")
    await asyncio.Event().wait()


asyncio.run(main())
