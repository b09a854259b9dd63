"""ONNX Runtime session options on a CPU, shared by all stages so that measurements are comparable."""

import onnxruntime as ort

SPIN_US = 50
"""Time in microseconds for which a waiting thread spins before it sleeps.

Waits between two layers are shorter, and waking up would take longer; between two frames, the core becomes available
for decoding, drawing and encoding. On two cores with an 8-bit model of 352x352 pixels: 11.7 ms per frame instead of
13.7, at the same CPU time.
"""
_KNOWS_SPIN_TIME = (1, 26)
"""Older releases spin indefinitely or not at all."""


def session_options(*, threads: int | None = None) -> ort.SessionOptions:
    """Options of a session without log output. `threads` is the number of intra-op threads; None: one per core."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if tuple(map(int, ort.__version__.split(".")[:2])) >= _KNOWS_SPIN_TIME:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
