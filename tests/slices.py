"""Time slice of the calling thread, as the kernel states it."""

import re
import threading
from pathlib import Path


def _statement() -> str:
    try:
        return Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    except OSError:
        return ""


HAS_SLICES = "se.slice" in _statement()


def slice_s() -> float:
    """Time slice in seconds."""
    found = re.search(r"^se\.slice +: +(\d+)$", _statement(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1e-9
