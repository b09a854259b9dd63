"""Every command and example in the README works, in a separate environment."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.core
import typer.main

from polypstream.cli import app
from tests.models import write_green_finder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    """The indented command lines of the README."""
    return re.findall(r"^    ((?:python3|\.venv|make) .+)$", README, flags=re.MULTILINE)


def test_ci_runs_exactly_the_readmes_test_command() -> None:
    (tests,) = [command for command in commands() if "pytest" in command]
    assert tests in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_option_and_subcommand_named_exists() -> None:
    registered = {command.name for command in app.registered_commands}
    named = set(re.findall(r"(?<!import )polypstream ([a-z]+) ", README))
    assert {"annotate", "live", "train", "evaluate", "export"} <= named <= registered
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    options = {name for command in group.commands.values() for option in command.params for name in option.opts}
    for option in re.findall(
        r"(--[a-z][a-z-]+)", "\n".join(re.findall(r"`[^`]+`|^    .*polypstream .*$", README, re.M))
    ):
        assert option in options, option


def test_every_file_and_folder_named_exists() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README) + re.findall(r"^\| `([a-z/]+)/`", README, flags=re.MULTILINE):
        assert (ROOT / name).exists(), name


@pytest.mark.slow
def test_the_first_command_installs_and_annotates_the_demo_in_a_new_environment(tmp_path: Path) -> None:
    (install,) = [command for command in commands() if "--demo" in command]
    there = install.replace("pip install .", f"pip install -q {ROOT}").replace(".venv", str(tmp_path / "venv"))
    done = subprocess.run(["bash", "-c", there], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "demo" / "demo_overlay.mp4").stat().st_size > 100_000
    lines = (tmp_path / "demo" / "demo_polyps.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["index"] for line in lines] == list(range(250))
    packages = subprocess.run([tmp_path / "venv" / "bin" / "pip", "list"], capture_output=True, text=True, check=True)
    assert "tensorflow" not in packages.stdout.lower()


EXAMPLES = re.findall(r"```python\n(.+?)```", README, flags=re.DOTALL)


def test_the_live_example_runs(tmp_path: Path) -> None:
    from polypstream.synthetic import SyntheticClip, write_clip

    _, example = EXAMPLES
    (tmp_path / "demo").mkdir()
    write_clip(tmp_path / "demo" / "demo.mp4", SyntheticClip(width=96, height=96, seconds=0.4))
    model = write_green_finder(tmp_path / "tiny.onnx")
    quick = example.replace("load_model()", f"load_model({str(model)!r})").replace('"specific"', "None")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", quick], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("0.36 ")


def test_the_python_example_runs(tmp_path: Path) -> None:
    from polypstream.synthetic import SyntheticClip, write_clip

    example, _ = EXAMPLES
    (tmp_path / "demo").mkdir()
    write_clip(tmp_path / "demo" / "demo.mp4", SyntheticClip(width=96, height=96, seconds=0.4))
    model = write_green_finder(tmp_path / "tiny.onnx")
    quick = example.replace("load_model()", f"load_model({str(model)!r})")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", quick], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of 10 frames" in done.stdout
    assert (tmp_path / "annotated" / "demo_overlay.mp4").exists()
