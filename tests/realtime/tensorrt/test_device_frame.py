"""What a frame on the GPU must be: the protocols' answers are made up here, the real arrays are in `test_gpu`."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from polypstream.errors import BackendError
from polypstream.realtime.tensorrt import device_frame as module
from polypstream.realtime.tensorrt.cuda import Device
from polypstream.realtime.tensorrt.device_frame import DeviceFrame, device_frame

DEVICE = Device(index=0, name="Stand-in 4090", compute_capability="sm89", memory_bytes=1)
SHAPE = (48, 64, 3)


class Frame:
    """Something with the interface; its content is made up by `view`."""

    __cuda_array_interface__ = None


def taken(frame: object) -> DeviceFrame:
    return device_frame(frame, height=48, width=64, device=DEVICE, stream=7)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Sets what the frame turns out to be; gives the streams that were to wait for it."""

    def be(**changes: Any) -> list[int]:
        streams: list[int] = []
        facts = {"ptr": 4096, "shape": SHAPE, "strides": None, "dtype": np.dtype("uint8"), "device_id": 0}
        view = SimpleNamespace(**{**facts, "is_device_accessible": True, **changes})

        def look(_frame: object, stream: int) -> Any:
            streams.append(stream)
            return view

        monkeypatch.setattr(module, "_view", look)
        return streams

    return be


def test_a_single_frame_and_a_batch(seen: Callable[..., list[int]]) -> None:
    streams = seen()
    frame = taken(Frame())
    assert (frame.address, frame.batch, frame.is_single) == (4096, 1, True)
    assert streams == [7], "our stream waits for whoever made the frame"
    seen(shape=(5, *SHAPE), strides=(48 * 64 * 3, 64 * 3, 3, 1))
    frame = taken(Frame())
    assert (frame.batch, frame.is_single) == (5, False)
    seen(shape=(1, *SHAPE), strides=(0, 64 * 3, 3, 1))
    assert not taken(Frame()).is_single, "the stride of an axis of one does not matter"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"shape": (48, 64)}, r"received uint8 \(48, 64\)"),
        ({"shape": (3, 48, 64)}, r"received uint8 \(3, 48, 64\)"),
        ({"shape": (0, *SHAPE)}, "received uint8"),
        ({"shape": (1, 1, *SHAPE)}, "received uint8"),
        ({"dtype": np.dtype("float16")}, "received float16"),
        ({"strides": (1, 48, 48 * 64)}, "make it contiguous"),
        ({"strides": (2 * 64 * 3, 3, 1)}, "make it contiguous"),
        ({"strides": (-64 * 3, 3, 1)}, "make it contiguous"),
        ({"device_id": 1}, "lies on GPU 1, the network on GPU 0"),
        ({"is_device_accessible": False}, "hand host arrays to segment"),
    ],
)
def test_what_cannot_be_taken_says_why(seen: Callable[..., list[int]], facts: dict[str, Any], message: str) -> None:
    seen(**facts)
    with pytest.raises(BackendError, match=message) as caught:
        taken(Frame())
    assert "\n" not in str(caught.value)


def test_a_host_array_is_refused() -> None:
    with pytest.raises(BackendError, match="hand host arrays to segment"):
        taken(np.zeros(SHAPE, np.uint8))


def test_something_else_is_refused() -> None:
    with pytest.raises(BackendError, match="a list is no GPU array"):
        taken([1, 2, 3])


def test_an_interface_that_lies_is_one_line() -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install 'polypstream[rtx]'")

    class Liar:
        __cuda_array_interface__ = {"version": 0}  # noqa: RUF012

    with pytest.raises(BackendError, match="Liar cannot be taken as a GPU array"):
        taken(Liar())
