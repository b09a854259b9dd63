"""The network in ONNX Runtime with NVIDIA's TensorRT-RTX plugin (`pip install onnxruntime-ep-nv-tensorrt-rtx`).

The plugin brings its own TensorRT-RTX, so this is a process of its own: `python -m benchmarks.gpu.plugin MODEL SECONDS`
prints percentiles as JSON.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from benchmarks.gpu.progress import Result, Unavailable
from benchmarks.gpu.timing import samples_of, spread_ms
from polypstream.onnxruntime_options import session_options

PACKAGE = "onnxruntime_ep_nv_tensorrt_rtx"
LIMIT_S = 120


def plugin_times(model: Path, *, seconds: float) -> Result:
    """Time inference from host memory in another process; raises `Unavailable` with the reason if that fails."""
    command = [sys.executable, "-m", __name__, str(model), str(seconds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the plugin took more than {LIMIT_S} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise Unavailable(f"ONNX Runtime's TensorRT-RTX plugin: {reason}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure, and print JSON."""
    model, seconds = Path(sys.argv[1]), float(sys.argv[2])
    try:
        plugin = importlib.import_module(PACKAGE)
    except ImportError:
        raise SystemExit(f"{PACKAGE.replace('_', '-')} is not installed") from None
    runtime: Any = ort
    runtime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    devices = [each for each in runtime.get_ep_devices() if each.ep_name == plugin.get_ep_name()]
    if not devices:
        raise SystemExit("it finds no GPU that it knows")
    options = session_options()
    options.add_provider_for_devices(devices[:1], {})
    session = runtime.InferenceSession(str(model), sess_options=options)
    (source,) = session.get_inputs()
    image = np.zeros([side if isinstance(side, int) else 1 for side in source.shape], np.uint8)
    times = spread_ms(samples_of(lambda: session.run(None, {source.name: image}), seconds=seconds))
    print(json.dumps({**times, "providers": session.get_providers(), "plugin": plugin.__version__}))


if __name__ == "__main__":
    main()
