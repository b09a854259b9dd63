"""Videos and results on object storage, against a local S3 server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import polypstream as ps
from polypstream.realtime.annotate.manifest import MANIFEST_NAME
from polypstream.realtime.annotate.storage import url_of
from tests.clips import make_clip
from tests.models import write_green_finder

pytest.importorskip("s3fs")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A file system on a server in this process, for `s3://` addresses."""
    server_module = pytest.importorskip("moto.server")
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    for name, value in {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem()
    system.makedirs("archive", exist_ok=True)
    yield system
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def test_addresses_survive_as_paths() -> None:
    assert url_of(Path("s3://bucket/a b/c.mp4")) == "s3://bucket/a b/c.mp4"
    assert url_of("gs://bucket/c.mp4") == "gs://bucket/c.mp4"
    assert [url_of(name) for name in ("a.mp4", "/data/s3:/x.mp4", "C:/x.mp4", "a: b/c.mp4")] == [None] * 4


def test_videos_come_from_and_results_go_to_object_storage(tmp_path: Path, s3: Any) -> None:
    model = write_green_finder(tmp_path / "green.onnx")
    clip = make_clip(tmp_path / "a.mp4")
    for key in ("archive/in/a.mp4", "archive/in/room/b.mp4", "archive/in/notes.txt"):
        s3.put_file(str(clip), key)
    s3.pipe_file("archive/in/bad.mp4", b"no video" * 100)
    options: dict[str, Any] = {"model": model, "backend": "onnxruntime"}
    report = ps.annotate_batch(["s3://archive/in"], "s3://archive/out", **options)
    assert sorted(each.video.name for each in report.done) == ["a.mp4", "b.mp4"]
    assert [each.video.name for each in report.failed] == ["bad.mp4"]
    s3.invalidate_cache()
    names = {"a_overlay.mp4", "a_polyps.jsonl", "a_summary.json", MANIFEST_NAME}
    names |= {f"room/b_{name}" for name in ("overlay.mp4", "polyps.jsonl", "summary.json")}
    assert set(s3.find("archive/out")) == {f"archive/out/{name}" for name in names}
    here = ps.annotate(clip, tmp_path / "here", model=model)
    assert s3.cat_file("archive/out/a_polyps.jsonl") == here.records.read_bytes()

    again = ps.annotate_batch(["s3://archive/in/**/*.mp4"], "s3://archive/out", **options)
    assert sorted(each.name for each in again.skipped) == ["a.mp4", "b.mp4"]
    s3.rm_file("archive/out/room/b_polyps.jsonl")
    s3.invalidate_cache()
    third = ps.annotate_batch(["s3://archive/in"], "s3://archive/out", **options)
    assert [each.video.name for each in third.done] == ["b.mp4"]


def test_a_missing_video_is_one_failure(tmp_path: Path, s3: Any) -> None:
    model = write_green_finder(tmp_path / "green.onnx")
    report = ps.annotate_batch(
        ["s3://archive/absent.mp4", make_clip(tmp_path / "a.mp4")], tmp_path / "out", model=model, overlay="none"
    )
    assert [each.video.name for each in report.done] == ["a.mp4"]
    assert "s3://archive/absent.mp4 cannot be downloaded" in report.failed[0].error
