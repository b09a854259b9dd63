"""What GStreamer's own Python must be told to find the element, and this package with it."""

import os
import shlex
import sysconfig
from collections.abc import Mapping
from pathlib import Path

import polypstream

PLUGIN_FOLDER = Path(__file__).parent / "plugin"
"""GStreamer looks for elements in its subfolder `python`."""
DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
"""Where Debian's PyGObject is. With a virtual environment first on PATH, GStreamer's Python takes that for its own, and
does not find it by itself."""


def environment(present: Mapping[str, str] | None = None) -> dict[str, str]:
    """GST_PLUGIN_PATH and PYTHONPATH with what polypoverlay needs put before what they hold already.

    Debian's own packages come last. The Python of GStreamer's plugin loader must be of the same version as the one that
    this package is installed in.
    """
    present = os.environ if present is None else present
    packages = dict.fromkeys(
        [str(Path(polypstream.__path__[0]).parent), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    )
    if (DEBIAN_PACKAGES / "gi").is_dir():
        packages[str(DEBIAN_PACKAGES)] = None
    return {
        "GST_PLUGIN_PATH": _put_before([str(PLUGIN_FOLDER)], present.get("GST_PLUGIN_PATH")),
        "PYTHONPATH": _put_before(list(packages), present.get("PYTHONPATH")),
    }


def exports() -> str:
    """The same as lines for a shell: `eval "$(python -m polypstream.realtime.gstreamer)"`."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment().items())


def _put_before(paths: list[str], present: str | None) -> str:
    held = [path for path in (present or "").split(os.pathsep) if path and path not in paths]
    return os.pathsep.join([*paths, *held])
