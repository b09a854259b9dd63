"""What every benchmark says about itself: the machine, the versions, the commit; and where its JSON goes."""

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
    """Processor, cores and system of this machine."""
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
    """Installed versions of what decides the figures."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The checkout's commit, with a `+` where files differ from it; `unknown` outside a checkout."""
    try:
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def write_report(name: str, results: dict[str, object], *, folder: Path = RESULTS) -> Path:
    """Write one benchmark's figures beside what they were measured on; returns the file's path."""
    measured = datetime.now(UTC).isoformat(timespec="seconds")
    origin = {"benchmark": name, "measured": measured, "commit": commit(), "machine": machine(), "versions": versions()}
    slug = re.sub(r"[^a-z0-9]+", "-", f"{_processor()} {os.cpu_count()} cores".lower()).strip("-")
    path = folder / f"{name}-{slug}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**origin, **results}, indent=2) + "\n", encoding="utf-8")
    return path


def write_table(report: Path, table: str) -> Path:
    """Write Markdown beside a report, under a line that says what it was measured on; returns the file's path."""
    told = json.loads(report.read_text(encoding="utf-8"))
    machine, path = told["machine"], report.with_suffix(".md")
    origin = f"`python -m benchmarks.{told['benchmark']}`, commit {told['commit']}, {machine['processor']}"
    path.write_text(f"{origin}, {machine['cores']} cores.\n\n{table}\n", encoding="utf-8")
    return path
