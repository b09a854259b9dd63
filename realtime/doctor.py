"""What this machine has for running the software, what is missing, and the command that installs it."""

import os
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from polypstream.errors import PolypstreamError

INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx_vnni": "VNNI", "amx_bf16": "AMX"}
"""Names in /proc/cpuinfo of what makes inference faster, and what they are called."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked for."""

    what: str
    found: str | None
    """What is there; None where it is missing."""
    mend: str | None = None
    """The command, or what else to do, that adds what is missing."""


def findings() -> list[Finding]:
    """Look for everything; takes a second or two, and raises nothing."""
    return [
        Finding(what="processor", found=f"{_processor()}, {os.cpu_count()} cores"),
        Finding(what="NVIDIA GPU", found=_gpu(), mend="install NVIDIA's driver, if the machine has such a GPU"),
        _checked("video encoders", _encoders, "pip install --force-reinstall av"),
        _checked("onnxruntime", _onnxruntime, "pip install onnxruntime"),
        _package("openvino", "pip install 'polypstream[openvino]'"),
        _package("cuda-bindings", "pip install 'polypstream[rtx]'"),
        _package("tensorrt-rtx", "pip install 'polypstream[rtx]'"),
        _package("tensorrt", "pip install 'polypstream[tensorrt]'"),
        _package("keras", "pip install 'polypstream[train]'"),
        _package("tf2onnx", "pip install 'polypstream[export]'"),
    ]


def _package(name: str, mend: str) -> Finding:
    try:
        return Finding(what=name, found=version(name))
    except PackageNotFoundError:
        return Finding(what=name, found=None, mend=mend)


def _checked(what: str, look: Callable[[], str], mend: str) -> Finding:
    try:
        return Finding(what=what, found=look())
    except (ImportError, OSError):
        return Finding(what=what, found=None, mend=mend)


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*: (.+)$", text, flags=re.MULTILINE)
    flags = re.search(r"^flags\s*: (.+)$", text, flags=re.MULTILINE)
    words = set(flags.group(1).split()) if flags else set()
    fast = dict.fromkeys(INSTRUCTIONS[word] for word in INSTRUCTIONS if word in words)
    return f"{name.group(1) if name else platform.machine()} ({', '.join(fast) or 'no vector extensions known here'})"


def _gpu() -> str | None:
    from polypstream.realtime.tensorrt.cuda import find_device

    try:
        device = find_device()
    except PolypstreamError:
        return None
    return f"{device.name}, {device.compute_capability}, {device.memory_bytes / 2**30:.0f} GiB"


def _encoders() -> str:
    import av

    wanted = ("libx264", "libx265", "ffv1", "h264_nvenc", "hevc_nvenc")
    return f"av {av.__version__}: {', '.join(name for name in wanted if name in av.codecs_available)}"


def _onnxruntime() -> str:
    import onnxruntime

    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    return f"{onnxruntime.__version__}: {', '.join(providers)}"
