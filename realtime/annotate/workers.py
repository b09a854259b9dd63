"""Worker processes of a batch: each opens the model and annotates one video after the other.

If a worker dies, as by a crash of FFmpeg on a damaged file or for lack of memory, only its video fails.
"""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from types import FrameType

from polypstream.realtime.annotate.batch import Runner, Task, TaskEvents, annotate_task, error_text
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationProgress, AnnotationReport
from polypstream.realtime.annotate.manifest import file_digest
from polypstream.realtime.inference.segmenter import Segmenter, segmenter_from_onnx
from polypstream.scheduling import usable_cores

_PROGRESS_S = 0.2
"""Minimum time in seconds between progress reports of a worker."""
_END_S = 30.0
"""Time in seconds for a stopped worker to close its files."""

_Message = AnnotationProgress | AnnotationReport | str
"""Progress, the end of a video, or the error that ended it."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A model that another process or machine can open."""

    path: Path | None
    """None for the network of the package."""
    backend: str
    accurate: bool = False
    url: str | None = None
    """Address of the model on a Triton server."""

    def open(self, *, threads: int | None = None) -> Segmenter:
        """Open the model; raises as `segmenter_from_onnx`."""
        return segmenter_from_onnx(
            self.path, backend=self.backend, threads=threads, accurate=self.accurate, url=self.url
        )

    def identity(self, segmenter: Segmenter) -> str:
        """Identity of weights and requested backend, for the manifest.

        Args:
            segmenter: The model, opened here or elsewhere.
        """
        contract = segmenter.contract
        weights = f"{contract.name} {contract.version}" if self.path is None else file_digest(self.path)
        return f"{weights} {self.backend}{' accurate' if self.accurate else ''}"


def runner_in_processes(model: ModelFile, config: AnnotateConfig, *, jobs: int) -> Runner:
    """Create a runner that annotates `jobs` videos in parallel processes, with the CPU cores divided evenly."""

    def run(tasks: Sequence[Task], events: TaskEvents) -> None:
        waiting, count = deque(tasks), min(jobs, len(tasks))
        with _stopped_at_end() as workers:
            while waiting or any(worker.task for worker in workers):
                while waiting and len(workers) < count:
                    workers.append(_Worker(model, config, threads=max(usable_cores() // count, 1)))
                for worker in workers:
                    if worker.task is None and waiting:
                        worker.give(waiting.popleft())
                ready = set(wait([worker.connection for worker in workers if worker.task]))
                for worker in [each for each in workers if each.connection in ready]:
                    _receive(worker, events)
                    if worker.is_dead:
                        workers.remove(worker)

    return run


class _Worker:
    """A worker process, as seen by the parent."""

    def __init__(self, model: ModelFile, config: AnnotateConfig, *, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # spawn: a forked child would inherit locked locks
        self.connection, child_connection = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_work, args=(child_connection, model, config, threads), name="polypstream-annotate"
        )
        self.process.start()
        child_connection.close()
        self.task: Task | None = None
        self.is_dead = False

    def give(self, task: Task) -> None:
        self.task = task
        with suppress(OSError):  # the worker died: `wait` sees the end of the connection
            self.connection.send(task)


def _receive(worker: _Worker, events: TaskEvents) -> None:
    task = worker.task
    assert task is not None
    try:
        message: _Message = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        worker.is_dead, worker.task = True, None
        code = worker.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        events.failed(task, f"the process that annotated {task.video} ended early ({how}); FFmpeg may have crashed")
        return
    if isinstance(message, AnnotationProgress):
        events.progressed(task, message)
        return
    worker.task = None
    if isinstance(message, AnnotationReport):
        events.done(task, message)
    else:
        events.failed(task, message)


@contextmanager
def _stopped_at_end() -> Iterator[list[_Worker]]:
    """Yield a list of workers to stop at the end of the block; busy ones close their files first."""
    workers: list[_Worker] = []
    try:
        yield workers
    finally:
        for worker in workers:
            if worker.task is not None:
                worker.process.terminate()
            worker.connection.close()
        for worker in workers:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _work(connection: Connection, model: ModelFile, config: AnnotateConfig, threads: int) -> None:
    """Main function of a worker: receives tasks and sends progress and results until the connection is closed."""
    signal.signal(signal.SIGTERM, _interrupt)
    segmenter: Segmenter | None = None
    with suppress(KeyboardInterrupt, EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            task: Task = connection.recv()
            progress = _Throttled(connection)
            message: _Message
            try:
                segmenter = segmenter or model.open(threads=threads)
                message = annotate_task(task, segmenter, config, progress.send)
            except (BrokenPipeError, ConnectionResetError):  # the parent has ended
                raise
            except Exception as error:  # noqa: BLE001 - no video may stop the others
                message = error_text(error)
            connection.send(message)


def _interrupt(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt


class _Throttled:
    """Sends progress at a limited rate."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last = -_PROGRESS_S

    def send(self, progress: AnnotationProgress) -> None:
        now = monotonic()
        if now - self._last >= _PROGRESS_S:
            self._last = now
            self._connection.send(progress)
