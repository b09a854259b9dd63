"""Builds of the C++ code for tests: what git has of it, in a folder outside the checkout."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("CMakeLists.txt", "native")


def need(*programs: str) -> None:
    """Skip the test where one of these programs is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def cmake() -> str:
    """CMake of the system or of its Python package."""
    beside = Path(sys.executable).parent / "cmake"
    if beside.exists():
        return str(beside)
    need("cmake")
    return "cmake"


def run(*command: object, environment: Mapping[str, str] | None = None, cwd: Path | None = None) -> str:
    """Standard output of a command that must succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment, cwd=cwd)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build(folder: Path, **options: object) -> None:
    """Configure and build the C++ code in a folder."""
    need("c++", "cc")
    settings = [f"-D{name}={value}" for name, value in options.items()]
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    run(cmake(), "-S", ROOT, "-B", folder, *generator, *settings)
    run(cmake(), "--build", folder, "--parallel", "2")
