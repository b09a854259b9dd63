"""`polypstream build` from the command line."""

import json
import sys
from pathlib import Path

import pytest
import typer

from polypstream import cli
from polypstream.cli import build
from polypstream.realtime import cuda
from tests.models import SIZE, write_green_finder
from tests.realtime.inference.tensorrt.conftest import RTX_MISSING
from tests.realtime.inference.tensorrt.fakes import FakeCuda, cudaError_t


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> object:
    """Calls the command on a machine without a driver; returns exit code, output and errors."""
    pytest.importorskip("tensorrt_rtx", reason=RTX_MISSING)
    no_driver = FakeCuda(count=0)
    no_driver.probe = cudaError_t.cudaErrorInsufficientDriver
    monkeypatch.setattr(cuda, "imported", no_driver.module)
    if "build" not in {command.name for command in cli.app.registered_commands}:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(lambda: None)
        build.register(app)
        monkeypatch.setattr(cli, "app", app)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["polypstream", "build", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out, captured.err

    return call


def test_without_a_driver_it_builds_for_named_targets(tmp_path: Path, run: object) -> None:
    assert callable(run)
    model = write_green_finder(tmp_path / "m.onnx")
    code, out, err = run(model, "--output", tmp_path / "out", "--target", "SM86, sm89")
    assert (code, err) == (0, "")
    assert all(text in out for text in ("TensorRT-RTX", "any GPU of sm86, sm89", "MB", " s", "fp32", f"{SIZE}x{SIZE}"))
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".engine", ".json"]


def test_json_is_for_machines(tmp_path: Path, run: object) -> None:
    assert callable(run)
    model = write_green_finder(tmp_path / "m.onnx")
    code, out, _ = run(model, "-o", tmp_path, "--target", "sm89", "--workspace-mib", 64, "--batch", 4, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["engine_bytes"] == Path(report["engine"]).stat().st_size
    assert report["key"]["target"]["compute_capabilities"] == ["sm89"]
    assert report["key"]["largest_batch"] == 4


def test_without_a_driver_or_a_target_it_is_one_line(tmp_path: Path, run: object) -> None:
    assert callable(run)
    code, out, err = run(write_green_finder(tmp_path / "m.onnx"), "--output", tmp_path / "out")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "no NVIDIA driver" in err
    assert "the onnxruntime backend" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "sm90"], "does not build for sm90"),
        (["--target", ""], "not a compute capability"),
        (["--target", "sm89", "--output", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, run: object, arguments: list[str], message: str) -> None:
    assert callable(run)
    code, out, err = run(write_green_finder(tmp_path / "m.onnx"), *arguments)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err


def test_a_file_that_is_not_a_model_is_one_line(tmp_path: Path, run: object) -> None:
    assert callable(run)
    text = tmp_path / "notes.onnx"
    text.write_text("not a model")
    code, _, err = run(text, "--target", "sm89")
    assert (code, err.count("\n")) == (1, 1)
    assert "not an ONNX file" in err


@pytest.mark.parametrize("arguments", [[], ["m.onnx", "--batch", "0"], ["m.onnx", "--workspace-mib", "x"]])
def test_wrong_usage_is_exit_code_2(run: object, arguments: list[str]) -> None:
    assert callable(run)
    assert run(*arguments)[0] == 2
