"""Throughput of Ray workers against one process, as ratios within one run.

Run with `python -m benchmarks.cluster [--workers 2 4]`, on synthetic clips. Each worker is a node of a local cluster
with one CPU, and each inference uses one thread, as in the single process. There are two loads: several videos, and
one long video in segments, whose tracking and writing follow in one task. All contestants alternate, and
ratios are computed within each round. A warm-up batch opens the model in the workers beforehand. With more workers
than cores, only the overhead is measured; the report states both numbers.
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

from benchmarks.report import RESULTS, write_report
from polypstream.realtime.annotate.batch import Runner, run_batch, runner_here
from polypstream.realtime.annotate.cluster import ClusterConfig, runner_on_cluster
from polypstream.realtime.annotate.inputs import InputVideo
from polypstream.realtime.annotate.job import AnnotateConfig
from polypstream.realtime.annotate.workers import ModelFile
from polypstream.scheduling import usable_cores
from polypstream.synthetic import SyntheticClip, write_clip

OBJECT_STORE_BYTES = 80 << 20
RECORDS = AnnotateConfig(encoding=None)
SEGMENTS = 8
"""Number of segments of the long video."""


def batch_fps(videos: list[Path], runner: Runner) -> float:
    """Measure frames per second of a whole batch that writes only records."""
    with tempfile.TemporaryDirectory() as folder:
        began = perf_counter()
        report = run_batch([InputVideo(path=video) for video in videos], Path(folder), runner, RECORDS, model="bench")
        seconds = perf_counter() - began
    if report.failed:
        raise SystemExit(f"{report.failed[0].video}: {report.failed[0].error}")
    return sum(each.frames for each in report.done) / seconds


@contextmanager
def cluster_of(workers: int) -> Iterator[str]:
    """Start a local cluster of nodes with one CPU each; yields its address."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECT_STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(workers - 1):
            cluster.add_node(**node)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def measure(videos: list[Path], long: Path, long_s: float, *, workers: list[int], repeats: int) -> dict[str, object]:
    """Run all contestants in turn for `repeats` rounds; ratios are medians over the rounds."""
    model = ModelFile(path=None, backend="onnxruntime")
    alone = runner_here(model.open(threads=1), RECORDS)
    batch_fps(videos[:1], alone)
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        fps = {"process, videos": batch_fps(videos, alone), "process, one video": batch_fps([long], alone)}
        for count in workers:
            with cluster_of(count) as address:
                config = ClusterConfig(address=address, segment_s=long_s / SEGMENTS)
                whole = ClusterConfig(address=address, segment_s=1e9)
                batch_fps(videos[: 2 * count], runner_on_cluster(model, RECORDS, whole))
                fps[f"{count} workers, videos"] = batch_fps(videos, runner_on_cluster(model, RECORDS, whole))
                fps[f"{count} workers, one video"] = batch_fps([long], runner_on_cluster(model, RECORDS, config))
        ratios = {
            f"{count} workers / process, {load}": fps[f"{count} workers, {load}"] / fps[f"process, {load}"]
            for count in workers
            for load in ("videos", "one video")
        }
        rounds.append({**fps, **ratios})
    return {
        "usable_cores": usable_cores(),
        "workers": workers,
        "videos": len(videos),
        "segments": SEGMENTS,
        "repeats": repeats,
        "fps_and_ratios": {name: statistics.median(each[name] for each in rounds) for name in rounds[0]},
        "rounds": rounds,
    }


def main() -> None:
    """Measure, print and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=8, help="number of short videos")
    parser.add_argument("--seconds", type=float, default=4, help="duration of each; the long video has the sum")
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = [Path(folder) / f"video{number}.mp4" for number in range(options.videos)]
        for number, video in enumerate(videos):
            write_clip(video, SyntheticClip(seconds=options.seconds, seed=number))
        long = Path(folder) / "long.mp4"
        long_s = options.seconds * options.videos
        write_clip(long, SyntheticClip(seconds=long_s))
        results = measure(videos, long, long_s, workers=options.workers, repeats=options.repeats)
    path = write_report("cluster", results, folder=options.results)
    figures = results["fps_and_ratios"]
    assert isinstance(figures, dict)
    for key, value in figures.items():
        print(f"  {key:32} {value:8.3f}")
    print(f"medians of {options.repeats} rounds; written to {path}")


if __name__ == "__main__":
    main()
