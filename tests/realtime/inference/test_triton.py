"""The triton backend against a real Triton server that reads the exported repository."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import polypstream as ps
from polypstream.arrays import Rgb
from polypstream.contract import OperatingPoint
from polypstream.errors import BackendError, ConfigError, ModelError
from polypstream.export.triton import write_repository
from polypstream.realtime.inference.onnxruntime import OnnxRuntimeSegmenter
from polypstream.realtime.inference.triton import TritonSegmenter
from tests.clips import make_clip
from tests.models import SIZE, contract, write_green_finder
from tests.triton_server import TritonServer, free_port, triton_server

pytest.importorskip("tritonclient", reason="tritonclient is not installed: pip install 'polypstream[triton]'")

TEXT = 'hôpital "A"\\B\nnew {line}'
CONTRACT = contract(
    training_data=TEXT, crop="content", operating_points=(OperatingPoint(name="sensitive", threshold=0.25),)
)


def image(seed: int = 0) -> Rgb:
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def opened(
    server: TritonServer, model: str = "tiny", *, patience_s: float = 0, timeout_s: float = 10
) -> TritonSegmenter:
    return TritonSegmenter(f"127.0.0.1:{server.port}/{model}", patience_s=patience_s, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX files, by the name of their model."""
    folder = tmp_path_factory.mktemp("files")
    write_green_finder(folder / "tiny.onnx", metadata=CONTRACT.to_metadata())
    write_green_finder(folder / "nan.onnx", metadata=contract(name="nan").to_metadata(), gain=float("nan"))
    return folder


