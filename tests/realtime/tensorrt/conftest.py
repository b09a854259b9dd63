"""A machine with a GPU that is not there, and small models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.realtime.tensorrt import builder, cache, cuda, segmenter
from polypstream.realtime.tensorrt.adapter import TensorRt
from tests.models import SIZE, write_green_finder
from tests.realtime.tensorrt.fakes import FakeCuda, fake_tensorrt, green_finder

CUDA_MISSING = "cuda-bindings is not installed: pip install 'polypstream[rtx]'"
RTX_MISSING = "TensorRT-RTX is not installed: pip install 'polypstream[rtx]'"


@pytest.fixture
def rtx() -> Any:
    """The real TensorRT-RTX, which builds without a GPU."""
    return pytest.importorskip("tensorrt_rtx", reason=RTX_MISSING)


@pytest.fixture
def green(tmp_path: Path) -> Path:
    """A tiny ONNX model."""
    return write_green_finder(tmp_path / "tiny.onnx")


@pytest.fixture
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """CUDA in host memory, in place of cuda-bindings."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "_runtime", lambda: fake)
    return fake


@pytest.fixture
def refuse() -> set[str]:
    """TensorRT's calls that are to fail."""
    return set()


@pytest.fixture
def fake_trt(fake_cuda: FakeCuda, refuse: set[str], monkeypatch: pytest.MonkeyPatch) -> TensorRt:
    """A TensorRT with one network, in place of the installed one."""
    fake = fake_tensorrt(green_finder(fake_cuda), refuse=refuse)
    for module in (builder, cache, segmenter):
        monkeypatch.setattr(module, "load_tensorrt", lambda flavour=None: fake)
    return fake


@pytest.fixture
def pictures() -> Callable[[int], NDArray[np.uint8]]:
    """That many pictures of noise, the same each time."""

    def make(count: int) -> NDArray[np.uint8]:
        return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)

    return make
