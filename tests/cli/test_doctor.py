"""`polypstream doctor` tells what is there and how to get the rest."""

import json
import subprocess
import sys


def doctor(*options: str, before: str = "") -> str:
    call = f"import sys; sys.argv = ['polypstream', 'doctor', *{options!r}]; from polypstream.cli import main; main()"
    code = f"{before}\n{call}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_is_there_is_named_with_its_version() -> None:
    import onnxruntime

    rows = {row["what"]: row for row in json.loads(doctor("--json"))}
    assert rows["onnxruntime"]["found"].startswith(onnxruntime.__version__)
    assert "libx264" in rows["video encoders"]["found"]
    assert "cores" in rows["processor"]["found"]


def test_what_is_missing_comes_with_the_command_that_installs_it() -> None:
    hidden = (
        "import importlib.metadata as m; real = m.version\n"
        "def version(name):\n"
        "    if name == 'openvino': raise m.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "m.version = version"
    )
    rows = {row["what"]: row for row in json.loads(doctor("--json", before=hidden))}
    assert rows["openvino"]["found"] is None
    assert rows["openvino"]["mend"] == "pip install 'polypstream[openvino]'"


def test_the_table_fits_a_terminal() -> None:
    assert all(len(line) <= 80 for line in doctor().splitlines())
