"""The command line as a whole: help, completion, shared options, ways to start it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

from polypstream.cli import app
from polypstream.cli.options import BackendName
from polypstream.realtime.inference.segmenter import AUTO, BACKENDS, TRITON

COMMANDS = [command.name for command in app.registered_commands if command.name]
PYTHON_TYPES = ("<bool>", "<list[", "<str>", "<float>", "<float range>", "<int>", "<int range>", "<Path", "BOOLEAN")
INSTALLED = Path(sys.executable).with_name("polypstream")
PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "100"}


def polypstream(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "polypstream", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **PLAIN, **environment},
    )


@pytest.mark.parametrize("command", [None, *COMMANDS], ids=str)
def test_help_shows_no_python_types_and_every_default_once(command: str | None) -> None:
    done = polypstream(*([command] if command else []), "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage: python -m polypstream" in done.stdout
    for name in PYTHON_TYPES:
        assert name not in done.stdout
    assert "(default:" not in done.stdout


def test_help_reflows_paragraphs_to_the_terminal() -> None:
    narrow, wide = (polypstream("annotate", "--help", COLUMNS=columns).stdout for columns in ("60", "160"))
    assert max(map(len, narrow.splitlines())) <= 60
    (line,) = [line for line in wide.splitlines() if "Writes for each video" in line]
    assert len(line.strip()) > 100


def test_no_help_has_brackets_which_would_be_read_as_markup() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    params = [param for command in group.commands.values() for param in command.params]
    assert [param.name for param in params if "[" in (getattr(param, "help", None) or "")] == []


def test_the_backends_offered_are_those_that_exist() -> None:
    assert [name.value for name in BackendName] == [AUTO, *BACKENDS, TRITON]


def test_every_backend_option_is_the_enumeration() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    with_backend = set()
    for name, command in group.commands.items():
        for param in command.params:
            if "--backend" in param.opts:
                with_backend.add(name)
    assert {"annotate", "live"} <= with_backend
    for name in with_backend:
        refused = polypstream(name, "x", "--backend", "cuda")
        assert refused.returncode == 2
        assert "onnxruntime-cuda" in refused.stderr


def test_the_shell_completes_commands_and_backends() -> None:
    for words, expected in {
        "polypstream ann": ["annotate"],
        "polypstream annotate --backend open": ["openvino", "openvino-bf16"],
    }.items():
        shell = {"_POLYPSTREAM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        done = subprocess.run([INSTALLED], capture_output=True, text=True, check=False, env={**os.environ, **shell})
        assert done.stdout.split() == expected


def test_a_command_name_mistyped_gets_a_suggestion() -> None:
    refused = polypstream("anotate")
    assert refused.returncode == 2
    assert "annotate" in refused.stderr


def test_the_installed_command_and_the_module_are_the_same() -> None:
    by_name = subprocess.run([INSTALLED, "--version"], capture_output=True, text=True, check=True).stdout
    assert by_name == polypstream("--version").stdout
