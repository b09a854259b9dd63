"""The networks that are measured, and what one inference must at least compute and move."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2

from benchmarks.gpu.progress import Result, Unavailable
from polypstream.models import default_model
from polypstream.synthetic import SyntheticClip, frames_of

ROOT = Path(__file__).parents[2]
SHIPPED, EXACT = "shipped", "exact ResUNet++"
CALIBRATION_IMAGES = 16


def network_file(name: str, work: Path) -> Path:
    """Return the ONNX file of a network in half precision; the exact ResUNet++ is exported on the first call.

    Raises:
        Unavailable: It cannot be exported here.
    """
    if name == SHIPPED:
        return default_model("tensorrt")
    path = work / "resunetpp-fp16.onnx"
    if path.exists():
        return path
    weights, images = ROOT / "weights" / "resunetpp.keras", work / "calibration"
    if not weights.exists():
        raise Unavailable(f"{weights} is missing; it is part of the repository")
    images.mkdir(parents=True, exist_ok=True)
    clip = SyntheticClip(width=352, height=352, fps=2, seconds=CALIBRATION_IMAGES / 2)
    for index, frame in enumerate(islice(frames_of(clip), CALIBRATION_IMAGES)):
        cv2.imwrite(str(images / f"{index:02}.png"), cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))
    command = [sys.executable, "-m", "polypstream", "export", str(weights), "--output", str(path)]
    command += ["--precision", "fp16", "--calibration", str(images), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        raise Unavailable(f"the export failed: {reason}; or give an exported file with --network")
    return path


def cost(path: Path) -> Result:
    """Count the operations and bytes of one inference of one image.

    `least_bytes` is what no implementation avoids: weights, input and output, once each. `layer_bytes` adds the inputs
    and outputs of convolutions and matrix products, that is, everything else fused into these.

    Raises:
        Unavailable: The package `onnx` is missing.
    """
    try:
        import onnx

        from polypstream.export.graph import Lookup, gmac, macs, with_shapes
    except ImportError as error:
        raise Unavailable(f"counting operations needs polypstream[export]: {error}") from error
    model = onnx.load(path)
    graph = with_shapes(model).graph
    look = Lookup(graph)
    values = {value.name: value for value in (*graph.input, *graph.value_info, *graph.output)}

    def size(name: str) -> int:
        tensor = values[name].type.tensor_type if name in values else None
        if tensor is None:
            return 0
        count = 1
        for side in tensor.shape.dim:
            count *= max(1, side.dim_value)
        return int(count * onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize)

    weights = sum(len(onnx.numpy_helper.to_array(weight).tobytes()) for weight in graph.initializer)
    ends = sum(size(value.name) for value in (*graph.input, *graph.output))
    layers = [node for node in graph.node if macs(node, look)]
    inner = sum(size(node.input[0]) + size(node.output[0]) for node in layers)
    return {
        "file": path.name,
        "gflop": 2 * gmac(model),
        "weight_mb": weights / 1e6,
        "least_bytes": weights + ends,
        "layer_bytes": weights + ends + inner,
    }
