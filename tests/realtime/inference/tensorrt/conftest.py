"""A simulated machine with a GPU, and small models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from polypstream.realtime import cuda
from polypstream.realtime.inference.tensorrt import builder, cache, segmenter
from polypstream.realtime.inference.tensorrt.adapter import TensorRt
from tests.models import SIZE, write_green_finder
from tests.realtime.inference.tensorrt.fakes import FakeCuda, fake_tensorrt, green_finder

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
    """CUDA in host memory, in place of cuda-bindings and cuda-core."""
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "imported", fake.module)
    return fake


@pytest.fixture
def refuse() -> set[str]:
    """TensorRT calls that fail."""
    return set()


@pytest.fixture
def fake_trt(fake_cuda: FakeCuda, refuse: set[str], monkeypatch: pytest.MonkeyPatch) -> TensorRt:
    """A TensorRT with one network, in place of the installed one."""
    fake = fake_tensorrt(green_finder(fake_cuda), refuse=refuse)
    for module in (builder, cache, segmenter):
        monkeypatch.setattr(module, "load_tensorrt", lambda flavor=None: fake)
    return fake


@pytest.fixture
def pictures() -> Callable[[int], NDArray[np.uint8]]:
    """`count` reproducible images of noise."""

    def make(count: int) -> NDArray[np.uint8]:
        return np.random.default_rng(count).integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)

    return make