@pytest.fixture(scope="module")
def server(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    for name in ("tiny", "nan"):
        write_repository(files / f"{name}.onnx", repository)
    foreign = write_repository(files / "tiny.onnx", files) / "config.pbtxt"
    for name, old, new in (
        ("foreign", "polypstream.contract", "other.contract"),
        ("larger", '\\"height\\": 64', '\\"height\\": 72'),
    ):
        (repository / name / "1").mkdir(parents=True)
        text = foreign.read_text(encoding="utf-8").replace('name: "tiny"', f'name: "{name}"').replace(old, new)
        (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
        (repository / name / "1" / "model.onnx").write_bytes((files / "tiny.onnx").read_bytes())
    with triton_server(repository, tmp_path_factory.mktemp("triton")) as running:
        yield running


def test_contract_and_probability_are_those_of_the_file(server: TritonServer, files: Path) -> None:
    with opened(server) as remote, OnnxRuntimeSegmenter(files / "tiny.onnx") as local:
        assert remote.contract == local.contract == CONTRACT
        assert np.abs(remote.segment(image()) - local.segment(image())).max() < 1e-6


def test_the_tensorrt_configuration_is_chosen_by_its_name(server: TritonServer) -> None:
    log = server.failure("--model-config-name=tensorrt")
    assert "unable to find backend library for backend 'tensorrt'" in log


def test_several_requests_are_in_flight(server: TritonServer, files: Path) -> None:
    lanes = opened(server).in_parallel()
    assert len(lanes) == 2
    local, results = OnnxRuntimeSegmenter(files / "tiny.onnx"), dict[int, np.ndarray]()

    def run(number: int) -> None:
        with lanes[number] as lane:
            results[number] = np.stack([lane.segment(image(number + 2 * each)) for each in range(5)])

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(2):
        wanted = np.stack([local.segment(image(number + 2 * each)) for each in range(5)])
        assert np.abs(results[number] - wanted).max() < 1e-6


@pytest.mark.parametrize(
    ("model", "kind", "text"),
    [
        ("none", BackendError, "unknown model: 'none'"),
        ("tiny/7", BackendError, "version 7"),
        ("foreign", ModelError, "no polypstream contract"),
        ("larger", ModelError, "differs from the contract"),
    ],
)
def test_a_model_that_cannot_be_used_is_an_error(
    server: TritonServer, model: str, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        opened(server, model)


def test_an_address_without_a_model_needs_a_server_with_only_one(server: TritonServer) -> None:
    with pytest.raises(BackendError, match="has foreign, larger, nan, tiny ready; name one"):
        TritonSegmenter(f"127.0.0.1:{server.port}", patience_s=0)


def test_nan_and_images_of_another_size_are_errors(server: TritonServer) -> None:
    with opened(server, "nan") as remote, pytest.raises(BackendError, match="instead of probabilities"):
        remote.segment(image())
    with opened(server) as remote, pytest.raises(BackendError, match="takes uint8 RGB"):
        remote.segment(image()[:-8])


def test_a_server_that_does_not_answer_in_time_is_an_error(server: TritonServer) -> None:
    with opened(server, timeout_s=1) as remote:
        server.pause.touch()
        try:
            with pytest.raises(BackendError, match="did not answer within 1 s"):
                remote.segment(image())
        finally:
            server.pause.unlink()


def test_no_server_is_an_error() -> None:
    with pytest.raises(BackendError, match="no Triton server answers"):
        TritonSegmenter(f"127.0.0.1:{free_port()}/tiny", patience_s=0)


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8000/tiny", "localhost:8001/a/b", ""])
def test_a_malformed_address_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match="give HOST:PORT/MODEL"):
        ps.load_model(backend="triton", url=url)


def test_address_and_backend_belong_together() -> None:
    with pytest.raises(ConfigError, match="needs the server's address"):
        ps.load_model(backend="triton")
    with pytest.raises(ConfigError, match="needs the backend triton"):
        ps.load_model(url="localhost:8001/tiny")
    with pytest.raises(ConfigError, match="uses the model of the server"):
        ps.load_model("tiny.onnx", backend="triton", url="localhost:8001/tiny")


def test_annotate_and_load_model_use_the_server(server: TritonServer, files: Path, tmp_path: Path) -> None:
    clip, url = make_clip(tmp_path / "clip.mp4"), f"127.0.0.1:{server.port}/tiny"
    tracks = []
    for name, options in (
        ("remote", ["--backend", "triton", "--url", url]),
        ("local", ["--model", files / "tiny.onnx"]),
    ):
        command = [sys.executable, "-m", "polypstream", "annotate", clip, "-o", tmp_path / name, "--overlay", "none"]
        done = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (records,) = (tmp_path / name).glob("*_polyps.jsonl")
        tracks.append([json.loads(line).get("polyps") for line in records.read_text(encoding="utf-8").splitlines()])
    assert tracks[0] == tracks[1]
    report = ps.annotate_batch([clip], tmp_path / "batch", backend="triton", url=url, overlay="none")
    assert (len(report.done), len(report.failed)) == (1, 0)
    with ps.load_model(backend="triton", url=url) as model:
        assert (model.backend, model.operating_points) == ("triton", CONTRACT.operating_points)
        assert model.predict(image()).probability.shape == (SIZE, SIZE)


def test_an_outage_is_waited_for_or_an_error_and_then_over(server: TritonServer) -> None:
    with opened(server, patience_s=60) as patient, opened(server, patience_s=2) as impatient:
        before = patient.segment(image())
        server.stop()
        with pytest.raises(BackendError, match="no Triton server answers"):
            impatient.segment(image())
        results: list[np.ndarray] = []
        waiting = threading.Thread(target=lambda: results.append(patient.segment(image())))
        waiting.start()
        server.start()
        waiting.join()
        assert np.array_equal(results[0], before)
        assert np.array_equal(impatient.segment(image()), before)


def test_another_model_after_a_restart_is_an_error(server: TritonServer, files: Path) -> None:
    with opened(server, patience_s=10) as remote:
        remote.segment(image())
        server.stop()
        newer = contract(version="2", threshold=0.9)
        folder = write_repository(
            write_green_finder(files / "newer.onnx", metadata=newer.to_metadata()), server.repository
        )
        (folder / "1").rename(folder / "2")
        server.start()
        with pytest.raises(BackendError, match="now has tiny 2 in place of tiny 1"):
            remote.segment(image())
