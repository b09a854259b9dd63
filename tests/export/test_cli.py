"""`polypstream export` from the command line."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest

from polypstream.cli import main
from polypstream.contract import ModelContract
from polypstream.errors import ConfigError
from polypstream.export.config import operating_points_from_json

BLOCK_KERAS = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "tf2onnx", "onnx", "onnxslim"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
from polypstream.cli import main
main()
"""


def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """The one line that a failing command leaves on standard error."""
    monkeypatch.setattr(sys, "argv", ["polypstream", "export", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_command_prints_only_its_report(tiny_file: Path, tmp_path: Path) -> None:
    output, points = tmp_path / "small.onnx", tmp_path / "points.json"
    points.write_text('[{"name": "sensitive", "threshold": 0.3, "min_peak": 0.6}, {"name": "sure", "threshold": 0.9}]')
    arguments = ["--output", output, "--width", 32, "--height", 24, "--name", "mine", "--model-version", "7", "--json"]
    arguments += ["--operating-points", points, "--min-peak", 0.8]
    done = subprocess.run(
        [sys.executable, "-c", "from polypstream.cli import main; main()", "export", tiny_file, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=_environment(KERAS_BACKEND="jax"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["contract"]["name"] == "mine"
    assert report["contract"]["version"] == "7"
    assert (report["contract"]["height"], report["contract"]["width"]) == (24, 32)
    contract = ModelContract.from_metadata({entry.key: entry.value for entry in onnx.load(output).metadata_props})
    assert contract.min_peak == 0.8
    assert [(p.name, p.threshold, p.min_peak) for p in contract.operating_points] == [
        ("sensitive", 0.3, 0.6),
        ("sure", 0.9, 0),
    ]
    assert report["verification"]["largest_difference"] <= 1e-5
    assert report["nodes"] == sum(report["operators"].values()) == len(onnx.load(output).graph.node)
    assert report["size_bytes"] == output.stat().st_size


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[", "cannot be read as JSON"),
        ("[]", "must contain a list such as"),
        ('[{"name": "a", "threshold": 2}]', "must be between 0 and 1"),
        ('[{"name": "a", "threshold": 0.5, "area": 1}]', "unexpected keyword argument 'area'"),
    ],
)
def test_invalid_operating_points_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "points.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        operating_points_from_json(path)


def test_the_table_names_file_size_and_difference(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_file: Path, tmp_path: Path
) -> None:
    model = tmp_path / "copy.keras"
    model.write_bytes(tiny_file.read_bytes())
    monkeypatch.setattr(sys, "argv", ["polypstream", "export", str(model)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("largest difference to Keras", "tiny", "Conv", "MB", "24x16"))
    assert (tmp_path / "copy.onnx").exists()


def test_bad_input_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tiny_file: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.keras"
    text.write_text("not a model", encoding="utf-8")
    output = ("--output", tmp_path / "out.onnx")
    assert "does not exist" in fail(capsys, monkeypatch, tmp_path / "absent.keras", *output)
    assert "is not a .keras file" in fail(capsys, monkeypatch, text, *output)
    assert "is not a .keras file" in fail(capsys, monkeypatch, tmp_path, *output)
    assert "multiples of 8" in fail(capsys, monkeypatch, tiny_file, *output, "--height", 100)
    assert "between 0 and 1" in fail(capsys, monkeypatch, tiny_file, *output, "--threshold", 1)
    assert "from 0 to below 1" in fail(capsys, monkeypatch, tiny_file, *output, "--min-peak", 1)
    assert "ends in .onnx" in fail(capsys, monkeypatch, tiny_file, "--output", tiny_file)
    assert "cannot be written" in fail(capsys, monkeypatch, tiny_file, "--output", tmp_path / "no" / "out.onnx")
    assert list(tmp_path.iterdir()) == [text]


def test_a_zip_that_is_not_a_model_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "cannot be read as a Keras model" in fail(capsys, monkeypatch, tmp_path / "other.keras")
    assert not (tmp_path / "other.onnx").exists()


def test_without_the_extra_the_message_names_it(tiny_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_KERAS, "export", tiny_file], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "[export]'" in done.stderr


def _environment(**changes: str) -> dict[str, str]:
    return {**os.environ, **changes}
