"""Benchmark reports: machine, versions and commit of a benchmark, and the location of its JSON file."""

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("polypstream", "numpy", "opencv-python", "av", "onnxruntime")


def machine() -> dict[str, object]:
    """Describe processor, cores and system of this machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found.group(1) if found else platform.processor() or "unknown"


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that influence results."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Return the commit of the checkout, with a `+` if files are modified; `unknown` outside a checkout."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_report(name: str, results: dict[str, object], *, folder: Path = RESULTS, device: str | None = None) -> Path:
    """Write a benchmark's results with their environment; returns the path of the file.

    The file is named after the processor, or the `device` that did the work.
    """
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    origin = {"benchmark": name, "measured": measured, "commit": commit(), "machine": machine(), "versions": versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", (device or f"{_processor()} {os.cpu_count()} cores").lower()).strip("-")
    path = folder / f"{name}-{slug}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **results}, indent=2) + "\n", encoding="utf-8")
    return path


def write_table(report: Path, table: str) -> Path:
    """Write Markdown next to a report, with a line about its environment; returns the path of the file."""
    details = json.loads(report.read_text(encoding="utf-8"))
    machine, path = details["machine"], report.with_suffix(".md")
    origin = f"`python -m benchmarks.{details['benchmark']}`, commit {details['commit']}, {machine['processor']}"
    path.write_text(f"{origin}, {machine['cores']} cores.\n\n{table}\n", encoding="utf-8")
    return path
