"""The layer rules of pyproject.toml hold, and the base install needs no optional package."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import polypstream

TRAINING = ("tensorflow", "keras", "torch", "jax", "tf2onnx", "onnx", "onnxslim")
RUNTIMES = ("openvino", "tensorrt", "tensorrt_rtx", "cuda", "pycuda")
LIVE = ("aiohttp", "segno", "aiortc", "cyndilib", "paho", "prometheus_client", "pyvirtualcam", "gi")
OPTIONAL = TRAINING + RUNTIMES + LIVE
ROOT = Path(__file__).parents[1]


def run(*code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *code], capture_output=True, text=True, check=False, cwd=ROOT)


def test_imports_flow_one_way() -> None:
    checked = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert checked.returncode == 0, checked.stdout
    assert "0 broken" in checked.stdout


def test_everything_but_training_and_export_imports_without_optional_packages() -> None:
    places = list(polypstream.__path__)  # in an editable install, the native module is in a place of its own
    names = [
        module.name
        for module in pkgutil.walk_packages(places, "polypstream.")
        if not module.name.startswith(("polypstream.train.", "polypstream.export."))
    ]
    assert "polypstream.realtime.annotate.pipeline" in names
    assert "polypstream.cli.train" in names
    code = f"""
import builtins, importlib
real = builtins.__import__
def refuse(name, *args, **kwargs):
    if name.split('.')[0] in {OPTIONAL!r}:
        raise ModuleNotFoundError(f"{{name}} is an optional package")
    return real(name, *args, **kwargs)
builtins.__import__ = refuse
for name in {names!r}:
    importlib.import_module(name)
"""
    done = run("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr


def test_help_is_quick_to_reach() -> None:
    """The command line imports no network runtime and no video library before they are needed."""
    code = "import sys, polypstream.cli; print([n for n in ('onnxruntime', 'av', 'cv2', 'keras') if n in sys.modules])"
    assert run("-c", code).stdout.strip() == "[]"
