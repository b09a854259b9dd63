"""Time slice of the calling thread, as the kernel states it."""

import platform
import re
import threading
from pathlib import Path

FIRST_KERNEL = (6, 12)
"""Earlier ones state a slice, but it cannot be requested."""


def _statement() -> str:
    try:
        return Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    except OSError:
        return ""


def _kernel() -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return (int(found[1]), int(found[2])) if found else (0, 0)


HAS_SLICES = platform.system() == "Linux" and _kernel() >= FIRST_KERNEL and "se.slice" in _statement()


def slice_s() -> float:
    """Time slice in seconds."""
    found = re.search(r"^se\.slice +: +(\d+)$", _statement(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1e-9
