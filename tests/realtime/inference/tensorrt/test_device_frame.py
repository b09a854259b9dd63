"""Frames on the GPU as DLPack and `__cuda_array_interface__` describe them, parsed by cuda-core, without a GPU.

DLPack needs no driver. The array interface asks the driver where an address is: a stub answers, in another process.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from polypstream.errors import BackendError
from polypstream.realtime.cuda import Device
from polypstream.realtime.inference.tensorrt.device_frame import DeviceFrame, device_frame
from tests.realtime.inference.tensorrt.exporters import CUDA, FLOAT, HOST, READ_ONLY, DLPackArray

pytest.importorskip("cuda.core", reason="cuda-core is not installed: pip install 'polypstream[rtx]'")
ROOT = Path(__file__).parents[4]
DEVICE = Device(index=0, name="Stand-in 4090", compute_capability="sm89", memory_bytes=1)
SHAPE = (48, 64, 3)
ROW = 64 * 3
TAKE_ALL = """
import json, sys
from polypstream.errors import BackendError
from polypstream.realtime.cuda import Device
from polypstream.realtime.inference.tensorrt.device_frame import device_frame

device = Device(index=0, name="Stand-in 4090", compute_capability="sm89", memory_bytes=1)

class Array:
    def __init__(self, interface):
        shape, strides = interface["shape"], interface["strides"]
        self.__cuda_array_interface__ = {
            **interface, "shape": tuple(shape), "strides": strides and tuple(strides), "data": tuple(interface["data"])
        }

for interface in json.loads(sys.argv[1]):
    try:
        frame = device_frame(Array(interface), height=48, width=64, device=device, stream=7)
        print("taken", frame.address, frame.batch, frame.is_single, flush=True)
    except BackendError as error:
        print("refused", error, flush=True)
"""


def taken(frame: object) -> DeviceFrame:
    return device_frame(frame, height=48, width=64, device=DEVICE, stream=7)


@pytest.mark.parametrize("is_versioned", [True, False])
def test_dlpack_of_version_1_and_before_is_taken_in_place(is_versioned: bool) -> None:
    array = DLPackArray(shape=SHAPE, address=4096, byte_offset=64, is_versioned=is_versioned)
    frame = taken(array)
    assert (frame.address, frame.batch, frame.is_single) == (4160, 1, True)
    assert array.streams == [7], "the producer makes our stream wait, once"
    batch = taken(DLPackArray(shape=(5, *SHAPE), strides=(48 * ROW, ROW, 3, 1), is_versioned=is_versioned))
    assert (batch.batch, batch.is_single) == (5, False)


def test_the_stride_of_an_axis_of_one_does_not_matter() -> None:
    frame = taken(DLPackArray(shape=(1, *SHAPE), strides=(0, ROW, 3, 1)))
    assert (frame.batch, frame.is_single) == (1, False)


def test_a_read_only_frame_is_taken_as_it_is_not_written() -> None:
    assert taken(DLPackArray(shape=SHAPE, flags=READ_ONLY)).address == 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strides": (2 * ROW, 3, 1)}, "not contiguous"),
        ({"strides": (-ROW, 3, 1)}, "not contiguous"),
        ({"strides": (1, 48, 48 * 64)}, "not contiguous"),
        ({"shape": (3, 48, 64)}, r"received uint8 \(3, 48, 64\)"),
        ({"shape": (0, *SHAPE)}, "received uint8"),
        ({"shape": (1, 1, *SHAPE)}, "received uint8"),
        ({"dtype": (FLOAT, 16)}, "received float16"),
        ({"device": (CUDA, 1)}, "is on GPU 1, the network on GPU 0"),
        ({"device": (HOST, 0)}, "pass host arrays to segment"),
        ({"address": 0}, "has the address 0"),
    ],
)
def test_dlpack_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        taken(DLPackArray(**{"shape": SHAPE, **changes}))
    assert "\n" not in str(caught.value)


def test_a_host_array_is_not_asked_for_its_memory() -> None:
    array = DLPackArray(shape=SHAPE, device=(HOST, 0))
    with pytest.raises(BackendError, match="host memory"):
        taken(array)
    assert array.streams == []
    with pytest.raises(BackendError, match="pass host arrays to segment"):
        taken(np.zeros(SHAPE, np.uint8))


def test_something_else_is_refused() -> None:
    with pytest.raises(BackendError, match="a list is not a GPU array"):
        taken([1, 2, 3])


def outcomes(driver: Path, *changes: dict[str, Any]) -> list[str]:
    """What the driver was asked and what became of each frame, a line each."""
    plain = {"shape": SHAPE, "typestr": "|u1", "data": (4096, False), "version": 3, "strides": None, "stream": None}
    done = subprocess.run(
        [sys.executable, "-c", TAKE_ALL, json.dumps([{**plain, **each} for each in changes])],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_array_interface_is_taken_in_place_after_the_work_on_its_stream(stub_driver: Path) -> None:
    found = outcomes(
        stub_driver,
        {},
        {"stream": 5},
        {"data": (8192, True)},
        {"shape": (2, *SHAPE), "strides": (48 * ROW, ROW, 3, 1)},
    )
    assert found == [
        "taken 4096 1 True",
        *("record 5", "wait 7", "taken 4096 1 True"),
        "taken 8192 1 True",
        "taken 4096 2 False",
    ]


def test_an_array_interface_that_does_not_fit_is_refused(stub_driver: Path) -> None:
    refused = {
        "only CUDA Array Interface v3": {"version": 2},
        "its description is not valid": {"stream": 0},
        "not contiguous": {"strides": (2 * ROW, 3, 1)},
        "received float16": {"typestr": "<f2"},
        "received uint8 (48, 64)": {"shape": (48, 64)},
        "is on GPU 1, the network on GPU 0": {"data": (1 << 20, False)},
        "has the address 0": {"data": (0, False)},
    }
    found = outcomes(stub_driver, *refused.values())
    assert len(found) == len(refused)
    for reason, line in zip(refused, found, strict=True):
        assert line.startswith("refused"), line
        assert reason in line
