import onnxruntime as ort
import pytest

from polypstream.onnxruntime_options import SPIN_US, session_options


def spinning(options: ort.SessionOptions, key: str) -> str | None:
    try:
        value: str = options.get_session_config_entry(f"session.intra_op.{key}")
    except RuntimeError:
        return None
    return value


@pytest.mark.parametrize(("version", "time", "allowed"), [("1.26.0", str(SPIN_US), None), ("1.9.1", None, "0")])
def test_a_thread_never_spins_without_end(
    monkeypatch: pytest.MonkeyPatch, version: str, time: str | None, allowed: str | None
) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    options = session_options(threads=3)
    assert options.intra_op_num_threads == 3
    assert (spinning(options, "spin_duration_us"), spinning(options, "allow_spinning")) == (time, allowed)
