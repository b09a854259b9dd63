from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

has_kernels: bool

_Part = tuple[float, float, float, float]
_Style = tuple[float, float, float, float]
_Size = tuple[int, int]

def device_count() -> int: ...
def preprocess(
    frames: Sequence[Sequence[NDArray[Any]]],
    format: str,
    size: _Size,
    part: _Part,
    out: NDArray[np.uint8],
    matrix: str,
    full_range: bool,
) -> None: ...
def mark(
    planes: Sequence[tuple[Any, ...]],
    size: _Size,
    probability: NDArray[np.float32],
    part: _Part,
    threshold: float,
    style: _Style,
) -> None: ...
def draw(planes: Sequence[tuple[Any, ...]], size: _Size, contour: NDArray[np.float32], style: _Style) -> None: ...

class DeviceBuffer:
    def __init__(self, bytes: int) -> None: ...
    @property
    def address(self) -> int: ...
    @property
    def size(self) -> int: ...
    def upload(self, array: NDArray[Any], stream: int) -> None: ...
    def download(self, array: NDArray[Any], stream: int) -> None: ...

class Stream:
    def __init__(self) -> None: ...
    @property
    def handle(self) -> int: ...
    def wait(self) -> None: ...

class DevicePreprocessor:
    def __init__(
        self, format: str, size: _Size, part: _Part, out_size: _Size, matrix: str, full_range: bool, stream: int
    ) -> None: ...
    def run(self, frames: Sequence[Sequence[tuple[int, int]]], out: int, stream: int) -> None: ...

def mark_on_device(
    planes: Sequence[tuple[int, int, int, int, int, int, int, float, float]],
    size: _Size,
    probability: int,
    probability_size: _Size,
    part: _Part,
    threshold: float,
    style: _Style,
    stream: int,
) -> None: ...
