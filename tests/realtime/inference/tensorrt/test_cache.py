"""A matching engine is used from the cache, others are rebuilt; one named by the user is refused instead."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from polypstream.errors import BackendError, ModelError
from polypstream.files import write_atomically
from polypstream.realtime.inference.tensorrt import builder, engine_file
from polypstream.realtime.inference.tensorrt.adapter import TensorRt, load_tensorrt
from polypstream.realtime.inference.tensorrt.builder import BuildConfig
from polypstream.realtime.inference.tensorrt.cache import default_folder, engine_for, open_engine
from polypstream.realtime.inference.tensorrt.engine_file import (
    Sidecar,
    Target,
    read_engine_file,
    sidecar_path,
)
from tests.models import write_green_finder
from tests.realtime.inference.tensorrt.fakes import FakeCuda, write_fake_engine

AHEAD = BuildConfig(targets=("sm89",))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engines"


@pytest.mark.usefixtures("rtx")
def test_the_second_call_finds_it(green: Path, folder: Path) -> None:
    first = engine_for(green, folder, config=AHEAD)
    assert first.reason == "there was none"
    written = first.path.stat().st_mtime_ns
    second = engine_for(green, folder, config=AHEAD)
    assert second.reason is None
    assert (second.path, second.sidecar) == (first.path, first.sidecar)
    assert second.path.stat().st_mtime_ns == written


@pytest.mark.usefixtures("rtx")
def test_another_model_batch_or_target_is_another_engine(green: Path, folder: Path, tmp_path: Path) -> None:
    paths = {engine_for(green, folder, config=AHEAD).path}
    other = write_green_finder(tmp_path / "other.onnx", gain=0.3)
    paths.add(engine_for(other, folder, config=AHEAD).path)
    paths.add(engine_for(green, folder, config=BuildConfig(targets=("sm86",))).path)
    assert len(paths) == 3
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(green.read_bytes())
    assert engine_for(moved, folder, config=AHEAD).reason is None, "the name of the file does not matter"


@pytest.mark.usefixtures("rtx")
def test_another_version_of_tensorrt_is_another_engine(
    green: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = engine_for(green, folder, config=AHEAD)
    newer = replace(load_tensorrt("rtx"), version="1.8.0.1")
    monkeypatch.setattr(builder, "load_tensorrt", lambda _flavor=None: newer)
    second = engine_for(green, folder, config=AHEAD)
    assert second.reason is not None
    assert second.path != first.path


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("damage", ["cut", "changed", "no sidecar", "odd sidecar", "foreign sidecar"])
def test_damaged_and_foreign_files_are_rebuilt(green: Path, folder: Path, damage: str) -> None:
    path = engine_for(green, folder, config=AHEAD).path
    whole, described = path.read_bytes(), sidecar_path(path).read_text(encoding="utf-8")
    if damage == "cut":
        path.write_bytes(whole[:1000])
    elif damage == "changed":
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    elif damage == "no sidecar":
        sidecar_path(path).unlink()
    elif damage == "odd sidecar":
        sidecar_path(path).write_text("{", encoding="utf-8")
    else:
        plain = json.loads(described)
        plain["key"]["tensorrt_version"] = "1.0"
        sidecar_path(path).write_text(json.dumps(plain), encoding="utf-8")
    again = engine_for(green, folder, config=AHEAD)
    assert again.path == path
    assert again.reason
    assert path.name in again.reason or sidecar_path(path).name in again.reason
    assert read_engine_file(path).sidecar.engine_bytes == len(path.read_bytes())
    assert engine_for(green, folder, config=AHEAD).reason is None


@pytest.mark.usefixtures("rtx")
def test_a_concurrent_process_waits_and_uses_the_result(green: Path, folder: Path) -> None:
    reasons: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: reasons.append(engine_for(green, folder, config=AHEAD).reason))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reasons, key=str) == [None, None, None, "there was none"]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize("moment", ["sidecar", "engine"])
def test_a_kill_leaves_no_half_engine(green: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    """The process dies just before one of the two files is renamed."""

    def killed(path: Path, data: bytes | str) -> None:
        if (path.suffix == ".json") == (moment == "sidecar"):
            raise SystemExit(137)
        write_atomically(path, data)

    monkeypatch.setattr(engine_file, "write_atomically", killed)
    with pytest.raises(SystemExit):
        engine_for(green, folder, config=AHEAD)
    assert not list(folder.glob("*.engine"))
    monkeypatch.undo()
    assert engine_for(green, folder, config=AHEAD).reason == "there was none"


def test_the_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "polypstream" / "engines"


@pytest.mark.usefixtures("fake_trt")
def test_a_named_engine_that_fits_is_used(tmp_path: Path) -> None:
    written = write_fake_engine(tmp_path)
    assert open_engine(written.path).sidecar == written.sidecar
    ahead = Target(compute_capabilities=("sm86", "sm89"))
    assert open_engine(write_fake_engine(tmp_path, target=ahead).path).sidecar.key.target == ahead


@pytest.mark.usefixtures("fake_trt")
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(compute_capabilities=("sm80",), device_name="NVIDIA A100"), r"built for NVIDIA A100 \(sm80\), this"),
        (Target(compute_capabilities=("sm89",), device_name="NVIDIA L4"), r"built for NVIDIA L4 \(sm89\), this"),
        (Target(compute_capabilities=("sm75", "sm86")), r"built for any GPU of sm75, sm86, this machine has Stand-in"),
    ],
)
def test_a_named_engine_for_another_gpu_is_refused(tmp_path: Path, target: Target, message: str) -> None:
    path = write_fake_engine(tmp_path, target=target).path
    before = path.read_bytes()
    with pytest.raises(BackendError, match=message) as caught:
        open_engine(path)
    assert "polypstream build tiny.onnx" in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.usefixtures("fake_trt")
def test_a_named_engine_of_another_version_is_refused(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path, version="10.9.0.34").path
    with pytest.raises(BackendError, match=r"built with version 10\.9\.0\.34, installed is TensorRT 11\.4\.0\.106"):
        open_engine(path)


@pytest.mark.usefixtures("fake_trt")
def test_a_named_engine_of_another_model_is_refused(tmp_path: Path, green: Path) -> None:
    path = write_fake_engine(tmp_path / "engines").path
    (path.parent / "tiny.onnx").write_bytes(green.read_bytes())
    with pytest.raises(ModelError, match=r"built from another tiny\.onnx .* polypstream build tiny\.onnx"):
        open_engine(path)


def test_a_named_engine_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write_fake_engine(tmp_path).path
    whole = path.read_bytes()
    path.write_bytes(whole[:10])
    with pytest.raises(ModelError, match="truncated"):
        open_engine(path)
    path.write_bytes(whole[::-1])
    with pytest.raises(ModelError, match="changed since it was built"):
        open_engine(path)
    sidecar_path(path).unlink()
    with pytest.raises(ModelError, match=r"no readable tiny-0\.json next to it"):
        open_engine(path)
    with pytest.raises(ModelError, match="no engine at"):
        open_engine(tmp_path / "absent.engine")


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("key"),
        lambda plain: plain.update(engine_bytes="many"),
        lambda plain: plain.update(more=1),
        lambda plain: plain["key"].update(flavor="abacus"),
        lambda plain: plain["key"].update(largest_batch="8"),
        lambda plain: plain["key"].update(target=5),
        lambda plain: plain["contract"].update(threshold=2.0),
        lambda plain: plain.pop("input_name"),
    ],
)
def test_a_malformed_description_is_refused(tmp_path: Path, change: object) -> None:
    assert callable(change)
    plain = json.loads(write_fake_engine(tmp_path).sidecar.to_json())
    change(plain)
    with pytest.raises(ModelError):
        Sidecar.from_json(json.dumps(plain))
    for text in ("", "[]", "null", "{}", '"x"'):
        with pytest.raises(ModelError):
            Sidecar.from_json(text)


def test_rtx_is_asked_whether_an_engine_is_valid(
    tmp_path: Path, fake_trt: TensorRt, fake_cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace
    from typing import Any

    bits = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
    rtx: Any = SimpleNamespace(
        EngineValidity=SimpleNamespace(INVALID="invalid"), EngineInvalidityDiagnostics=SimpleNamespace(__members__=bits)
    )
    answer: list[object] = ["invalid", 6]
    monkeypatch.setattr(TensorRt, "rtx", property(lambda _: rtx))
    monkeypatch.setattr(
        fake_trt.module.Runtime, "get_engine_validity", lambda _self, _data: tuple(answer), raising=False
    )
    path = write_fake_engine(tmp_path).path
    with pytest.raises(BackendError, match=r"does not run here \(unsupported cc, old cuda driver\)"):
        open_engine(path)
    answer[:] = ["suboptimal", 0]
    assert open_engine(path).path == path
