"""Real servers that receive pushed streams and events, and a reader of the streams they received."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import IO, Any, Self

import av
import numpy as np

from polypstream.realtime.live.display_frame import DisplayFrame
from polypstream.realtime.live.outputs.ndi import Ndi
from polypstream.realtime.live.outputs.push import Push
from polypstream.realtime.live.viewers.viewer import LiveStatistics
from polypstream.synthetic.counter import counter_from_rgb
from tests.live_frames import live_frame, marker
from tests.realtime.live.feeds import GSTREAMER_PYTHON, Coding, numbered_rgb, wait_until

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
RTMP_MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
STATISTICS = LiveStatistics(operating_point="sensitive", threshold=0.5)
SIZE = 320, 240


def numbered(index: int) -> DisplayFrame:
    """A frame that shows its number, captured now."""
    rgb = numbered_rgb(index, Coding())
    image = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="yuv420p")
    return live_frame(index, image=image, markers=(marker(),))


@contextmanager
def feeding(push: Push | Ndi, *, fps: int = 25) -> Iterator[dict[int, float]]:
    """Give a push frames in real time; yields the time when each was captured, by its number."""
    captured: dict[int, float] = {}
    is_over: list[bool] = []

    def run() -> None:
        for index in range(10_000):
            if is_over:
                return
            shown = numbered(index)
            captured[index] = shown.frame.captured_at
            push.show(shown, STATISTICS)
            wait_until(lambda at=shown.frame.captured_at: monotonic() - at > 1 / fps)  # type: ignore[misc]

    thread = Thread(target=run)
    thread.start()
    try:
        yield captured
    finally:
        is_over.append(True)
        thread.join()


class Received:
    """What a reader gets, in a thread: the number of each frame, None for a placeholder, and when it came."""

    def __init__(self, place: str | IO[bytes], **options: str) -> None:
        self.numbers: list[int | None] = []
        self.at: list[float] = []
        self.pictures: list[np.ndarray[Any, Any]] = []
        self._place, self._options = place, options
        self._thread = Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()

    def _run(self) -> None:
        options = {"fflags": "nobuffer", "probesize": "5000", "analyzeduration": "500000", **self._options}
        is_stream = not isinstance(self._place, str)
        with av.open(self._place, format="mpegts" if is_stream else None, options=options) as container:
            container.streams.video[0].codec_context.options = {"flags": "low_delay"}
            try:
                for frame in container.decode(video=0):
                    self.at.append(monotonic())
                    rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    self.pictures.append(rgb)
                    self.numbers.append(counter_from_rgb(rgb))
            except (OSError, av.FFmpegError):
                return  # the server has ended, perhaps within a frame


class RtspServer:
    """GStreamer's RTSP server, which receives at /push."""

    def __init__(self, port: int) -> None:
        self._port, self.url = port, f"rtsp://127.0.0.1:{port}/push"

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [GSTREAMER_PYTHON, Path(__file__).with_name("rtsp_record_server.py"), str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        assert self.process.stderr.readline() == b"ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait()


class RtmpServer:
    """nginx with its RTMP module, which takes streams at /live and plays them."""

    def __init__(self, folder: Path, port: int) -> None:
        self.url = f"rtmp://127.0.0.1:{port}/live/secretkey"
        self._config = folder / "nginx.conf"
        self._config.write_text(
            f"load_module {RTMP_MODULE}; daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
            f"rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; access_log off; }} }} }}\n"
        )

    def __enter__(self) -> Self:
        assert NGINX is not None
        self.process = subprocess.Popen([NGINX, "-c", self._config], stderr=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()


class Receiver:
    """A web server that keeps what is posted, and answers as a test wants."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        """Of the next requests; then 204."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = receiver.answers.pop(0) if receiver.answers else 204
                if answer == 204:
                    receiver.requests.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(answer)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/secret-part"

    @property
    def identities(self) -> list[int]:
        return [json.loads(body)["identity"] for _, body in self.requests]

    def __enter__(self) -> "Receiver":
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
