"""A clean checkout installs with and without a compiler."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.native.build import ROOT, need, run

pytestmark = pytest.mark.slow
HAS_NO_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false", "CMAKE_ARGS": "-DPOLYPSTREAM_CUDA=OFF"}
ENTRIES = ("polypstream/realtime/native.py", "polypstream/train/__init__.py", "polypstream/export/__init__.py")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has, without models and weights, as a checkout has it: with links."""
    need("git")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in listed.stdout.splitlines():
        source, target = ROOT / name, folder / name
        if name.startswith(("tests/", "docs/", "weights/")) or source.suffix == ".onnx" or not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return folder


def backend(call: str, checkout: Path, folder: Path, **environment: str) -> Path:
    """What a call of the build backend made in a folder."""
    pytest.importorskip("scikit_build_core.build")
    folder.mkdir(exist_ok=True)
    code = f"import sys; from scikit_build_core import build; build.{call}(sys.argv[1])"
    # Without optimization, and away from what another test built.
    quick = {"SKBUILD_CMAKE_BUILD_TYPE": "Debug", "SKBUILD_BUILD_DIR": str(folder.with_suffix(".build"))}
    run(sys.executable, "-c", code, folder, cwd=checkout, environment={**os.environ, **quick, **environment})
    (made,) = folder.iterdir()
    return made


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def loads(wheel: Path, folder: Path) -> str:
    """What the unpacked wheel says of its native module, where nothing of the checkout is found."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    code = f"""
import sys
sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__name__.startswith("ScikitBuild")]
sys.path.insert(0, {str(folder)!r})
from polypstream.realtime import native
assert native.__file__.startswith({str(folder)!r})
print(native.is_available(), native.has_kernels(), native._module and native._module.device_count() >= 0)
"""
    return run(sys.executable, "-c", code, cwd=folder).strip()


def test_a_source_distribution_builds_without_a_cuda_compiler(checkout: Path, tmp_path: Path) -> None:
    need("c++")
    archive = backend("build_sdist", checkout, tmp_path / "sdist")
    shutil.unpack_archive(archive, tmp_path / "source")
    (source,) = (tmp_path / "source").iterdir()
    wheel = backend("build_wheel", source, tmp_path / "wheel", CMAKE_ARGS="-DPOLYPSTREAM_CUDA=OFF")
    names = names_in(wheel)
    assert any(name.startswith("polypstream/_native.") for name in names)
    assert set(ENTRIES) <= set(names)
    assert not any(name.startswith(("train/", "realtime/", "native/")) for name in names)
    assert "-py3-none-any" not in wheel.name
    assert loads(wheel, tmp_path / "unpacked") == "True False True"


def test_with_a_cuda_compiler_it_has_kernels(checkout: Path, tmp_path: Path) -> None:
    need("c++", "nvcc")
    wheel = backend("build_wheel", checkout, tmp_path / "wheel", CMAKE_ARGS="-DPOLYPSTREAM_ARCHITECTURES=75")
    assert loads(wheel, tmp_path / "unpacked") == "True True True"


def test_without_a_compiler_it_is_pure_python(checkout: Path, tmp_path: Path) -> None:
    wheel = backend("build_wheel", checkout, tmp_path / "wheel", **HAS_NO_COMPILER)
    names = names_in(wheel)
    assert "-py3-none-any" in wheel.name
    assert set(ENTRIES) <= set(names)
    assert not any(name.startswith("polypstream/_native.") and not name.endswith(".pyi") for name in names)
    assert loads(wheel, tmp_path / "unpacked") == "False False None"
