"""The model repository for Triton: both configurations by Triton's own schema, and the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from polypstream.contract import ModelContract
from polypstream.export.triton import write_repository
from tests.models import SIZE, contract, write_green_finder

pytest.importorskip("tritonclient", reason="tritonclient is not installed: pip install 'polypstream[triton]'")


@pytest.mark.parametrize(
    ("file", "runtime", "kind"),
    [
        ("config.pbtxt", ("onnxruntime", "", "model.onnx"), 0),
        ("configs/tensorrt.pbtxt", ("", "tensorrt_plan", "model.plan"), 1),
    ],
)
def test_configurations_follow_the_schema(tmp_path: Path, file: str, runtime: tuple[str, ...], kind: int) -> None:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    facts = contract(name="mine", training_data='hôpital "A"\\B\nnew {line}')
    model = write_green_finder(tmp_path / "m.onnx", metadata=facts.to_metadata())
    folder = write_repository(model, tmp_path / "repository")
    assert folder == tmp_path / "repository" / "mine"
    config = text_format.Parse((folder / file).read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    assert (config.backend, config.platform, config.default_model_filename) == runtime
    assert (config.name, config.max_batch_size, config.instance_group[0].kind) == ("mine", 0, kind)
    ports = [(port.name, port.data_type, list(port.dims)) for port in (config.input[0], config.output[0])]
    assert ports == [
        ("image", model_config_pb2.TYPE_UINT8, [1, SIZE, SIZE, 3]),
        ("probability", model_config_pb2.TYPE_FP32, [1, SIZE, SIZE, 1]),
    ]
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    assert ModelContract.from_metadata(parameters) == facts
    assert (folder / "1" / "model.onnx").read_bytes() == model.read_bytes()


def export(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polypstream", "export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_takes_an_onnx_file_and_only_writes_the_repository(tmp_path: Path) -> None:
    model = write_green_finder(tmp_path / "m.onnx")
    done = export(model, "--triton", tmp_path / "repository")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "repository" / "tiny" / "config.pbtxt").is_file()
    for options, problem in (
        ([], "is an ONNX file; give a .keras file, or --triton"),
        (["--triton", tmp_path / "other", "--threshold", "0.3"], "leave out threshold"),
    ):
        refused = export(model, *options)
        assert refused.returncode == 1
        assert problem in " ".join(refused.stderr.split())
    assert not (tmp_path / "other").exists()
