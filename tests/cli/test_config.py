"""`--config`: options from a TOML file, below the command line, with errors that name the nearest key."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from polypstream.cli import app
from polypstream.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "packaging" / "polypstream.toml"


def params_of(command: str, *arguments: str) -> dict[str, object]:
    """The parsed options of a command."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    parent = group.make_context("polypstream", [command], resilient_parsing=True)
    return dict(group.commands[command].make_context(command, list(arguments), parent=parent).params)


def written(folder: Path, text: str) -> str:
    path = folder / "polypstream.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        '[live]\nsource = "clip.mp4"\nfade_ms = 100\npush = ["hls", "udp://host:1"]\nrecord-now = true\n'
        'threshold = 0.25\nbackend = "openvino"\n[annotate]\njobs = 3\n',
    )
    params = params_of("live", "--threshold", "0.5", "--config", file)
    assert (params["threshold"], params["fade_ms"], params["record_now"]) == (0.5, 100.0, True)
    assert (params["source"], params["backend"].value) == (["clip.mp4"], "openvino")  # type: ignore[attr-defined]
    assert list(params["push"]) == ["hls", "udp://host:1"]  # type: ignore[call-overload]
    assert (params["record"], params["output"]) == ("feed", Path("live"))
    assert params_of("live", "other.mp4", "--config", file)["source"] == ["other.mp4"]
    assert params_of("annotate", "--config", file)["jobs"] == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[live]\ntreshold = 0.5\n", r"\[live\] unknown key 'treshold'; the nearest known one is 'threshold'"),
        ("[lives]\nthreshold = 0.5\n", "unknown key 'lives'; the nearest known one is 'live'"),
        ("threshold = 0.5\n", r"unknown key 'threshold'.*put options into a table \[live\]"),
        ("[live]\nrecord-now = 1\n", "record-now is 1; use true or false"),
        ("[live]\nserve = ['a', 'b']\n", "use a text or a number"),
        ("[live]\npush = [true]\n", "or a list of them"),
        ("[live\n", "is not valid TOML"),
        ("[live]\nconfig = 'x'\n", "unknown key 'config'"),
    ],
)
def test_wrong_file_is_an_error_that_names_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        params_of("live", "--config", written(tmp_path, text), "clip.mp4")
    with pytest.raises(ConfigError, match="cannot be read"):
        params_of("live", "--config", str(tmp_path / "missing.toml"), "clip.mp4")


def polypstream(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "polypstream", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"})


@pytest.mark.parametrize("command", ["live", "annotate"])
def test_printed_file_has_every_option_and_is_accepted(tmp_path: Path, command: str) -> None:
    printed = polypstream(command, "--print-config")
    assert printed.returncode == 0, printed.stderr
    file = written(tmp_path, printed.stdout)
    assert params_of(command, "--config", file, "x") == {
        **params_of(command, "x"),
        "config": Path(file),
    }
    names = {line.removeprefix("# ").partition(" =")[0] for line in printed.stdout.splitlines() if " =" in line}
    assert {"threshold", "backend", "output"} <= names
    again = polypstream(command, "--config", file, "--print-config")
    assert tomllib.loads(again.stdout) == tomllib.loads(printed.stdout)


def test_every_line_of_the_example_is_accepted(tmp_path: Path) -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    complete = "\n".join(
        line.removeprefix("# ") if " = " in line and line.startswith("# ") else line for line in text.splitlines()
    )
    params = params_of("live", "--config", written(tmp_path, complete))
    assert params["mqtt"] == "mqtts://broker.example.org/polypstream/events"
    assert params["record_now"] is True
