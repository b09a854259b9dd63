"""What an ONNX file says of itself, read from its bytes: contract, input, output, checksum.

The runtime builds engines on machines that have no `onnx` package; the few fields needed here are quickly read from
the protobuf encoding (https://protobuf.dev/programming-guides/encoding, field numbers from onnx.proto).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polypstream.contract import ModelContract
from polypstream.errors import ModelError

_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME, _TENSOR_LOCATION = 8, 14
_EXTERNAL = 1
_TYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}
"""ONNX element types that may turn up here."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input or output."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    """None where a side is open."""


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """One of our models: uint8 RGB (n, height, width, 3) in, float32 probability (n, height, width, 1) out."""

    path: Path
    data: bytes = field(repr=False)
    sha256: str
    contract: ModelContract
    input: Tensor
    output: Tensor

    @property
    def has_open_batch(self) -> bool:
        """Whether it takes any number of pictures at once; otherwise one."""
        return self.input.shape[0] is None


def read_onnx(path: Path) -> OnnxFile:
    """Read and check a file; raises `ModelError` where it is missing, damaged or not one of ours."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); give the path of an ONNX file") from None
    try:
        metadata, inputs, outputs = _contents(memoryview(data))
        contract = ModelContract.from_metadata(metadata)
        _check_signature(contract, inputs, outputs)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None
    except (LookupError, ValueError):
        raise ModelError(f"{path} is no ONNX file, or a damaged one; export it again") from None
    return OnnxFile(
        path=path,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        contract=contract,
        input=inputs[0],
        output=outputs[0],
    )


def _check_signature(contract: ModelContract, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    batch = inputs[0].shape[:1] if inputs else ()
    size = (*batch, contract.height, contract.width)
    actual = [(one.dtype, one.shape) for one in (*inputs, *outputs)]
    if batch not in ((1,), (None,)) or actual != [("uint8", (*size, 3)), ("float32", (*size, 1))]:
        raise ModelError(f"the graph takes and gives {actual}, its contract says otherwise; export it again")


def _contents(model: memoryview) -> tuple[dict[str, str], list[Tensor], list[Tensor]]:
    metadata, graph = {}, None
    for number, value in _fields(model):
        if number == _MODEL_METADATA:
            entry = dict(_fields(_bytes(value)))
            metadata[_text(entry[1])] = _text(entry.get(2, memoryview(b"")))
        elif number == _MODEL_GRAPH:
            graph = _bytes(value)
    if graph is None:
        raise ValueError
    weights: set[str] = set()
    inputs, outputs = [], []
    for number, value in _fields(graph):
        if number == _GRAPH_INITIALIZER:
            weights.add(_weight_name(_bytes(value)))
        elif number == _GRAPH_INPUT:
            inputs.append(_tensor(_bytes(value)))
        elif number == _GRAPH_OUTPUT:
            outputs.append(_tensor(_bytes(value)))
    return metadata, [one for one in inputs if one.name not in weights], outputs


def _weight_name(weight: memoryview) -> str:
    name = ""
    for number, value in _fields(weight):
        if number == _TENSOR_NAME:
            name = _text(value)
        elif number == _TENSOR_LOCATION and value == _EXTERNAL:
            raise ModelError("the ONNX file keeps its weights in another file; save it as one file")
    return name


def _tensor(value_info: memoryview) -> Tensor:
    info = dict(_fields(value_info))
    kind = dict(_fields(_bytes(dict(_fields(_bytes(info[2])))[1])))
    shape = [dict(_fields(_bytes(side))) for _, side in _fields(_bytes(kind.get(2, memoryview(b""))))]
    sides = (side.get(1) for side in shape)
    return Tensor(
        name=_text(info[1]),
        dtype=_TYPES.get(_number(kind[1]), f"ONNX type {kind[1]!r}"),
        shape=tuple(side if isinstance(side, int) else None for side in sides),
    )


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field of a protobuf message; `IndexError` or `ValueError` where it is none."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"protobuf has no wire type {wire_type}")
        end = position + size
        if end > len(message):
            raise ValueError("the file ends too early")
        yield number, message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a message stands where a number belongs")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode()
