"""A real Triton server for tests: the one in the wheel of nvidia-pytriton, which lacks only the ONNX Runtime backend.

The backend `onnxruntime` is a Python-based one, so that the server reads the exported repository unchanged. The
wheel needs an older NumPy than the package: it is in an environment of its own, and POLYPSTREAM_TEST_TRITON names the
Python there.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import pytest

PYTHON = os.environ.get("POLYPSTREAM_TEST_TRITON", "")
_BACKEND = """
import sys
sys.path[:0] = {path!r}
import json, os, time
import numpy, onnxruntime
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])
        self.session = onnxruntime.InferenceSession(os.path.join(folder, config["default_model_filename"]))
        self.input, self.output = config["input"][0]["name"], config["output"][0]["name"]

    def execute(self, requests):
        if os.path.exists({pause!r}):
            time.sleep(3)
        images = [pb.get_input_tensor_by_name(each, self.input).as_numpy() for each in requests]
        maps = [self.session.run([self.output], {{self.input: image}})[0] for image in images]
        return [pb.InferenceResponse([pb.Tensor(self.output, each)]) for each in maps]
"""
START_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TritonServer:
    """The server of one model repository; it can be stopped and started again at the same address."""

    def __init__(self, repository: Path, folder: Path) -> None:
        self.repository, self.port = repository, free_port()
        self.pause = folder / "pause"
        """While this file exists, each inference takes three seconds."""
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        if not PYTHON:
            pytest.skip("POLYPSTREAM_TEST_TRITON names no Python with nvidia-pytriton and onnxruntime")
        code = "import sys, sysconfig; print(sysconfig.get_path('platlib'), '%d.%d' % sys.version_info[:2], sep='\\n')"
        packages, version = subprocess.check_output([PYTHON, "-c", code], text=True).split()
        self._root = Path(packages)
        self._server = self._root / "pytriton" / "tritonserver"
        backends = folder / "backends"
        shutil.copytree(self._server / "backends" / "python", backends / "python")
        shutil.copy(self._server / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
        (backends / "onnxruntime").mkdir()
        text = _BACKEND.format(path=[packages], pause=str(self.pause))
        (backends / "onnxruntime" / "model.py").write_text(text, encoding="utf-8")

    @property
    def log(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace")

    def command(self, *options: str) -> list[str]:
        return [
            str(self._server / "bin" / "tritonserver"),
            *(f"--model-repository={self.repository}", f"--backend-directory={self._folder / 'backends'}"),
            *("--allow-http=false", "--allow-metrics=false", "--grpc-address=127.0.0.1", f"--grpc-port={self.port}"),
            *("--disable-auto-complete-config", *options),
        ]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "LD_LIBRARY_PATH": str(self._root / "nvidia_pytriton.libs")}

    def start(self) -> None:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(self.command(), env=self.environment, stdout=log, stderr=log)
        until = monotonic() + START_S
        while "Started GRPCInferenceService" not in self.log:
            assert self._process.poll() is None, self.log
            assert monotonic() < until, self.log
            sleep(0.1)

    def failure(self, *options: str) -> str:
        """The log of another server of the same repository that ends by itself, since it cannot start.

        The log is a file: processes of the backends may outlive a server that crashes as it ends, and would keep a pipe
        open.
        """
        log = self._folder / "failure.log"
        options = (f"--grpc-port={free_port()}", *options)
        with log.open("wb") as file:
            command = [*self.command(), *options]
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file, start_new_session=True)
            try:
                assert process.wait(timeout=START_S) != 0
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None


@contextmanager
def triton_server(repository: Path, folder: Path) -> Iterator[TritonServer]:
    server = TritonServer(repository, folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
