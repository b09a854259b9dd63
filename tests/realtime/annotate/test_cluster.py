"""Annotation on a Ray cluster of two nodes: the results are those of one machine, also when a node is killed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polypstream.errors import BackendError
from polypstream.realtime.annotate.batch import BatchProgress, run_batch, runner_here
from polypstream.realtime.annotate.cluster import ClusterConfig, runner_on_cluster
from polypstream.realtime.annotate.inputs import find_videos
from polypstream.realtime.annotate.job import AnnotateConfig
from polypstream.realtime.annotate.workers import ModelFile
from polypstream.realtime.inference.segmenter import segmenter_from_onnx
from polypstream.realtime.video.writer import Encoding
from tests.clips import make_clip, read_packets
from tests.models import write_green_finder
from tests.realtime.annotate.test_job import write_disc_clip

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}


@pytest.fixture
def cluster() -> Iterator[Any]:
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A long video with a variable rate and B-frames, a short one, and an unreadable one."""
    folder = tmp_path / "archive"
    folder.mkdir()
    pts = np.cumsum(np.random.default_rng(3).integers(7, 90, 300)).tolist()
    write_disc_clip(folder / "long.mp4", frames=300, pts=pts, options={"bf": "2", "g": "25"})
    make_clip(folder / "short.mkv")
    (folder / "bad.mp4").write_bytes(b"no video" * 100)
    return folder


def annotated(archive: Path, out: Path, runner: Any, config: AnnotateConfig, **options: Any) -> Any:
    videos, _ = find_videos([archive], output=out)
    return run_batch(videos, out, runner, config, model="tiny", **options)


@pytest.mark.slow
def test_a_node_that_is_killed_changes_nothing_in_the_results(tmp_path: Path, archive: Path, cluster: Any) -> None:
    model = write_green_finder(tmp_path / "green.onnx")
    config = AnnotateConfig(encoding=Encoding(quality="lossless", preset="ultrafast"))
    segmenter = segmenter_from_onnx(model, backend="onnxruntime", threads=1)
    straight = annotated(archive, tmp_path / "one", runner_here(segmenter, config), config)
    doomed = [cluster.add_node(**{key: value for key, value in NODE.items() if key != "include_dashboard"})]
    steps: list[BatchProgress] = []

    def kill_once(step: BatchProgress) -> None:
        steps.append(step)
        if step.running and doomed:  # the first segment is done
            cluster.remove_node(doomed.pop(), allow_graceful=False)

    runner = runner_on_cluster(
        ModelFile(path=model, backend="onnxruntime"), config, ClusterConfig(address=cluster.address, segment_s=2)
    )
    spread = annotated(archive, tmp_path / "two", runner, config, on_progress=kill_once)
    assert not doomed
    assert {each.video.name for each in spread.done} == {"long.mp4", "short.mkv"}
    assert [each.video.name for each in spread.failed] == ["bad.mp4"]
    assert spread.failed[0].error == straight.failed[0].error
    for name in ("long_polyps.jsonl", "long_summary.json", "short_polyps.jsonl", "short_summary.json"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    one, two = (tmp_path / name / "long_overlay.mp4" for name in ("one", "two"))
    assert read_packets(one, 0) == read_packets(two, 0)
    assert steps[-1].videos_ended == 3
    assert not list((tmp_path / "two").glob("*.detections"))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:x", "ray://127.0.0.1:1"])
def test_an_address_without_a_cluster_is_an_error_at_once(tmp_path: Path, address: str) -> None:
    model = ModelFile(path=write_green_finder(tmp_path / "green.onnx"), backend="onnxruntime")
    with pytest.raises(BackendError, match=r"there is no Ray cluster at.*ray start --head"):
        runner_on_cluster(model, AnnotateConfig(encoding=None), ClusterConfig(address=address))
