"""How every stage has ONNX Runtime work on a CPU, so that what is measured in one holds in another."""

import onnxruntime as ort

SPIN_US = 50
"""How long a thread that waits for another one keeps its core before it sleeps.

A wait between two layers is shorter than this, and to be woken would cost more; between two frames the core goes to
decoding, drawing and encoding. Measured on two cores, 352 by 352 pixels in 8 bits: 11.7 ms a frame in place of 13.7, at
the same processor time.
"""
_KNOWS_SPIN_TIME = (1, 26)
"""Older releases spin without end or not at all."""


def session_options(*, threads: int | None = None) -> ort.SessionOptions:
    """Options of a session that keeps its remarks to itself: what goes wrong is raised. None is a thread a core."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if tuple(map(int, ort.__version__.split(".")[:2])) >= _KNOWS_SPIN_TIME:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
    else:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if threads is not None:
        options.intra_op_num_threads = threads
    return options
