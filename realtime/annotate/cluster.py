"""Batches on a Ray cluster: videos, and segments of long videos, are tasks that Ray schedules and retries.

Segments are inferred in parallel; a task for the whole video then decodes, tracks and writes in order, using their
detections. Each detection is verified by a checksum of its image (see `detections`), so the results equal those of a
single machine.
"""

import logging
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from polypstream.errors import BackendError, MissingExtraError
from polypstream.files import cache_folder, write_atomically
from polypstream.realtime.annotate.batch import Runner, Task, TaskEvents, annotate_task, error_text
from polypstream.realtime.annotate.job import AnnotateConfig, AnnotationProgress, AnnotationReport
from polypstream.realtime.annotate.manifest import file_digest, stated_duration_s
from polypstream.realtime.annotate.segments import VideoSegment, detections_in, segments_of
from polypstream.realtime.annotate.storage import staged
from polypstream.realtime.annotate.workers import ModelFile
from polypstream.realtime.inference.segmenter import Segmenter

SEGMENT_S = 60.0
"""Duration of a segment of a long video in seconds."""
_CONNECT_S = 10
_RETRIES = 5
"""Number of retries of a task whose node or process died."""
_VIDEOS_PER_CPU = 2
"""Maximum number of videos submitted at the same time, per CPU of the cluster."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Address of the cluster, and resources of each task."""

    address: str
    """Address of the head node, such as `10.0.0.5:6379`; `auto` for the cluster of this machine."""
    num_cpus: int = 1
    num_gpus: float = 0.0
    segment_s: float = SEGMENT_S


@dataclass(frozen=True, kw_only=True)
class _SentModel:
    """A model in a form that is sent to other machines."""

    file: ModelFile
    digest: str = ""
    """SHA-256 of `data`."""
    data: bytes = b""
    """Content of the model file; empty for the network of the package."""


def runner_on_cluster(model: ModelFile, config: AnnotateConfig, cluster: ClusterConfig) -> Runner:
    """Create a runner that annotates on a Ray cluster (extra `[cluster]`).

    All machines need this version of polypstream, the videos, and the output folder, under the same paths.

    Raises:
        MissingExtraError: Ray is not installed.
        BackendError: There is no cluster at the address.
    """
    ray = _connected(cluster.address)
    path = model.path
    sent = _SentModel(file=model)
    if path is not None:
        sent = _SentModel(file=model, digest=file_digest(path), data=path.read_bytes())

    def run(tasks: Sequence[Task], events: TaskEvents) -> None:
        run_on_cluster(ray, tasks, events, ray.put(sent), config, cluster)

    return run


def run_on_cluster(
    ray: Any,  # noqa: ANN401 - a module
    tasks: Sequence[Task],
    events: TaskEvents,
    model: Any,  # noqa: ANN401 - a reference
    config: AnnotateConfig,
    cluster: ClusterConfig,
) -> None:
    """Annotate videos, a bounded number at a time, and report the end of each."""
    options = {"num_cpus": cluster.num_cpus, "num_gpus": cluster.num_gpus, "max_retries": _RETRIES}
    infer, annotate = ray.remote(**options)(_infer), ray.remote(**options)(_annotate)
    waiting, running = deque(tasks), dict[Any, Task]()
    segments: dict[Any, tuple[Task, float]] = {}
    passed_s: dict[Path, float] = {}
    most = max(int(ray.cluster_resources().get("CPU", 1)) * _VIDEOS_PER_CPU, 2)
    try:
        while waiting or running:
            while waiting and len(running) < most:
                task = waiting.popleft()
                parts = _segments(task, cluster.segment_s)
                found = [infer.remote(task, part, model, config, cluster.num_cpus) for part in parts]
                duration_s = stated_duration_s(task.video) or 0.0
                segments |= {reference: (task, duration_s / len(found)) for reference in found}
                running[annotate.remote(task, model, config, cluster.num_cpus, *found)] = task
            (ready, *_), _ = ray.wait([*segments, *running], num_returns=1, fetch_local=False)
            if ready in segments:
                task, length_s = segments.pop(ready)
                passed_s[task.video] = passed_s.get(task.video, 0.0) + length_s
                events.progressed(task, _progress(passed_s[task.video]))
                continue
            task = running.pop(ready)
            try:
                report: AnnotationReport = ray.get(ready)
            except Exception as error:  # noqa: BLE001 - no video may stop the others
                events.failed(task, error_text(getattr(error, "cause", None) or error))
            else:
                events.done(task, report)
            segments = {reference: entry for reference, entry in segments.items() if entry[0] is not task}
    finally:
        for reference in [*segments, *running]:
            ray.cancel(reference, force=True)


def _connected(address: str) -> Any:  # noqa: ANN401 - a module
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("--ray", "cluster") from None
    if not ray.is_initialized():
        try:
            _check_reachable(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BackendError(
                f"there is no Ray cluster at {address} ({reason}); start one with: ray start --head"
            ) from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise `OSError` or `ValueError` if the address does not answer; Ray itself would wait for minutes."""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()


def _segments(task: Task, segment_s: float) -> list[VideoSegment]:
    """Segments of a long video; none for a short video or one of unknown duration."""
    duration_s = stated_duration_s(task.video)
    if duration_s is None or task.resume_key is None:
        return []
    parts = segments_of(task.video, duration_s, segment_s=segment_s)
    return parts if len(parts) > 1 else []


def _progress(pts_s: float) -> AnnotationProgress:
    return AnnotationProgress(frames=0, frames_expected=None, pts_s=pts_s, duration_s=None, fps=None)


def _infer(task: Task, part: VideoSegment, model: _SentModel, config: AnnotateConfig, threads: int) -> bytes:
    """Infer a segment on a worker. Returns nothing on failure: the task for the whole video then reports the error."""
    try:
        with staged(task.video, Path()) as (video, _):
            return detections_in(video, part, _opened(model, threads), config)
    except Exception:  # noqa: BLE001 - any failure is reported by the task for the whole video
        return b""


def _annotate(task: Task, model: _SentModel, config: AnnotateConfig, threads: int, *found: bytes) -> AnnotationReport:
    """Annotate a video on a worker, after its segments."""
    segmenter = _opened(model, threads)
    lines = b"".join(found)
    return annotate_task(task, segmenter, config, lambda _: None, detections=lines)


def _opened(model: _SentModel, threads: int) -> Segmenter:
    if model.file.path is None:
        return _open_once(model.file, threads)
    path = cache_folder() / "models" / f"{model.digest}{model.file.path.suffix}"
    if not path.exists():
        write_atomically(path, model.data)
    return _open_once(replace(model.file, path=path), threads)


@lru_cache(maxsize=1)
def _open_once(file: ModelFile, threads: int) -> Segmenter:
    """Open a model once per worker process."""
    return file.open(threads=threads)
