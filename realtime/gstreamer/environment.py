"""Environment variables through which GStreamer's Python finds the element and this package."""

import os
import shlex
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import polypstream

PLUGIN_FOLDER = Path(__file__).parent / "plugin"
"""Plugin folder; GStreamer loads elements from its subfolder `python`."""
DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
"""Debian's folder with PyGObject. With a virtual environment first on PATH, GStreamer's Python uses that environment,
which does not include it."""


def environment(present: Mapping[str, str] | None = None) -> dict[str, str]:
    """GST_PLUGIN_PATH and PYTHONPATH for polypoverlay, followed by their existing entries.

    Debian's packages come last. GStreamer's plugin loader must use the Python version of this installation.

    Args:
        present: Environment to extend; None for that of this process.
    """
    present = os.environ if present is None else present
    packages = dict.fromkeys(
        [str(Path(polypstream.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    )
    if (DEBIAN_PACKAGES / "gi").is_dir():
        packages[str(DEBIAN_PACKAGES)] = None
    return {
        "GST_PLUGIN_PATH": _put_before([str(PLUGIN_FOLDER)], present.get("GST_PLUGIN_PATH")),
        "PYTHONPATH": _put_before(list(packages), present.get("PYTHONPATH")),
    }


def exports() -> str:
    """The environment as shell commands: `eval "$(python -m polypstream.realtime.gstreamer)"`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment().items())


def _put_before(paths: list[str], present: str | None) -> str:
    held = [path for path in (present or "").split(os.pathsep) if path and path not in paths]
    return os.pathsep.join([*paths, *held])
