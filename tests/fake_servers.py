"""Local HTTP servers that answer the few calls with which the SDKs of CVAT and Label Studio create a task.

They stand in for the real servers, which need a machine of their own: they show what is sent, not what is made of it.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "secret-token"
NOW = "2026-01-01T00:00:00Z"


@dataclass
class Received:
    """Data received by a server."""

    frames: int = 0
    """Number of frames that CVAT reports for the video."""
    paths: list[str] = field(default_factory=list)
    specification: dict[str, Any] = field(default_factory=dict)
    """JSON with which the task or project was created."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Contents by file name."""
    annotation_format: str | None = None
    tasks: list[Any] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    received: Received

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: object = None, **headers: str) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def is_allowed(self) -> bool:
        self.received.paths.append(f"{self.command} {urlsplit(self.path).path}")
        return self.headers.get("Authorization", "").partition(" ")[2] == TOKEN


class CvatHandler(_Handler):
    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path == "/api/server/about":
            self.answer(200, {"name": "CVAT", "description": "", "version": "2.80.0", "subtitle": "", "logo_url": ""})
        elif not self.is_allowed():
            self.answer(401, {"detail": "Authentication credentials were not provided."})
        elif path.startswith("/api/requests/"):
            operation = {"type": "import", "target": "task", "task_id": 7}
            request = {"id": "rq", "status": "finished", "message": "", "operation": operation, "created_date": NOW}
            self.answer(200, request)
        else:
            self.answer(200, self.task())

    def do_POST(self) -> None:
        data, query = self.body(), parse_qs(urlsplit(self.path).query)
        path = urlsplit(self.path).path
        if not self.is_allowed():
            self.answer(401, {"detail": "Authentication credentials were not provided."})
        elif path == "/api/tasks":
            self.received.specification = json.loads(data)
            self.answer(201, self.task())
        elif "Upload-Start" in self.headers:
            self.answer(202)
        elif "Upload-Multiple" in self.headers:
            name, content = _part(data, "client_files[0]")
            self.received.files[name] = content
            self.answer(200)
        elif "Upload-Length" in self.headers:
            values = dict(pair.split(" ") for pair in self.headers["Upload-Metadata"].split(","))
            name = base64.b64decode(values["filename"]).decode()
            self.answer(201, Location=f"http://{self.headers['Host']}{path}{name}", Upload_Filename=name)
        else:
            self.received.annotation_format = query.get("format", [None])[0] or self.received.annotation_format
            self.answer(202, {"rq_id": "rq"})

    def do_PATCH(self) -> None:
        data = self.body()
        self.received.files[urlsplit(self.path).path.rpartition("/")[2]] = data
        self.answer(204, Upload_Offset=str(int(self.headers["Upload-Offset"]) + len(data)))

    def task(self) -> dict[str, Any]:
        return {
            "id": 7,
            "name": self.received.specification["name"],
            "size": self.received.frames,
            "jobs": {"url": "", "count": 1, "completed": 0, "validation": 0},
            "labels": {"url": ""},
        }


class LabelStudioHandler(_Handler):
    def do_POST(self) -> None:
        data = self.body()
        path = urlsplit(self.path).path
        if not self.is_allowed():
            self.answer(401, {"detail": "Invalid token"})
        elif path == "/api/projects/":
            self.received.specification = json.loads(data)
            self.answer(201, {"id": 3, **self.received.specification})
        elif path == "/api/projects/3/import":
            self.received.tasks += json.loads(data)
            self.answer(201, {"task_count": 1, "annotation_count": 0, "prediction_count": 1, "duration": 0.1})
        else:
            self.answer(404)


def _part(data: bytes, name: str) -> tuple[str, bytes]:
    """File name and content of a part of a multipart body."""
    boundary = data.partition(b"\r\n")[0]
    for part in data.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if f'name="{name}"'.encode() in head and (found := re.search(rb'filename="(.*?)"', head)):
            return found.group(1).decode().rpartition("/")[2], content.removesuffix(b"\r\n")
    raise AssertionError(f"no part {name}")


@contextmanager
def serve(handler: type[_Handler], *, frames: int = 0) -> Iterator[tuple[str, Received]]:
    """Run a server; yields its address and the data it receives."""
    received = Received(frames=frames)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (handler,), {"received": received}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
