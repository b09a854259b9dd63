"""The exception hierarchy.

    PolypstreamError
    ├── ConfigError(ValueError)            an option or argument is out of range
    ├── SourceError(OSError)               a video, image or stream cannot be opened or read
    ├── OutputError(OSError)               an output cannot be created or written
    ├── ModelError(ValueError)             a model file is missing, damaged, or not of this package
    ├── BackendError(RuntimeError)         an inference backend cannot start, or failed
    │   └── ProviderMissingError           the runtime lacks the part that a backend needs
    ├── DatasetError(ValueError)           training data are missing, unreadable or inconsistent
    ├── TrainingError(RuntimeError)        a training run cannot start or resume
    └── MissingExtraError(ImportError)     an optional package is not installed

Each is also a builtin exception, so that calling code does not need this module. Every message says what was received
and how to fix it, on one line.
"""

import json
import os
import shlex
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit


class PolypstreamError(Exception):
    """Base of all errors of this package."""


class ConfigError(PolypstreamError, ValueError):
    """An option or argument is out of range, or options contradict each other."""


class SourceError(PolypstreamError, OSError):
    """A video, image or stream cannot be opened or read."""


class OutputError(PolypstreamError, OSError):
    """An output cannot be created or written."""


class ModelError(PolypstreamError, ValueError):
    """A model file is missing, damaged, or was not made by this package."""


class BackendError(PolypstreamError, RuntimeError):
    """An inference backend cannot start, failed while running, or returned values that are not probabilities."""


class ProviderMissingError(BackendError):
    """The runtime is installed, but without the part that a backend needs."""


class DatasetError(PolypstreamError, ValueError):
    """Training data are missing, unreadable or inconsistent; the message lists every case."""


class TrainingError(PolypstreamError, RuntimeError):
    """A training run cannot start, resume or continue."""


class MissingExtraError(PolypstreamError, ImportError):
    """An optional part of the package is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part of polypstream; install it with: {install_command(extra)}")


def install_command(extra: str) -> str:
    """The shell command that adds an extra of this package to the environment it runs in."""
    prefix, wanted = Path(sys.prefix), requirement(extra)
    for tool, part in (("pipx install", "pipx"), ("uv tool install", "uv")):
        if part in prefix.parts:
            return f"{tool} --force {wanted}"
    pip = prefix / "bin" / "pip"
    if not pip.exists() and sys.prefix != sys.base_prefix:  # as uv makes environments
        return f"uv pip install --python {shlex.quote(sys.executable)} {wanted}"
    if sys.prefix == sys.base_prefix or os.environ.get("VIRTUAL_ENV") == sys.prefix:
        return f"pip install {wanted}"
    here = Path.cwd()
    return f"{shlex.quote(str(pip.relative_to(here) if pip.is_relative_to(here) else pip))} install {wanted}"


def requirement(extra: str) -> str:
    """Requirement for an extra, quoted for a shell, from the origin of this installation.

    Installations from a checkout or file are preserved, as the index may not contain this package; so is editable mode.
    """
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        origin = json.loads(distribution("polypstream").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url = str(origin.get("url", ""))
    if "dir_info" in origin and url.startswith("file://"):
        place = f"{unquote(urlsplit(url).path)}[{extra}]"
        return f"--editable '{place}'" if origin["dir_info"].get("editable") else f"'{place}'"
    if url:
        system = origin.get("vcs_info", {}).get("vcs")
        return f"'polypstream[{extra}] @ {system + '+' if system else ''}{url}'"
    return f"'polypstream[{extra}]'"
